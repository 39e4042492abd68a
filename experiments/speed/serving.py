"""What a request costs in vLLM, pruned and unpruned, with 1, 8 and 32 of them at a time.

    python experiments/speed/serving.py [model=tiny_llava pruner=visionzip budget=64 position=pesp] [--requests 32]

In an environment with vLLM (docs/serving.md). The engines run in this process, one after the other and in turn
(``--repeats``), without caches of prompts or pictures, on pictures that neither has seen. Medians of seconds a request,
by the clock and of this process's CPU, and the unpruned one's as a multiple of the pruned one's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import defaultdict

from nuwa.benchmarks.scenes import Scenes
from nuwa.overrides import compose_job
from nuwa.serve.engine import Engine, engine_once
from nuwa.serve.job import check_vllm, served_job

DEFAULT = ["model=tiny_llava", "pruner=visionzip", "budget=64", "position=pesp"]
PLAIN = {"enforce_eager": True, "enable_prefix_caching": False, "mm_processor_cache_gb": 0, "max_num_seqs": 32}


def seconds(engine: Engine, at_once: int, requests: int, seed: int) -> tuple[float, float]:
    """Seconds a request, by the clock and of the CPU."""
    benchmark = Scenes(samples=requests, seed=seed)
    prompts = engine.prompts([benchmark[number] for number in range(requests)])
    clock, cpu = time.perf_counter(), time.process_time()
    for first in range(0, requests, at_once):
        engine.answer(prompts[first : first + at_once], 32)
    return (time.perf_counter() - clock) / requests, (time.process_time() - cpu) / requests


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", default=DEFAULT)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    check_vllm()
    pruned = compose_job(options.overrides)
    unpruned = compose_job([*options.overrides, "pruner=none", "budget=full"])
    found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for repeat in range(options.repeats):
        for name, cfg in (("unpruned", unpruned), ("pruned", pruned)):
            engine = engine_once(served_job(cfg), PLAIN)
            seconds(engine, 8, 8, seed=999)
            for at_once in options.at_once:
                found[name, at_once].append(seconds(engine, at_once, options.requests, seed=100 * repeat + at_once))
    print(
        "| at a time | unpruned, s | pruned, s | gain | unpruned, CPU s | pruned, CPU s | gain |\n" + "|---" * 7 + "|"
    )
    for at_once in options.at_once:
        cells = [str(at_once)]
        for clock in range(2):
            whole, cut = (statistics.median(t[clock] for t in found[name, at_once]) for name in ("unpruned", "pruned"))
            cells += [f"{whole:.3f}", f"{cut:.3f}", f"{whole / cut:.2f}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

"""One part of what a GPU shows; `on_gpu.sh` runs them all, each in a process with a time limit.

    python experiments/speed/on_gpu.py PART --out FOLDER [--small]

Real shapes with random weights in bfloat16. ``--small`` rehearses every line of it on toy shapes, on any machine. The
part's JSON is written again after every step, so that a part that runs out of time leaves what it had.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from device_laws import laws
from overhead import RATIOS, quartiles, rounds, seven_billion, small_model
from throughput import compose
from torch.profiler import ProfilerActivity, profile

import nuwa
from nuwa.config import register
from nuwa.evaluation.check import check
from nuwa.evaluation.model_cache import load_once
from nuwa.evaluation.speed import probe_speed
from nuwa.pruning.flops import llm_flops
from nuwa.report.tables.formats import markdown_text
from nuwa.schema import ProbeConfig

METHODS = ("nuwa", "visionzip", "fastv", "divprune", "sparsevlm")
VIDEO_METHODS = ("flashvid", "fastvid", "visionzip", "random", "fastv")
TINY_LLM = ("model.layers=16", "model.hidden_size=64", "model.intermediate_size=128", "model.heads=4")
CUDA = torch.cuda.is_available()


class Part:
    """Where a part writes: ``<name>.json`` anew after every step, and its table at the end of ``report.md``."""

    def __init__(self, name: str, out: Path, small: bool) -> None:
        self.name, self.out, self.small = name, out, small
        self.rows: list[dict[str, Any]] = []
        device = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} thread(s)"
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        self.place = {"device": device, "torch": torch.__version__, "date": when, "small": small}

    def write(self, rows: Any) -> None:
        """The part so far."""
        text = json.dumps({"part": self.name, **self.place, "rows": rows}, indent=1)
        (self.out / f"{self.name}.json").write_text(text + "\n")

    def add(self, row: dict[str, Any]) -> None:
        """One more row."""
        self.rows.append(row)
        self.write(self.rows)

    def report(self, rows: Sequence[dict[str, str]]) -> None:
        """The part's table, printed and added to the report."""
        where = ", ".join(str(value) for value in self.place.values() if value not in (True, False))
        text = f"## {self.name}\n{where}{', rehearsal' if self.small else ''}\n\n"
        text += markdown_text(list(rows), list(rows[0]), []) + "\n\n"
        print(text)
        with (self.out / "report.md").open("a") as file:
            file.write(text)


def run_laws(part: Part) -> None:
    """Keep-all, rows alone, cached, the choice of the CPU: by family, method, dtype and kernel."""
    for row in laws(small=part.small):
        part.add(row)
    part.report(part.rows)


def measure_ceilings(small: bool) -> dict[str, float]:
    """FLOPs a second of a large half-precision product, and bytes a second, read and written, of a large copy."""
    device, side, size = ("cuda", 8192, 2**31) if CUDA and not small else ("cuda" if CUDA else "cpu", 256, 2**20)
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in "ab")
    source = torch.randn(size // 2, device=device).to(torch.bfloat16)
    target = torch.empty_like(source)

    def seconds(work, repeats: int = 10) -> float:
        for repeat in range(repeats + 3):
            if repeat == 3:
                wait()
                start = time.perf_counter()
            work()
        wait()
        return (time.perf_counter() - start) / repeats

    product, copy = seconds(lambda: left @ right), seconds(lambda: target.copy_(source))
    return {"flops": 2 * side**3 / product, "bytes": 2 * source.numel() * 2 / copy}


def wait() -> None:
    """Until the device has done what it was given."""
    if CUDA:
        torch.cuda.synchronize()


def run_ceilings(part: Part) -> None:
    """What the device can do at best."""
    found = measure_ceilings(part.small)
    part.write(found)
    part.report(
        [{"bf16 product, TFLOP/s": f"{found['flops'] / 1e12:.1f}", "copy, GB/s": f"{found['bytes'] / 1e9:.0f}"}]
    )


def probe(part: Part, methods: Iterable[str], batches: list[int], *overrides: str) -> None:
    """The speed probe of every method on one model, beside the floor that the device's ceilings set for a prefill."""
    ceiling = measure_ceilings(part.small)
    options = ProbeConfig(
        speed=True, batch_sizes=batches, new_tokens=2 if part.small else 8, warmup=1, repeats=2 if part.small else 5
    )
    for method in methods:
        cfg = compose("unused", f"pruner={method}", *overrides)
        parts = check(cfg)
        loaded = load_once(parts.model)
        shape = nuwa.models.adapter_for(loaded.model).shape
        weights = sum(weight.numel() * weight.element_size() for weight in loaded.model.parameters())
        for entry in probe_speed(loaded, parts.benchmark, parts.pruner, cfg.position.strategy, options):
            flops = entry["batch"] * llm_flops([entry["prompt_tokens"]] * shape.layers, shape)
            pruned = flops / entry.get("theoretical_prefill_speedup", 1)
            floor = 1000 * max(pruned / ceiling["flops"], weights / ceiling["bytes"])
            part.add({"method": method, "overrides": list(overrides), "prefill_floor_ms": floor, **entry})


def times(entry: dict[str, Any]) -> dict[str, str]:
    """The cells of one entry of `probe`."""
    variants = entry["variants"]
    pruned, vanilla = variants.get("pruned", variants["vanilla"]), variants["vanilla"]

    def both(name: str, digits: int = 1) -> str:
        return f"{vanilla[name]['median']:.{digits}f} / {pruned[name]['median']:.{digits}f}" if name in vanilla else ""

    return {
        "method": entry["method"],
        "batch": str(entry["batch"]),
        "prompt": str(entry["prompt_tokens"]),
        "encode, ms": both("encode_ms"),
        "compress, ms": f"{entry['compression_ms']['median']:.1f}",
        "prefill, ms": both("prefill_ms"),
        "TTFT, ms": both("ttft_ms"),
        "decode, ms": both("decode_ms_per_token", 2),
        "peak, MB": both("peak_memory_mb", 0),
        "KV, MB": both("kv_mb", 0),
        "promised": f"{entry['theoretical_prefill_speedup']:.2f}",
        "reached": f"{entry['reached']:.0%}",
        "of the roofline": f"{entry['prefill_floor_ms'] / pruned['prefill_ms']['median']:.0%}",
    }


def run_llava(part: Part) -> None:
    """LLaVA-1.5-7B's shapes, 64 of 576 tokens, batch 1, 8 and 32; unpruned / pruned."""
    sizes = TINY_LLM if part.small else ()
    model = ("model=llava_1_5_random",) if part.small else ("model=llava_1_5_7b_random", "model.dtype=bfloat16")
    methods, batches = (("nuwa", "fastv"), [1, 2]) if part.small else (METHODS, [1, 8, 32])
    probe(part, methods, batches, *model, *sizes, "budget=avg64")
    part.report([times(entry) for entry in part.rows])


def run_qwen(part: Part) -> None:
    """Qwen2.5-VL-7B's shapes at two resolutions, a quarter of the tokens; unpruned / pruned."""
    sizes = TINY_LLM if part.small else ()
    model = ("model=qwen2_5_vl_random",) if part.small else ("model=qwen2_5_vl_7b_random", "model.dtype=bfloat16")
    sides, batches = ((112, 168), [1]) if part.small else ((560, 1120), [1, 8])
    for side in sides:
        chosen = (*model, *sizes, "budget=ratio25", f"dataset.picture_side={side}")
        probe(part, ("nuwa", "visionzip", "fastv")[: 1 if part.small else 3], batches, *chosen)
    part.report([times(entry) for entry in part.rows])


def run_video(part: Part) -> None:
    """LLaVA-OneVision-7B's shapes, 32 frames, a tenth and a quarter of the tokens; unpruned / pruned."""
    sizes = TINY_LLM if part.small else ()
    model = (
        ("model=llava_onevision_random",) if part.small else ("model=llava_onevision_7b_random", "model.dtype=bfloat16")
    )
    clips, methods = ("dataset=clips", f"dataset.repeats={1 if part.small else 4}"), VIDEO_METHODS
    for budget in ("ratio10", "ratio25"):
        probe(part, methods[: 2 if part.small else None], [1], *model, *sizes, *clips, f"budget={budget}")
    part.report([{"budget": entry["overrides"][-1].partition("=")[2], **times(entry)} for entry in part.rows])


def run_overhead(part: Part) -> None:
    """A pruned forward over a plain one of its length, and an idle session over none."""
    model = small_model() if part.small else seven_billion()
    seconds = rounds(model, warmup=1 if part.small else 3, repeats=2 if part.small else 15)
    part.write(seconds)
    part.report([{"ratio": name, "median (quartiles)": quartiles(seconds, *pair)} for name, pair in RATIOS.items()])


def run_profile(part: Part) -> None:
    """The operations on which a pruned prefill of batch 1 spends most time."""
    overrides = (
        ("model=llava_1_5_random", *TINY_LLM) if part.small else ("model=llava_1_5_7b_random", "model.dtype=bfloat16")
    )
    parts = check(compose("unused", "pruner=nuwa", "budget=avg64", *overrides))
    loaded = load_once(parts.model)
    inputs = loaded.encode([parts.benchmark[0]])
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if CUDA else [])
    with torch.no_grad(), nuwa.prune(loaded.model, parts.pruner):
        for _ in range(2):
            loaded.model(**inputs, logits_to_keep=1)
        wait()
        with profile(activities=activities) as seen:
            loaded.model(**inputs, logits_to_keep=1)
            wait()
    key = "self_device_time_total" if CUDA else "self_cpu_time_total"
    spent = sorted(seen.key_averages(), key=lambda event: getattr(event, key), reverse=True)[:25]
    rows = [
        {
            "operation": event.key[:70],
            "calls": str(event.count),
            "host, ms": f"{event.self_cpu_time_total / 1000:.2f}",
            "device, ms": f"{event.self_device_time_total / 1000:.2f}",
        }
        for event in spent
    ]
    part.write(rows)
    part.report(rows)


def run_throughput(part: Part) -> None:
    """An evaluation beside one-by-one `generate`, by throughput.py."""
    model = (
        ["model=llava_1_5_random", *TINY_LLM] if part.small else ["model=llava_1_5_7b_random", "model.dtype=bfloat16"]
    )
    counts = ["--samples", "4", "--batch", "2"] if part.small else ["--samples", "64", "--batch", "32"]
    script = [sys.executable, str(Path(__file__).with_name("throughput.py"))]
    options = [*counts, "--questions", "4" if part.small else "8", "--repeats", "1", "--methods", "nuwa"]
    done = subprocess.run([*script, *model, *options], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    part.write(done.stdout.splitlines())
    header, _, row = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    part.report([dict(zip(header, row, strict=True))])


def run_training(part: Part) -> None:
    """Steps a second of the tiny models' recipes within the time that is left."""
    limit, rows = (20 if part.small else 16), []
    for name in ("llava",) if part.small else ("llava", "qwen"):
        with tempfile.TemporaryDirectory() as folder:
            command = ["-m", "nuwa.tiny.train", name, "--out", folder, "--accelerator", "gpu" if CUDA else "cpu"]
            with subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL) as process:
                try:
                    process.wait(limit)
                except subprocess.TimeoutExpired:
                    process.kill()
            log = Path(folder, "log.csv")
            last = log.read_text().splitlines()[-1].split(",") if log.exists() else ["0", "", "0"]
            rows.append({"model": name, "steps": last[0], "seconds": last[2], "cores": str(os.cpu_count())})
            part.write(rows)
    part.report(rows)


PARTS = {
    "laws": run_laws,
    "ceilings": run_ceilings,
    "llava": run_llava,
    "overhead": run_overhead,
    "profile": run_profile,
    "qwen": run_qwen,
    "video": run_video,
    "throughput": run_throughput,
    "training": run_training,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="rehearse at toy sizes")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    register()
    PARTS[options.part](Part(options.part, options.out, options.small))


if __name__ == "__main__":
    main()

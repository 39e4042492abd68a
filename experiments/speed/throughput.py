"""How many samples a second an evaluation answers, beside `generate` on one sample after the other.

    python experiments/speed/throughput.py [--samples 64] [--questions 1 8] [--methods none nuwa] [--repeats 3]
    python experiments/speed/throughput.py --sweep 18 280 412 [--samples 200]

Both do the same work in this process in turn, on the same loaded model: read the pictures, answer, score. One by one,
the model runs plainly (`none`) or in a session (other methods), without any of the shortcuts; the evaluation is a whole
job of `launch.py`, journal and confidence intervals included. With ``--sweep``, the sweep of d_thresh from an empty
cache, with the caches (vision features, encoded batches) and without them, the unpruned run left out; and how many
times its first point the whole sweep costs, by the clock and by the processor. Medians, and all repeats.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

import nuwa
from nuwa.config import register, typed
from nuwa.evaluation.check import check
from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.model_cache import load_once
from nuwa.evaluation.run import run_job

CONF = Path(__file__).resolve().parents[2] / "conf"
QUIET = ("logger=none", "callbacks=none", "baseline=skip")


def compose(outputs: str, *overrides: str) -> DictConfig:
    """A job that writes below ``outputs``."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", [f"paths.outputs={outputs}", *QUIET, *overrides])


@torch.no_grad()
def one_by_one(cfg: DictConfig) -> tuple[float, dict[str, str]]:
    """Seconds and answers of plain `generate`, one sample after the other."""
    parts = check(cfg)
    loaded = load_once(parts.model)
    kept = cfg.pruner._target_.endswith("KeepAll")
    plain = nullcontext() if kept else nuwa.prune(loaded.model, parts.pruner, cfg.position.strategy)
    answers, start = {}, time.perf_counter()
    with plain as session:
        for index in range(len(parts.benchmark)):
            sample = parts.benchmark[index]
            inputs = loaded.encode([sample])
            with nullcontext() if session is None else session.about(sample.image_ids):
                ids = loaded.model.generate(
                    **inputs, max_new_tokens=parts.benchmark.max_new_tokens(sample.task), do_sample=False
                )
            answers[sample.id] = loaded.decode(ids, inputs["input_ids"].shape[1])[0]
            parts.benchmark.score(sample, answers[sample.id])
    return time.perf_counter() - start, answers


def evaluation(*overrides: str) -> tuple[float, dict[str, str]]:
    """Seconds and answers of a job in a fresh folder, its model loaded before."""
    with tempfile.TemporaryDirectory() as outputs:
        cfg = compose(outputs, *overrides)
        start = time.perf_counter()
        folder = run_job(cfg)
        return time.perf_counter() - start, {row["id"]: row["prediction"] for row in read_rows(folder / JOURNAL)}


def compare(method: str, questions: int, options: argparse.Namespace) -> str:
    """A row of the table: both ways in turn, after one round that does not count."""
    chosen = [
        f"pruner={method}", f"dataset.samples={options.samples}", f"dataset.questions={questions}",
        f"trainer.batch_size={options.batch}", "trainer.cache_gb=0", *options.overrides]  # fmt: skip
    slow, fast, same = [], [], 0
    for number in range(options.repeats + 1):
        seconds, expected = one_by_one(compose("unused", *chosen))
        again, answers = evaluation(*chosen)
        same = sum(answers[name] == text for name, text in expected.items())
        if number:
            slow.append(seconds)
            fast.append(again)
    rates = [options.samples / statistics.median(times) for times in (slow, fast)]
    gain = statistics.median(before / after for before, after in zip(slow, fast, strict=True))
    return f"| {method} | {questions} | {rates[0]:.1f} | {rates[1]:.1f} | {gain:.2f} | {same} of {options.samples} |"


def sweep(options: argparse.Namespace) -> None:
    """The jobs of the sweep with and without caches, in turn; each time from nothing."""
    times: dict[str, list[float]] = {"0": [], "4": []}
    prices: list[str] = []
    for number in range(options.repeats + 1):
        found = {}
        for gigabytes, seconds in times.items():
            with tempfile.TemporaryDirectory() as outputs:
                marks, journals = [_clocks()], []
                for threshold in options.sweep:
                    chosen = [f"trainer.cache_gb={gigabytes}", f"dataset.samples={options.samples}", *options.overrides]
                    folder = run_job(compose(outputs, f"pruner.d_thresh={threshold}", *chosen))
                    journals.append((folder / JOURNAL).read_bytes())
                    marks.append(_clocks())
                if number:
                    start, first, end = marks[0], marks[1], marks[-1]
                    seconds.append(end[0] - start[0])
                    clock, processor = ((end[i] - start[i]) / (first[i] - start[i]) for i in (0, 1))
                    prices += [f"{clock:.2f} ({processor:.2f})"] if gigabytes != "0" else []
                found[gigabytes] = journals
        print(f"journals equal byte for byte: {found['0'] == found['4']}")
    gain = [before / after for before, after in zip(times["0"], times["4"], strict=True)]
    print(f"without {spell(times['0'])} s, with the caches {spell(times['4'])} s")
    ratio = f"{statistics.median(gain):.2f} times as fast ({spell(gain)})"
    print(f"with the caches, all of it costs its first point times (of the processor): {', '.join(prices)}")
    print(f"d_thresh sweep {options.sweep}, {options.samples} samples: {ratio}")


def _clocks() -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    return time.perf_counter(), time.process_time()


def spell(values: Sequence[float]) -> str:
    """All repeats."""
    return " ".join(f"{value:.2f}" for value in values)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 8], help="about the same picture")
    parser.add_argument("--methods", nargs="+", default=["none", "visionzip", "nuwa"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sweep", type=int, nargs="+", help="values of d_thresh")
    parser.add_argument("overrides", nargs="*", help="as for launch.py, e.g. model=tiny_qwen budget=ratio25")
    options = parser.parse_intermixed_args()
    register()
    logging.getLogger("nuwa").setLevel(logging.ERROR)
    model = typed(compose("unused", *options.overrides), "model")
    print(f"{model['name']}, {torch.get_num_threads()} thread(s), {options.repeats} repeats")
    if options.sweep:
        sweep(options)
        return
    print("| method | questions per picture | one by one, samples/s | evaluation, samples/s | gain | same answers |")
    print("|---|---|---|---|---|---|")
    for questions in options.questions:
        for method in options.methods:
            print(compare(method, questions, options), flush=True)


if __name__ == "__main__":
    main()

"""One step of the loop: a batch of samples goes in, scored answers go to the journal."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from pydantic import FiniteFloat, TypeAdapter
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on

from nuwa.benchmarks.base import Benchmark
from nuwa.engine.report import ImageReport
from nuwa.engine.session import PruningSession
from nuwa.evaluation.data import Batch, Failure
from nuwa.evaluation.finite import NOT_FINITE, FiniteLogits
from nuwa.evaluation.journal import BATCH, BATCH_END, JOURNAL, PASSING, Journal, Row
from nuwa.evaluation.reading import usable_lines
from nuwa.evaluation.unharmed import unharmed
from nuwa.models.loading import LoadedModel
from nuwa.models.prompts import PromptError
from nuwa.samples import Sample, SampleError, visual_ids

TIMINGS = "timings*.jsonl"
"""One file for the journal and one for each of its parts. The time to make a batch's tensors is not counted."""


class _Timing(TypedDict):
    """A line: id of the first of some samples that were answered together, their number and the seconds it took."""

    first: str
    samples: int
    seconds: FiniteFloat


_TIMING = TypeAdapter(_Timing)


class Evaluation(lightning.LightningModule):
    """Answers, scores and records batches under a pruning session.

    The model is not a submodule, so that Lightning leaves it alone: it is loaded once and shared between runs.
    ``generation`` holds arguments of ``generate``; its ``max_new_tokens`` takes precedence over the benchmark's.
    With ``record`` a sample that cannot be used becomes a failed row, otherwise it ends the run.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        benchmark: Benchmark,
        session: PruningSession,
        journal: Journal,
        generation: dict[str, Any],
        seed: int,
        record: bool,
    ):
        super().__init__()
        self.loaded, self.benchmark, self.session, self.journal = loaded, benchmark, session, journal
        self.generation, self.seed, self.record = generation, seed, record
        self.reports: list[tuple[Sample, list[ImageReport], Row]] = []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Answer a batch and put it into the journal."""
        self.reports = []
        failed = [failed_row(item.id, item.reason, passing=item.passing) for item in batch if isinstance(item, Failure)]
        start = time.perf_counter()
        rows = self._answer(batch.samples, batch.inputs)
        seconds = time.perf_counter() - start
        computed = failed + rows
        last = len(computed) - 1
        self.journal.append([{BATCH: batch.number, BATCH_END: n == last, **row} for n, row in enumerate(computed)])
        if rows:
            self._note_time(rows, seconds)

    def _answer(self, samples: Sequence[Sample], inputs: dict[str, torch.Tensor] | None = None) -> list[Row]:
        """Scored rows; if the prompt or picture of a sample cannot be used, only that sample fails."""
        if not samples:
            return []
        try:
            inputs = self._prepared(samples) if inputs is None else inputs
        except (PromptError, SampleError) as error:
            if not self.record:
                raise
            if len(samples) == 1:
                return [failed_row(samples[0].id, str(error), samples[0].task)]
            return [row for sample in samples for row in self._answer([sample])]
        return self._answered(samples, inputs)

    def _prepared(self, samples: Sequence[Sample]) -> Any:
        """What the model is asked."""
        return self.loaded.encode(samples)

    def _answered(self, samples: Sequence[Sample], inputs: Any) -> list[Row]:
        """Scored rows of samples that can be used."""
        names = visual_ids(samples)
        finite = FiniteLogits()
        with self.session.about(names, self.loaded.questions(samples)):
            ids = self._generate(inputs, samples, finite)
        broken = finite.broken(len(samples))
        if any(broken) and not self.record:
            raise SampleError(f"sample {samples[broken.index(True)].id}: {NOT_FINITE}")
        answers = self.loaded.decode(ids, inputs["input_ids"].shape[1])
        shown = any(name.startswith("pixel_values") for name in inputs)
        images = self.session.report().images if shown else []
        pairs = enumerate(zip(samples, answers, strict=True))
        return [
            failed_row(sample.id, NOT_FINITE, sample.task)
            if broken[n]
            else self._row(sample, answer, [image for image in images if image.row == n])
            for n, (sample, answer) in pairs
        ]

    def _generate(
        self, inputs: dict[str, torch.Tensor], samples: Sequence[Sample], finite: FiniteLogits
    ) -> torch.Tensor:
        options = {"max_new_tokens": self.benchmark.max_new_tokens(samples[0].task)}
        options |= {key: value for key, value in self.generation.items() if value is not None}
        devices = [self.loaded.device] if self.loaded.device.type == "cuda" else []
        names = "\n".join(sample.id for sample in samples)
        digest = hashlib.blake2b(f"{self.seed}:{names}".encode(), digest_size=7).digest()
        with torch.random.fork_rng(devices=devices):  # sampling depends on seed and samples, not on what ran before
            torch.manual_seed(int.from_bytes(digest, "little"))
            ids = self.loaded.model.generate(**inputs, logits_processor=[finite], **options)
        if devices:
            torch.cuda.synchronize(self.loaded.device)
        return ids

    def _row(self, sample: Sample, answer: str, images: list[ImageReport]) -> Row:
        scored = answer
        if sample.task in self.benchmark.unit_box_tasks and len(sample.images) == 1:  # as fractions of the picture
            scored = self.loaded.in_unit_frame(answer, sample.images[0])
        notes = [video.note for video in sample.videos if video.note]
        scores = self.benchmark.score_as_said(sample, answer) | self.benchmark.score(sample, scored)
        row = {
            "id": sample.id,
            "task": sample.task,
            "prompt": self.loaded.question(sample),
            "target": sample.target,
            "prediction": answer,
            **({"scored": scored} if scored != answer else {}),
            **({"remark": remark} if (remark := self.loaded.remark(sample)) else {}),
            **({"notes": notes} if notes else {}),
            **({"unknown": words} if (words := self.loaded.unknown_words(sample)) else {}),
            "scores": {name: float(value) for name, value in scores.items()},
            "kept": [[[layer, len(kept)] for layer, kept, _ in image.stages] for image in images],
            "image_tokens": [image.n_tokens for image in images],
            **({"frames": frames} if max(frames := [image.frames for image in images], default=1) > 1 else {}),
            "meta": dict(sample.meta),
            "status": "ok",
        }
        self.reports.append((sample, [replace(image) for image in images], row))
        return row

    def _note_time(self, rows: Sequence[Row], seconds: float) -> None:
        line = json.dumps({"first": rows[0]["id"], "samples": len(rows), "seconds": seconds})
        name = self.journal.path.name.replace(Path(JOURNAL).stem, TIMINGS.partition("*")[0])
        file = self.journal.path.with_name(name)
        with unharmed(f"{name}: a time was not noted"), file.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")


def failed_row(name: str, reason: str, task: str = "", passing: bool = False) -> Row:
    """The row of a sample that could not be answered."""
    empty: Row = {"scores": {}, "kept": [], "image_tokens": []}
    return {
        "id": name,
        "task": task,
        "status": "failed",
        "reason": reason,
        **({PASSING: True} if passing else {}),
        **empty,
    }


def read_timings(folder: Path) -> tuple[int, float]:
    """Number of samples answered and seconds spent on them, over all processes that worked on a run.

    Samples that were computed twice because a process was killed count once. Lines that are none are passed over.
    """
    lines = (line for path in sorted(folder.glob(TIMINGS)) for line in usable_lines(path, _TIMING))
    batches = {line["first"]: (line["samples"], line["seconds"]) for line in lines}
    return sum(n for n, _ in batches.values()), sum(seconds for _, seconds in batches.values())

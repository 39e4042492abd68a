"""Reads the prompts of runs again, one prefill for each sample and run; writes what was decided, and the pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import track

from nuwa.benchmarks.base import Benchmark
from nuwa.command import BAD_INPUT
from nuwa.config import build, typed
from nuwa.evaluation.journal import Row
from nuwa.evaluation.recorded import ReopenedRun, config_of_run, reopened
from nuwa.explore.decisions import plain_trace
from nuwa.explore.folder import PICTURE_SIDE, THUMBNAIL_SIDE, write_data, write_picture
from nuwa.explore.samples import Plain, RunRows, SampleSet
from nuwa.pictures.traces import VideoTrace, trace_decisions
from nuwa.samples import Sample
from nuwa.schema import Engine

SAMPLES_A_FILE = 50
"""How many samples have their decisions in one file."""


class SetWriter:
    """Writes pictures and decisions of one set of samples, the ``number``-th of an explorer.

    ``shown`` is what only the data set knows of each sample, by id: its pictures, and what is to be found in them.
    ``reasons``, by key, says why a run's decisions are not there.
    """

    def __init__(self, out: Path, number: int, found: SampleSet) -> None:
        self.out, self.number, self.found = out, number, found
        self.shown: dict[str, Plain] = {}
        self.reasons: dict[str, str] = {}

    def write(self) -> None:
        """Run by run, those of one model after each other, so that it is loaded once."""
        for run in sorted(self.found.runs, key=lambda one: json.dumps(one.run.config.get("model"), sort_keys=True)):
            try:
                check_session_engine(run.folder)
                with reopened(run.folder) as again:
                    self._write_run(run, again)
            except BAD_INPUT as error:
                self.reasons[run.run.run_key] = str(error)
        for run in self.found.runs:
            if len(self.shown) == len(self.found.ids) or self._write_pictures(run.folder):
                break

    def _write_run(self, run: RunRows, again: ReopenedRun) -> None:
        places, ids, choices = sample_places(again.benchmark, again.count), self.found.ids, run.run.choices
        title, decisions = f"{choices.title} ({choices.model})", dict[str, Plain]()
        for number, name in enumerate(track(ids, title, console=Console(stderr=True))):
            decisions[name] = self._decide(run.rows.get(name), again, places.get(name))
            if len(decisions) == SAMPLES_A_FILE or number + 1 == len(ids):
                write_data(self.out, f"{run.run.run_key}-{number // SAMPLES_A_FILE}", decisions)
                decisions = {}

    def _decide(self, row: Row | None, again: ReopenedRun, place: int | None) -> Plain:
        """What is decided about a sample's pictures, or the reason why that is not known."""
        if row is None or row["status"] != "ok":
            return {"reason": "not answered by this run" if row is None else f"failed: {row.get('reason', '')}"}
        if place is None:
            return {"reason": "the data set holds no such sample today"}
        try:
            sample = again.benchmark[place]
            self._show(sample)
            return decisions_about(sample, row, again)
        except BAD_INPUT as error:
            return {"reason": str(error)}

    def _show(self, sample: Sample) -> None:
        """Write a sample's pictures, unless they are there."""
        pictures = pictures_of(sample)
        if sample.id in self.shown or not pictures:
            return
        stem = f"{self.number}-{self.found.ids.index(sample.id)}"
        paths = [write_picture(self.out, f"{stem}-{n}", image, PICTURE_SIDE) for n, image in enumerate(pictures)]
        small = write_picture(self.out, f"{stem}-small", pictures[0], THUMBNAIL_SIDE)
        self.shown[sample.id] = {"thumbnail": small, "pictures": paths}
        if sample.expression is not None:  # the prompt around it is the same for all
            self.shown[sample.id]["title"] = sample.expression

    def _write_pictures(self, folder: Path) -> bool:
        """The pictures of samples that no run's model could be asked about; whether a run's data are here."""
        try:
            benchmark: Benchmark = build(typed(config_of_run(folder)[0], "dataset"))
            places = sample_places(benchmark, len(benchmark))
        except BAD_INPUT:
            return False  # `reasons` has it
        for name in self.found.ids:
            try:
                if name in places and name not in self.shown:
                    self._show(benchmark[places[name]])
            except BAD_INPUT:
                continue  # as the run's own row says
        return True


def check_session_engine(folder: Path) -> None:
    """Refuse a run whose decisions were made elsewhere.

    Raises:
        ValueError: vLLM made them.
    """
    if config_of_run(folder)[0].trainer.engine == Engine.vllm:
        raise ValueError("answered by vLLM, which does not say which tokens it kept")


def sample_places(benchmark: Benchmark, count: int) -> dict[str, int]:
    """Where each of the first samples stands, by id."""
    return {benchmark.sample_id(place): place for place in range(min(count, len(benchmark)))}


def pictures_of(sample: Sample) -> list[Image.Image]:
    """All pictures of a sample, then all frames of its videos."""
    return [*sample.images, *(frame for video in sample.videos for frame in video.frames)]


def decisions_about(sample: Sample, row: Mapping, again: ReopenedRun) -> Plain:
    """The traces of a sample, and whether they are what its run's journal counted.

    Raises:
        ValueError: the sample is asked another question today.
    """
    if again.loaded.question(sample) != row.get("prompt"):
        raise ValueError(f"the data set asks another question today: {again.loaded.question(sample)}")
    traces = trace_decisions(again.session, again.loaded, sample)
    counts = [[[stage.layer, len(stage.kept)] for stage in trace.stages] for trace in traces]
    firsts = first_pictures(sample)
    shown = [trace.video if isinstance(trace, VideoTrace) else trace.picture for trace in traces]
    plain = [plain_trace(trace, firsts[id(visual)]) for trace, visual in zip(traces, shown, strict=True)]
    before = row.get("kept", counts)
    said = f"the run kept {counts_text(before)}; today it keeps {counts_text(counts)}"
    return {"images": plain} | ({} if before == counts else {"differs": said})


def counts_text(images: Sequence[Sequence[Sequence[int]]]) -> str:
    """How many tokens of each image go on from which layer.

    >>> counts_text([[[0, 112], [8, 16]], [[0, 64]]])
    '112 tokens from layer 0, 16 from layer 8 and 64 tokens from layer 0'
    """
    stages = ([f"{count} from layer {layer}" for layer, count in image] for image in images)
    return " and ".join(", ".join(one).replace(" ", " tokens ", 1) for one in stages)


def first_pictures(sample: Sample) -> dict[int, int]:
    """The number of the first of `pictures_of` that belongs to each picture or video, by identity."""
    firsts = {id(image): number for number, image in enumerate(sample.images)}
    number = len(sample.images)
    for video in sample.videos:
        firsts[id(video)] = number
        number += len(video.frames)
    return firsts

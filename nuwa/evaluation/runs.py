"""Finished and unfinished runs, read from their folders in one place."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, get_type_hints

from pydantic import Field, FiniteFloat, TypeAdapter, create_model
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on

from nuwa.config import PROTOCOL
from nuwa.evaluation.choices import Choices
from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.reading import UnreadableError, check_shape
from nuwa.evaluation.result import RESULT, read_result
from nuwa.options import ConfigError
from nuwa.targets import find_target

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What result.json says of a run, key by key. What a run lacks, because it failed or is old, is empty or None."""

    # Which run it is.
    run_key: str = ""  # twelve characters that name the choices behind the result (`nuwa.config.run_key`)
    config: dict[str, Any] = field(default_factory=dict)  # resolved, by group
    method: str = "?"  # the name; ``?`` where neither result nor config has one
    model: str = ""
    dataset: str = ""
    data: str | None = None  # where the samples were read, with their version
    position: str = ""  # the position strategy that was used, never ``native``
    seed: int | None = None  # of whatever is drawn at random
    protocol: int = 1  # rules for prompts, scoring, counting (`nuwa.config.PROTOCOL`); early results do not say
    environment: dict[str, Any] = field(default_factory=dict)  # versions, device, kernel and commit

    # How it went: ``done``; ``failed``; ``refused``, the method does not fit the model; ``unreachable``, the method
    # cannot meet the budget; ``unfinished``, there is no result.json; ``unreadable``, it is damaged, foreign or newer.
    status: str = "unfinished"
    reason: str = ""  # why there is no result
    traceback: str = ""
    n: int | None = None  # samples that were answered
    n_failed: int = 0  # samples that could not be used
    warning: str = ""  # what is to be known about its numbers; tables show it
    n_passing: int = 0  # of the failed, those whose cause may pass; the same command tries them again

    # What it found, by metric. The first metric of a task (``task/metric``) is its headline.
    metrics: dict[str, float] = field(default_factory=dict)  # as the benchmark scores: shares from 0 to 1, MME points
    standard_errors: dict[str, float] = field(default_factory=dict)  # bootstrap, in the metric's unit
    intervals: dict[str, list[float]] = field(default_factory=dict)  # Wilson's 95 %, where samples are 0 or 1
    baseline: str | None = None  # the run key of the unpruned run on the same samples
    # ``value``, ``low`` and ``high``: the metric divided by the unpruned run's, and its 95 % interval; 1: nothing lost.
    retention: dict[str, dict[str, float]] = field(default_factory=dict)
    judge: dict[str, str] = field(default_factory=dict)  # server, model and prompt, where one marked the answers

    # Of a method that lets images decide: the ``option``, its ``value`` that spends the ``budget`` on average, the
    # ``samples`` on which it was found, and ``mean``, ``p10``, ``p50``, ``p90`` of what these and the ``run`` spend.
    fitted: dict[str, Any] = field(default_factory=dict)

    # What it cost: visual tokens and what they take, means over images.
    tokens_per_image: float | None = None  # before pruning
    tokens_per_layer: list[float] = field(default_factory=list)  # as they enter each LLM layer
    tokens_entering: float | None = None  # the mean over layers
    tokens_leaving: float | None = None  # the mean over layers, as they leave
    llm_tflops: float | None = None  # 1e12 floating-point operations of the LLM's prefill
    flashvid_tflops: float | None = None  # the same as FlashVID counts it
    metric_mflops: float | None = None  # 1e6 operations that choosing the tokens takes
    kv_cache_bytes: float | None = None  # of the LLM's cache
    # ``answering_seconds``, ``seconds_per_sample``, ``load_seconds``, ``job_seconds``, batch size, processes, and peak
    # memory in MiB if it was probed.
    timings: dict[str, Any] = field(default_factory=dict)
    speed: list[dict[str, Any]] | None = None  # by batch size of the speed probe, in ms (`nuwa.evaluation.speed`)
    speed_error: str = ""  # why the probe measured nothing

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Run:
        """A run from the content of its result.json; keys of other versions are left out."""
        known = {key.name: content[key.name] for key in fields(cls) if content.get(key.name) is not None}
        return cls(**{"method": _method_in(known.get("config", {})), **known})

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in a folder: ``unfinished`` without a result.json, ``unreadable`` if that cannot be used."""
        try:
            if os.path.lexists(Path(folder) / RESULT):
                content = _checked(folder)
            else:
                content = {"status": "unfinished", "reason": _progress(folder)}
        except UnreadableError as error:
            content = {"status": "unreadable", "reason": f"{error}; {_progress(folder)}"}
        return cls.of({"run_key": Path(folder).name, **content})

    @property
    def done(self) -> bool:
        """Whether it has a result."""
        return self.status == "done"

    @cached_property
    def choices(self) -> Choices:
        """What it was asked to do."""
        return Choices.of(self.config, self.method, self.position, self.protocol)

    @property
    def headlines(self) -> dict[str, str]:
        """The first metric of every task, by task."""
        first: dict[str, str] = {}
        for name in self.metrics:
            first.setdefault(name.split("/")[0], name)
        return first

    @property
    def unread(self) -> dict[str, float]:
        """The share of answers in which nothing could be read, by task, where a benchmark counts them."""
        parsed = (name.partition("/") for name in self.metrics)
        return {task: 1 - self.metrics[f"{task}/parsed"] for task, _, name in parsed if name == "parsed"}

    @property
    def probe(self) -> dict[str, Any]:
        """What the speed probe measured at batch size 1; empty where it did not."""
        return next((entry for entry in self.speed or () if entry["batch"] == 1), {})

    @property
    def times(self) -> dict[str, float]:
        """Medians of the probe's times at batch size 1, ms: of the pruned model, or the unpruned one in its own run.

        ``vision_ms`` is encoding without pruning, ``compression_ms`` what pruning before the LLM adds to it, and
        ``compressed_prefill_ms`` that with the prefill.
        """
        variants = self.probe.get("variants", {})
        if not variants:
            return {}
        times = {name: spent["median"] for name, spent in variants.get("pruned", variants["vanilla"]).items()}
        extra = self.probe.get("compression_ms", {"median": 0.0})["median"]
        whole = {"vision_ms": variants["vanilla"]["encode_ms"]["median"], "compression_ms": extra}
        return times | whole | {"compressed_prefill_ms": extra + times["prefill_ms"]}


class _Retention(TypedDict):
    value: float
    low: float
    high: float


class _Speed(TypedDict):
    batch: int
    variants: NotRequired[dict[str, dict[str, dict[str, float]]]]


class _Config(TypedDict, total=False):
    """The groups of a recorded config that tables read; some were missing in earlier versions."""

    model: dict[str, Any] | None
    pruner: dict[str, Any] | None
    dataset: dict[str, Any] | None
    generation: dict[str, Any] | None
    logger: dict[str, Any] | None
    budget: dict[str, float | None] | None
    position: dict[str, str | None] | None
    blocking: dict[str, str | None] | None


_STRICTER = {
    "config": _Config,
    "metrics": dict[str, FiniteFloat],
    "status": Literal["done", "failed", "refused", "unreachable"],
    "retention": dict[str, _Retention],
    "intervals": dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]],
    "speed": list[_Speed],
    "timings": dict[str, float | str | None],
}
"""What a file must hold, where the types of `Run` do not say all that is relied on."""


@cache
def _shape() -> TypeAdapter:
    """The shape of a result.json that can be used."""
    types: dict[str, Any] = {name: (kind, None) for name, kind in (get_type_hints(Run) | _STRICTER).items()}
    return TypeAdapter(create_model("it", **types))


def _checked(folder: Path) -> dict[str, Any]:
    """The content of a result.json that can be used.

    Raises:
        UnreadableError: it cannot be, or is of a version that is newer than this one.
    """
    content = {key: value for key, value in read_result(folder).items() if value is not None}
    try:
        check_shape(content, _shape())
        if content.get("protocol", 0) > PROTOCOL:
            raise ValueError(f"made by a newer version (protocol {content['protocol']}, here {PROTOCOL})")
        needed = ("status", "config", *(("metrics", "n") if content.get("status") == "done" else ("reason",)))
        if lacking := [key for key in needed if key not in content]:
            raise ValueError(f"lacks {', '.join(lacking)}")
    except ValueError as error:
        raise UnreadableError(Path(folder) / RESULT, str(error)) from error
    return content


def by_key(folders: Iterable[Path]) -> dict[str, tuple[Path, Run]]:
    """Every run in these folders and where it lies, once each, by its key.

    A run key stands for the choices that make a result, so that a run that lies in several folders (of several
    experiments, or copied, under whatever name) counts once: where it is finished, if it is anywhere.
    """
    found: dict[str, tuple[Path, Run]] = {}
    for folder in dict.fromkeys(map(Path, folders)):
        run = Run.read(folder)
        if run.run_key not in found or not found[run.run_key][1].done:
            found[run.run_key] = folder, run
    return found


def collect(folders: Iterable[Path]) -> list[Run]:
    """Every run in these folders, once each, as `by_key`."""
    return [run for _, run in by_key(folders).values()]


def find_runs(*roots: Path) -> list[Path]:
    """Every run folder at or below ``roots``; a folder that may not be read is named on the log."""
    below = (place for root in roots for place in os.walk(root, onerror=_name_closed))
    return sorted({Path(folder) for folder, *names in below if not {RESULT, JOURNAL}.isdisjoint(chain(*names))})


def _name_closed(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        log.warning("%s: left out (%s)", error.filename, error.strerror)


def _method_in(config: Mapping[str, Any]) -> str:
    """The method that a config builds; its target where that cannot be imported, ``?`` where there is none."""
    target = config.get("pruner", {}).get("_target_", "")
    if not target:
        return "?"
    try:
        return find_target(target, "pruner").name
    except ConfigError:  # of a package that this machine does not have
        return target


def _progress(folder: Path) -> str:
    try:
        return f"{len(read_rows(Path(folder) / JOURNAL))} samples computed, no result yet"
    except UnreadableError as error:
        return str(error)


def finished_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        ValueError: it is not finished, or there is none; the message says where runs lie below the folder.
    """
    run = Run.read(folder)
    if not run.done:
        below = find_runs(folder)
        why = f"runs lie below it, {below[0]} for one" if below else "it is no run's folder"
        raise ValueError(f"{folder}: no finished run ({f'{run.status}: {run.reason}' if folder in below else why})")
    return run

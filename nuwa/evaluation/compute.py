"""The work of one job: load the model, answer what the journal lacks, sum up."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from nuwa.config import PROTOCOL, is_baseline, plain
from nuwa.evaluation.answering import answer
from nuwa.evaluation.answers import read_answers
from nuwa.evaluation.check import Parts, fits, pruning_options
from nuwa.evaluation.fitting import compare_with_run, fit_budget
from nuwa.evaluation.journal import (
    JOURNAL,
    PARTS,
    PASSING,
    Journal,
    JournalError,
    Row,
    answered,
    merged,
    part_path,
)
from nuwa.evaluation.loggers import log_result, run_logger
from nuwa.evaluation.model_cache import load_once
from nuwa.evaluation.module import TIMINGS, read_timings
from nuwa.evaluation.processes import Processes
from nuwa.evaluation.reading import UnreadableError
from nuwa.evaluation.result import environment
from nuwa.evaluation.speed import probe_speed
from nuwa.evaluation.summary import costs, doubts, summarise
from nuwa.models import adapter_for
from nuwa.models.loading import LoadedModel
from nuwa.serve.engine import Engine, engine_once

log = logging.getLogger(__name__)


def compute(cfg: DictConfig, folder: Path, parts: Parts, baseline: Path | None, processes: Processes) -> dict[str, Any]:
    """Everything that result.json holds of a run that works; ``baseline`` is the folder of the unpruned run, if any.

    Of several processes only the first sums up; the others return when all samples are answered.

    Raises:
        Exception: whatever goes wrong; the journal keeps what was computed before.
    """
    start = time.perf_counter()
    count = parts.benchmark.take(cfg.limit)
    with processes.together():
        journal = _opened(cfg, folder, parts) if processes.lead else None
    rows = [] if journal is None else journal.rows
    done = processes.share({row["id"]: {key: row[key] for key in ("task", "status")} for row in rows})
    with ExitStack() as stack:
        with processes.together():
            loading = time.perf_counter()
            loaded, engine = _loaded(cfg, parts)
            load_seconds = time.perf_counter() - loading
            logger = stack.enter_context(run_logger(cfg, folder, folder.name)) if processes.lead else None
        asked = parts.pruner
        parts, fitted = _fitted(cfg, parts, loaded, processes)
        with processes.together():
            if journal is None or processes.size > 1:
                journal = Journal(part_path(folder, processes.rank), folder.name)
            answer(cfg, parts, loaded, journal, done, processes, engine, logger)
        if not processes.lead:
            return {"status": "done"}
        journal = merged(folder, folder.name)
        if len(journal) < count:
            raise JournalError(f"stopped after {len(journal)} of {count} samples; the same command goes on from there")
        outcome = _summarise(cfg, parts, loaded, journal.rows, baseline)
        spent = compare_with_run(asked, fitted, answered(journal.rows), adapter_for(loaded.model).shape.layers)
        said = [found["warning"] for found in (outcome, spent) if "warning" in found]
        outcome |= spent | ({"warning": "; ".join(said)} if said else {})
        outcome["timings"] = _timings(cfg, folder) | {
            "processes": processes.size,
            "load_seconds": load_seconds,
            "job_seconds": time.perf_counter() - start,
        }
        if cfg.probe.speed:
            outcome |= _speed(cfg, parts, loaded)
        outcome |= {
            "run_key": folder.name,
            "environment": environment(loaded.model) | (engine.environment if engine else {}),
        }
        log_result(logger, cfg, outcome, journal.rows, folder)
    return outcome


def _loaded(cfg: DictConfig, parts: Parts) -> tuple[LoadedModel, Engine | None]:
    """The model, and what answers in its place, if anything does: the model then has no weights."""
    if parts.served is None:
        return load_once(parts.model), None
    engine = engine_once(parts.served, plain(cfg.trainer.vllm))
    return engine.loaded, engine


def _fitted(
    cfg: DictConfig, parts: Parts, loaded: LoadedModel, processes: Processes
) -> tuple[Parts, dict[str, Any] | None]:
    """The parts with a method that spends the budget on average, and how it was found; None where it needs no fit."""
    if not fits(parts.pruner):
        return parts, None
    with processes.together():
        found = fit_budget(cfg, parts, loaded) if processes.lead else None
    fitted = processes.share(found)
    return replace(parts, pruner=parts.pruner.turned(fitted["value"])), fitted


def _opened(cfg: DictConfig, folder: Path, parts: Parts) -> Journal:
    """The journal of earlier calls, without failures whose cause may have passed; an empty one without ``resume``."""
    for pattern in () if cfg.resume else (JOURNAL, PARTS, TIMINGS):
        for path in folder.glob(pattern):
            path.unlink()
    journal = merged(folder, folder.name)
    rows = journal.rows
    known = {parts.benchmark.sample_id(index) for index in range(parts.benchmark.take(cfg.limit))}
    for line, row in enumerate(rows, 1):
        if row["id"] not in known:
            reason = f"{row['id']!r} is no sample of {parts.benchmark.name}; repair it or set resume=false"
            raise UnreadableError(journal.path, reason, line)
    kept = [row for row in rows if not row.get(PASSING)]
    if len(kept) < len(rows):
        journal.replace(kept)
    return journal


def _summarise(
    cfg: DictConfig, parts: Parts, loaded: LoadedModel, rows: list[Row], baseline: Path | None
) -> dict[str, Any]:
    """Metrics, their errors and their costs, from the journal alone."""
    ours = answered(rows)
    if not ours:
        raise JournalError(f"none of the {len(rows)} samples could be used; the first: {rows[0]['reason']}")
    adapter = adapter_for(loaded.model)
    outcome: dict[str, Any] = {
        "status": "done",
        "method": parts.pruner.name,
        "model": loaded.name,
        "dataset": parts.benchmark.name,
        "data": parts.benchmark.source,
        "position": parts.pruner.position_on(adapter.axes, cfg.position.strategy),
        "seed": cfg.seed,
        "protocol": PROTOCOL,
        "n": len(ours),
        "n_failed": len(rows) - len(ours),
        "n_passing": sum(row.get(PASSING, False) for row in rows),
        **({} if baseline is None else {"baseline": baseline.name}),
        **({"warning": "; ".join(doubted)} if (doubted := [*doubts(ours, loaded.name)]) else {}),
    }
    outcome |= summarise(parts.benchmark, ours, None if baseline is None else read_answers(baseline))
    value_bytes = torch.finfo(loaded.model.dtype).bits // 8
    return outcome | costs(ours, parts.pruner, adapter.shape, value_bytes)


def _speed(cfg: DictConfig, parts: Parts, loaded: LoadedModel) -> dict[str, Any]:
    """The speed probe on the first samples; an unpruned job measures the unpruned model alone.

    An error in it is recorded and costs the times only.
    """
    pruner = None if is_baseline(cfg) else parts.pruner
    try:
        how = pruning_options(cfg)
        return {"speed": probe_speed(loaded, parts.benchmark, pruner, how.pop("position"), cfg.probe, **how)}
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        log.error("probe.speed: nothing was measured (%s); the answers stand", reason)
        return {"speed_error": reason}


def _timings(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """How long answering took, in batches of what size, and the memory if that was asked for."""
    samples, seconds = read_timings(folder)
    return {
        "answering_seconds": seconds,
        "seconds_per_sample": seconds / samples if samples else None,
        "batch_size": cfg.trainer.batch_size,
        **(_peak_memory() if cfg.probe.memory else {}),
    }


def _peak_memory() -> dict[str, float]:
    """Largest memory of this process so far (earlier jobs of a sweep included), and of the GPU."""
    import resource  # not on every platform

    peak = {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if torch.cuda.is_available():
        peak["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return peak

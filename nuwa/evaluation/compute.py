"""The work of one job: load the model, answer what the journal lacks, sum up."""

from __future__ import annotations

import logging
import math
import signal
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig

from nuwa import prune
from nuwa.config import PROTOCOL, SAMPLING, is_baseline
from nuwa.engine.blocking import configured_block
from nuwa.evaluation.callbacks import KeptTokenPictures, SampleProgress
from nuwa.evaluation.check import Parts
from nuwa.evaluation.data import EvaluationData
from nuwa.evaluation.features import feature_cache
from nuwa.evaluation.journal import (
    JOURNAL,
    PARTS,
    Journal,
    JournalError,
    Row,
    answered,
    merged,
    part_path,
    read_answers,
)
from nuwa.evaluation.loggers import log_result, run_logger
from nuwa.evaluation.module import TIMINGS, Evaluation, read_timings
from nuwa.evaluation.one_model import load
from nuwa.evaluation.processes import Processes
from nuwa.evaluation.result import environment
from nuwa.evaluation.speed import SpeedOptions, probe_speed
from nuwa.evaluation.summary import costs, summarise
from nuwa.models import adapter_for
from nuwa.models.loading import LoadedModel
from nuwa.schema import OnError

QUIET = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")

log = logging.getLogger(__name__)


def compute(cfg: DictConfig, folder: Path, parts: Parts, baseline: Path | None, processes: Processes) -> dict[str, Any]:
    """Everything of result.json for a run that works; ``baseline`` is the folder of the unpruned run, if there is one.

    Only the first of several processes sums up; the others return when all samples are answered.

    Raises:
        Exception: whatever goes wrong; the journal keeps what was computed before.
    """
    start = time.perf_counter()
    count = parts.benchmark.take(cfg.limit)
    with processes.together():
        journal = _opened(cfg, folder) if processes.lead else None
    done = processes.share(None if journal is None else _places(journal.rows))
    with ExitStack() as stack:
        with processes.together():
            loading = time.perf_counter()
            loaded = load(parts.model)
            load_seconds = time.perf_counter() - loading
            logger = stack.enter_context(run_logger(cfg, folder, folder.name)) if processes.lead else None
            if processes.size > 1:
                journal = Journal(part_path(folder, processes.rank), folder.name)
            _answer(cfg, folder, parts, loaded, journal, done, count, processes)
        if not processes.lead:
            return {"status": "done"}
        journal = merged(folder, folder.name)
        if len(journal) < count:
            raise JournalError(f"stopped after {len(journal)} of {count} samples; the same command goes on from there")
        outcome = _summarise(cfg, parts, loaded, journal.rows, baseline)
        answered, seconds = read_timings(folder)
        outcome["timings"] = {
            "answering_seconds": seconds,
            "seconds_per_sample": seconds / answered if answered else None,
            "batch_size": cfg.trainer.batch_size,
            "processes": processes.size,
            "load_seconds": load_seconds,
            "job_seconds": time.perf_counter() - start,
            **(_peak_memory() if cfg.probe.memory else {}),
        }
        if cfg.probe.speed:
            outcome |= _speed(cfg, parts, loaded)
        outcome |= {"run_key": folder.name, "environment": environment(loaded.model)}
        log_result(logger, cfg, outcome, journal.rows, folder)
    return outcome


def _opened(cfg: DictConfig, folder: Path) -> Journal:
    """What earlier processes have left, or nothing if it is not wanted."""
    for pattern in () if cfg.resume else (JOURNAL, PARTS, TIMINGS):
        for path in folder.glob(pattern):
            path.unlink()
    return merged(folder, folder.name)


def _places(rows: list[Row]) -> dict[str, Row]:
    """What cutting batches needs to know of the rows that are there, by id."""
    return {row["id"]: {key: row[key] for key in ("task", "status")} for row in rows}


def _answer(
    cfg: DictConfig,
    folder: Path,
    parts: Parts,
    loaded: LoadedModel,
    journal: Journal,
    done: dict[str, Row],
    count: int,
    processes: Processes,
) -> None:
    """Answer this process's share of the samples that are not ``done``."""
    if len(done) >= count:
        return
    for name in QUIET:  # a banner per job
        logging.getLogger(name).setLevel(logging.ERROR)
    record = cfg.on_error == OnError.record
    portions = (cfg.trainer.batch_size, cfg.trainer.num_workers, record, processes.rank, processes.size)
    data = EvaluationData(parts.benchmark, count, done, *portions, loaded.encode, cfg.trainer.prefetch)
    shortcuts = {"share": cfg.trainer.share and cfg.blocking.source is None, "cache": feature_cache(cfg, loaded)}
    generation = {
        key: value for key, value in cfg.generation.items() if cfg.generation.do_sample or key not in SAMPLING
    }
    trainer = Trainer(
        accelerator=cfg.trainer.accelerator.name,
        **_shared(processes),
        logger=False,  # the result is logged when it is there: a logger that fails must not stop the trainer
        callbacks=_callbacks(cfg, folder, parts, count - len(done) + len(journal), processes),
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    with (
        warnings.catch_warnings(),
        prune(loaded.model, parts.pruner, cfg.position.strategy, **shortcuts) as session,
        configured_block(session, **cfg.blocking),
    ):
        warnings.filterwarnings("ignore", module=r"lightning\..*")  # advice about training loops
        module = Evaluation(loaded, parts.benchmark, session, journal, generation, cfg.seed, record)
        try:
            trainer.test(module, datamodule=data, verbose=False)
        except SIGTERMException as stopped:  # Lightning's own has no exit status, as if all had gone well
            raise SystemExit(128 + signal.SIGTERM) from stopped


def _shared(processes: Processes) -> dict[str, Any]:
    """What the trainer is told about the processes; batches are shared out by the data module, not by a sampler."""
    if processes.size == 1:
        return {"devices": 1}
    return {
        "devices": processes.local_size,
        "num_nodes": processes.nodes,
        "strategy": DDPStrategy(process_group_backend="gloo"),
        "plugins": [TorchElasticEnvironment()],
        "use_distributed_sampler": False,
    }


def _callbacks(cfg: DictConfig, folder: Path, parts: Parts, total: int, processes: Processes) -> list[Callback]:
    """Pictures and a bar, of the first process alone: its bar counts its share of the ``total``."""
    if not processes.lead:
        return []
    callbacks: list[Callback] = [KeptTokenPictures(folder, cfg.callbacks.pictures)]
    if cfg.callbacks.progress:
        label = f"{parts.pruner.name} {folder.name}" + (f" 1/{processes.size}" if processes.size > 1 else "")
        callbacks.append(SampleProgress(label, math.ceil(total / processes.size)))
    return callbacks


def _summarise(
    cfg: DictConfig, parts: Parts, loaded: LoadedModel, rows: list[Row], baseline: Path | None
) -> dict[str, Any]:
    """Metrics, their errors and their costs, from the journal alone."""
    ours = answered(rows)
    if not ours:
        raise JournalError(f"none of the {len(rows)} samples could be used; the first: {rows[0]['reason']}")
    adapter, asked = adapter_for(loaded.model), cfg.position.strategy
    outcome: dict[str, Any] = {
        "status": "done",
        "method": parts.pruner.name,
        "model": loaded.name,
        "dataset": parts.benchmark.name,
        "data": parts.benchmark.source,
        "position": parts.pruner.native_on(adapter.axes) if asked == "native" else asked,
        "seed": cfg.seed,
        "protocol": PROTOCOL,
        "n": len(ours),
        "n_failed": len(rows) - len(ours),
    }
    unpruned = None
    if baseline is not None:
        outcome["baseline"] = baseline.name
        unpruned = ours if is_baseline(cfg) else read_answers(baseline)
    outcome |= summarise(parts.benchmark, ours, unpruned)
    value_bytes = torch.finfo(loaded.model.dtype).bits // 8
    return outcome | costs(ours, parts.pruner, adapter.shape, value_bytes)


def _speed(cfg: DictConfig, parts: Parts, loaded: LoadedModel) -> dict[str, Any]:
    """The speed probe, on the first samples; an unpruned job measures the unpruned model alone.

    What goes wrong in it is recorded, and costs the times only.
    """
    pruner = None if is_baseline(cfg) else parts.pruner
    probe = cfg.probe
    options = SpeedOptions(list(probe.batch_sizes), probe.new_tokens, probe.warmup, probe.repeats)
    try:
        return {"speed": probe_speed(loaded, parts.benchmark, pruner, cfg.position.strategy, options)}
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        log.error("probe.speed: nothing was measured (%s); the answers stand", reason)
        return {"speed_error": reason}


def _peak_memory() -> dict[str, float]:
    """Largest memory of this process so far (earlier jobs of a sweep included), and of the GPU."""
    import resource  # not on every platform

    peak = {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if torch.cuda.is_available():
        peak["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return peak

"""One job, in order: check, skip if finished, unpruned run first, load, answer what is missing, write the result."""

from __future__ import annotations

import json
import logging
import os
import time
import traceback
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf

from nuwa import prune
from nuwa.config import Baseline, OnError, baseline_of, build, is_baseline, run_key
from nuwa.evaluation.callbacks import PICTURES, KeptTokenPictures, SampleProgress
from nuwa.evaluation.check import BAD_INPUT, Parts, check, check_outputs, normalised
from nuwa.evaluation.data import EvaluationData
from nuwa.evaluation.journal import Journal, JournalError, Row, read_rows
from nuwa.evaluation.loggers import log_result, run_logger
from nuwa.evaluation.module import TIMINGS, Evaluation, read_timings
from nuwa.evaluation.result import RESULT, costs, environment, read_result, write_result
from nuwa.evaluation.statistics import retention, share_intervals, standard_errors
from nuwa.models import adapter_for
from nuwa.models.loading import LoadedModel
from nuwa.pruning.budget import BudgetError

log = logging.getLogger(__name__)
JOURNAL, LOCK = "predictions.jsonl", ".lock"
QUIET = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")


class AllFailedError(RuntimeError):
    """No sample of a dataset could be used."""


def run_job(cfg: DictConfig) -> Path:
    """Run one job unless it is finished; returns its folder, whose result.json says how it went.

    A job never raises for what goes wrong inside it: its reason is recorded and the next job of a sweep can run.
    """
    cfg = normalised(cfg)
    folder = check_outputs(cfg) / run_key(cfg)
    folder.mkdir(exist_ok=True)
    with FileLock(folder / LOCK):  # parallel jobs share the unpruned run: the second waits, then finds it finished
        found = read_result(folder)
        if cfg.resume and found is not None and found["status"] == "done":
            log.info("%s: finished before, skipped", folder)
            return folder
        _record(cfg, folder)
    return folder


def _record(cfg: DictConfig, folder: Path) -> None:
    """Compute and write the result, or the reason why there is none."""
    (folder / RESULT).unlink(missing_ok=True)
    outcome: dict[str, Any] = {"run_key": folder.name, "config": _resolved(cfg)}
    try:
        outcome |= _compute(cfg, folder)
    except BudgetError as error:
        outcome |= {"status": "unreachable", "reason": str(error)}
    except (*BAD_INPUT, JournalError, AllFailedError) as error:
        outcome |= {"status": "failed", "reason": str(error)}
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        outcome |= {"status": "failed", "reason": reason, "traceback": traceback.format_exc()}
    if outcome["status"] != "done":
        log.error("%s: %s: %s", folder, outcome["status"], outcome["reason"])
        if "traceback" in outcome and os.environ.get("HYDRA_FULL_ERROR") == "1":
            log.error(outcome["traceback"])
    try:
        write_result(folder, outcome)
    except OSError as error:
        log.error("%s: result.json cannot be written (%s); predictions.jsonl keeps what was computed", folder, error)


def _compute(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Everything of result.json for a run that works."""
    start = time.perf_counter()
    parts = check(cfg)
    baseline = folder if is_baseline(cfg) else _baseline(cfg)
    count = min(cfg.limit or len(parts.benchmark), len(parts.benchmark))
    if not cfg.resume:
        for name in (JOURNAL, TIMINGS):
            (folder / name).unlink(missing_ok=True)
    journal = Journal(folder / JOURNAL, folder.name)
    if len(journal) < count:  # the last batch may have been cut short by a kill: it is computed again as a whole
        last = journal.rows[-1]["batch"] if len(journal) else None
        journal.keep(sum(row["batch"] != last for row in journal.rows))
    loading = time.perf_counter()
    loaded = _load(json.dumps(parts.model, sort_keys=True))
    load_seconds = time.perf_counter() - loading
    with run_logger(cfg, folder, folder.name) as logger:
        _answer(cfg, folder, parts, loaded, journal, count, logger)
        outcome = _summarise(cfg, parts, loaded, journal.rows, baseline)
        answered, seconds = read_timings(folder)
        outcome["timings"] = {
            "answering_seconds": seconds,
            "seconds_per_sample": seconds / answered if answered else None,
            "batch_size": cfg.trainer.batch_size,
            "load_seconds": load_seconds,
            "job_seconds": time.perf_counter() - start,
            **(_peak_memory() if cfg.probe.memory else {}),
        }
        outcome |= {"run_key": folder.name, "environment": environment(loaded.model)}
        log_result(logger, cfg, outcome, journal.rows, folder / PICTURES)
    return outcome


def _baseline(cfg: DictConfig) -> Path | None:
    """The folder of the unpruned run of the same model and dataset, computed first if it is missing."""
    unpruned = baseline_of(cfg)
    folder = Path(cfg.paths.outputs) / cfg.name / run_key(unpruned)
    if cfg.baseline == Baseline.auto and (read_result(folder) or {}).get("status") != "done":
        unpruned.resume = True  # recomputing a sweep must not recompute what its points share, once for each
        log.info("unpruned run first: %s", folder)
        run_job(unpruned)
    return folder if (read_result(folder) or {}).get("status") == "done" else None


@lru_cache(maxsize=1)
def _load(options: str) -> LoadedModel:
    """The model of the last job or, if its options differ, a new one in its place."""
    return build(json.loads(options))


def _answer(
    cfg: DictConfig, folder: Path, parts: Parts, loaded: LoadedModel, journal: Journal, count: int, logger: Any
) -> None:
    """Answer the samples that the journal lacks."""
    if len(journal) >= count:
        return
    for name in QUIET:  # a banner per job
        logging.getLogger(name).setLevel(logging.ERROR)
    record = cfg.on_error == OnError.record
    done = {row["id"]: row for row in journal.rows}
    data = EvaluationData(parts.benchmark, count, done, cfg.trainer.batch_size, cfg.trainer.num_workers, record)
    generation = {
        key: value for key, value in cfg.generation.items() if cfg.generation.do_sample or key not in _SAMPLING
    }
    callbacks: list[Callback] = [KeptTokenPictures(folder, cfg.callbacks.pictures)]
    if cfg.callbacks.progress:
        callbacks.append(SampleProgress(f"{parts.pruner.name} {folder.name}", count))
    trainer = Trainer(
        accelerator=cfg.trainer.accelerator.name,
        devices=1,
        logger=logger or False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    with warnings.catch_warnings(), prune(loaded.model, parts.pruner, position=cfg.position.strategy) as session:
        warnings.filterwarnings("ignore", module=r"lightning\..*")  # advice about training loops
        module = Evaluation(loaded, parts.benchmark, session, journal, generation, cfg.seed, record)
        trainer.test(module, datamodule=data, verbose=False)


_SAMPLING = ("temperature", "top_p")


def _summarise(
    cfg: DictConfig, parts: Parts, loaded: LoadedModel, rows: list[Row], baseline: Path | None
) -> dict[str, Any]:
    """Metrics, their errors and their costs, from the journal alone."""
    answered = [row for row in rows if row["status"] == "ok"]
    if not answered:
        raise AllFailedError(f"none of the {len(rows)} samples could be used; the first: {rows[0]['reason']}")

    def aggregate(chosen: list[Row]) -> dict[str, float]:
        return parts.benchmark.aggregate([row["scores"] for row in chosen])

    outcome: dict[str, Any] = {
        "status": "done",
        "method": parts.pruner.name,
        "model": loaded.name,
        "dataset": parts.benchmark.name,
        "position": parts.pruner.native_position if cfg.position.strategy == "native" else cfg.position.strategy,
        "seed": cfg.seed,
        "n": len(answered),
        "n_failed": len(rows) - len(answered),
        "metrics": aggregate(answered),
        "standard_errors": standard_errors(answered, aggregate),
        "intervals": share_intervals(answered),
    }
    if baseline is not None:
        unpruned = answered if is_baseline(cfg) else [r for r in read_rows(baseline / JOURNAL) if r["status"] == "ok"]
        outcome |= {"baseline": baseline.name, "retention": retention(answered, unpruned, aggregate)}
    value_bytes = torch.finfo(loaded.model.dtype).bits // 8
    return outcome | costs(answered, parts.pruner, adapter_for(loaded.model).shape, value_bytes)


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)


def _peak_memory() -> dict[str, float]:
    """Largest memory of this process so far (earlier jobs of a sweep included), and of the GPU."""
    import resource  # not on every platform

    peak = {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if torch.cuda.is_available():
        peak["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return peak

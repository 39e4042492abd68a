"""One job, in order: skip it if it is finished, check it, see to its unpruned run, compute it, record how it went."""

from __future__ import annotations

import logging
import os
import signal
import traceback
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from omegaconf import DictConfig

from nuwa.command import BAD_INPUT
from nuwa.config import PROTOCOL, baseline_of, completed, is_baseline, normalised, plain, recognised_by, run_key
from nuwa.evaluation.answers import holds_all
from nuwa.evaluation.first import check_outputs, is_finished
from nuwa.evaluation.journal import JOURNAL
from nuwa.evaluation.processes import ProcessError, Processes, check_processes, meet
from nuwa.evaluation.result import RESULT, write_result
from nuwa.evaluation.runs import Run
from nuwa.evaluation.signals import follow_parent, stopping_at_once
from nuwa.pruners.base import MisfitError
from nuwa.pruning.budget import BudgetError
from nuwa.schema import Baseline

log = logging.getLogger(__name__)
LOCK = ".lock"


def run_job(cfg: DictConfig) -> Path:
    """Run one job unless it is finished; returns its folder, whose result.json says how it went.

    A job never raises for what goes wrong inside it: its reason is recorded and the next job of a sweep can run. Where
    several processes share a run, each of them calls this, and the loss of one ends the program.
    """
    cfg = normalised(cfg)
    follow_parent()
    processes = meet(cfg)
    folder = check_outputs(cfg) / run_key(cfg)
    with ExitStack() as stack:
        stack.enter_context(stopping_at_once(signal.SIGTERM))
        try:
            with processes.together():
                folder.mkdir(exist_ok=True)
                if processes.lead:  # parallel jobs share the unpruned run: the second waits, then finds it finished
                    stack.enter_context(FileLock(folder / LOCK))
        except (OSError, ProcessError) as error:
            if not is_finished(cfg, folder):  # as the finished runs of others, that are only read
                log.error("%s: failed: %s", folder, error)
                return folder
        if processes.share(is_finished(cfg, folder)):
            known = f"{recognised_by(cfg)}; resume=false computes again"
            log.info("%s: finished before, skipped%s (%s)", folder, _failures(folder), known)
            return folder
        if processes.lead:
            _name_outdated(folder)
        outcome = _outcome(cfg, folder, processes)
        if processes.lead:
            _record(folder, outcome)
        processes.wait()
    return folder


def _failures(folder: Path) -> str:
    """What a skipped run could not answer, for its line."""
    run = Run.read(folder)
    if not run.n_failed:
        return ""
    return f"; {run.n_failed} of {run.n_failed + (run.n or 0)} samples failed"


def _name_outdated(folder: Path) -> None:
    """Log which run made the same choices under an earlier protocol and is computed again here."""
    for file in folder.parent.glob(f"*/{RESULT}"):
        found = Run.read(file.parent)
        with suppress(Exception):  # the config of another version may be anything
            if found.protocol != PROTOCOL and run_key(completed(found.config, file)) == folder.name:
                log.info("%s: computed again, because %s is of protocol %s", folder, file.parent, found.protocol)


def _outcome(cfg: DictConfig, folder: Path, processes: Processes) -> dict[str, Any]:
    """The contents of result.json: what was computed, or why nothing was."""
    before = Run.read(folder)
    if before.status == "unreadable":
        log.warning("%s; computed again", before.reason)
    from nuwa.evaluation.check import check  # skipping needs neither transformers nor Lightning: they take seconds
    from nuwa.evaluation.compute import compute

    outcome: dict[str, Any] = {"run_key": folder.name, "config": plain(cfg)}
    if cfg.resume and before.judge:  # whose marks are in the journal
        outcome["judge"] = before.judge
    try:
        with processes.together():
            (folder / RESULT).unlink(missing_ok=True)
            check_processes(cfg, processes)
            parts = check(cfg)
        unpruned = folder if is_baseline(cfg) else _baseline(cfg, processes)
        return outcome | compute(cfg, folder, parts, unpruned, processes)
    except (BudgetError, MisfitError) as error:
        status = "unreachable" if isinstance(error, BudgetError) else "refused"
        return outcome | {"status": status, "reason": str(error)}
    except Exception as error:
        return outcome | {"status": "failed", "reason": _reason(error), "traceback": traceback.format_exc()}


def _reason(error: Exception) -> str:
    """What a job failed of, for the person who started it."""
    if isinstance(error, (*BAD_INPUT, ProcessError)):
        return str(error)
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in reason:
        return f"not enough memory; try a smaller trainer.batch_size or model, or model.dtype=bfloat16 ({reason})"
    return reason


def _record(folder: Path, outcome: dict[str, Any]) -> None:
    """Say what went wrong, if anything did, and write the result."""
    if outcome["status"] != "done":
        level = logging.ERROR if outcome["status"] == "failed" else logging.WARNING
        log.log(level, "%s: %s: %s", folder, outcome["status"], outcome["reason"])
        if "traceback" in outcome and os.environ.get("HYDRA_FULL_ERROR") == "1":
            log.error(outcome["traceback"])
    try:
        write_result(folder, outcome)
    except OSError as error:
        log.error("%s: result.json cannot be written (%s); predictions.jsonl keeps what was computed", folder, error)


def _baseline(cfg: DictConfig, processes: Processes) -> Path | None:
    """The folder of the unpruned run of the same model and dataset, computed first if it is missing."""
    unpruned = baseline_of(cfg)
    folder = Path(cfg.paths.outputs) / cfg.name / run_key(unpruned)
    found = Run.read(folder)
    if cfg.baseline == Baseline.auto and processes.share(found.n_passing > 0 or not holds_all(folder, found)):
        # recomputing a sweep must not recompute what its points share, once for each; what is lost has to be
        unpruned.resume = not found.done or (folder / JOURNAL).exists()
        log.info("unpruned run first: %s", folder)
        run_job(unpruned)
    return folder if holds_all(folder, Run.read(folder)) else None

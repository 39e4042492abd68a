"""One job, in order: skip it if it is finished, check it, see to its unpruned run, compute it, record how it went."""

from __future__ import annotations

import logging
import os
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

from nuwa.command import BAD_INPUT
from nuwa.config import baseline_of, is_baseline, run_key
from nuwa.evaluation.check import check, check_outputs, normalised
from nuwa.evaluation.journal import JournalError
from nuwa.evaluation.processes import ProcessError, Processes, check_processes, meet
from nuwa.evaluation.result import RESULT, read_result, write_result
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
    processes = meet(cfg)
    folder = check_outputs(cfg) / run_key(cfg)
    folder.mkdir(exist_ok=True)
    # parallel jobs share the unpruned run: the second waits, then finds it finished
    with FileLock(folder / LOCK) if processes.lead else nullcontext():
        if processes.share(cfg.resume and _is_finished(cfg, folder)):
            log.info("%s: finished before, skipped", folder)
            return folder
        outcome = _outcome(cfg, folder, processes)
        if processes.lead:
            _record(folder, outcome)
        processes.wait()
    return folder


def _is_finished(cfg: DictConfig, folder: Path) -> bool:
    """Whether a run has all that is asked for: its answers, the comparison with the unpruned run, the probe's times."""
    found = read_result(folder)
    if found is None or found["status"] != "done" or (cfg.baseline == Baseline.auto and "baseline" not in found):
        return False
    probe = OmegaConf.to_container(cfg.probe, resolve=True)
    return not cfg.probe.speed or ("speed" in found and found["config"]["probe"] == probe)


def _outcome(cfg: DictConfig, folder: Path, processes: Processes) -> dict[str, Any]:
    """What result.json will hold: what was computed, or the reason why there is nothing."""
    before = (read_result(folder) or {}) if cfg.resume else {}
    (folder / RESULT).unlink(missing_ok=True)
    outcome: dict[str, Any] = {"run_key": folder.name, "config": _resolved(cfg)}
    if "judge" in before:  # whose marks are in the journal
        outcome["judge"] = before["judge"]
    try:
        with processes.together():
            check_processes(cfg, processes)
            parts = check(cfg)
        unpruned = folder if is_baseline(cfg) else _baseline(cfg, processes)
        from nuwa.evaluation.compute import compute  # Lightning takes seconds to import; skipping needs none of it

        return outcome | compute(cfg, folder, parts, unpruned, processes)
    except (BudgetError, MisfitError) as error:
        status = "unreachable" if isinstance(error, BudgetError) else "refused"
        return outcome | {"status": status, "reason": str(error)}
    except Exception as error:
        expected = isinstance(error, (*BAD_INPUT, JournalError, ProcessError))
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        return outcome | {"status": "failed", "reason": reason, "traceback": traceback.format_exc()}


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
    if cfg.baseline == Baseline.auto and processes.share((read_result(folder) or {}).get("status") != "done"):
        unpruned.resume = True  # recomputing a sweep must not recompute what its points share, once for each
        log.info("unpruned run first: %s", folder)
        run_job(unpruned)
    return folder if (read_result(folder) or {}).get("status") == "done" else None


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)

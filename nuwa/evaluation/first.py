"""What is looked at first: whether results can be written, and whether a job has its own already.

Imports neither transformers nor Lightning, which take seconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nuwa.command import BAD_INPUT, print_error
from nuwa.config import ConfigError, check_ranges, normalised, plain, run_key
from nuwa.evaluation.answers import holds_all
from nuwa.evaluation.journal import JOURNAL
from nuwa.evaluation.processes import check_sweep, start
from nuwa.evaluation.runs import Run
from nuwa.schema import Baseline


class CheckFirst(Callback):
    """Hydra callback that refuses bad input before Hydra makes a folder for it; a sweep checks each point later.

    It also starts the processes of ``trainer=ddp``.
    """

    def on_run_start(self, config: DictConfig, **kwargs: object) -> None:
        """Check the one job, in full unless it is finished."""
        _stop_if_refused(config, check_outputs, check_ranges, _check_unfinished, start)

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Check what all points have in common."""
        _stop_if_refused(config, check_outputs, check_sweep, start)


def _stop_if_refused(config: DictConfig, *checks: Callable[[DictConfig], object]) -> None:
    """Run ``checks``; Hydra swallows exceptions of callbacks, so a refusal ends the program here."""
    try:
        for one in checks:
            one(config)
    except BAD_INPUT as error:
        print_error(error)
        raise SystemExit(1) from error


def _check_unfinished(cfg: DictConfig) -> None:
    """Check a job in full if it has something left to do."""
    with suppress(*BAD_INPUT, OmegaConfBaseException):  # what is wrong with it is said below
        job = normalised(cfg)
        if is_finished(job, Path(job.paths.outputs) / job.name / run_key(job)):
            return
    from nuwa.evaluation.check import check

    check(cfg)


def check_outputs(cfg: DictConfig) -> Path:
    """Make the folder of all runs of this name and try to write into it.

    Raises:
        ConfigError: it cannot be written, or the name leads out of ``paths.outputs``.
    """
    folder = Path(cfg.paths.outputs) / cfg.name
    for key, path in (("paths.outputs", cfg.paths.outputs), ("name", cfg.name)):
        if not path.strip() or "\0" in path:
            raise ConfigError(f"{key}={path!r}: needs the name of a folder")
    if cfg.name == "." or Path(cfg.name).is_absolute() or ".." in Path(cfg.name).parts:
        raise ConfigError(f"name={cfg.name}: must be a folder below paths.outputs={cfg.paths.outputs}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"paths.outputs={cfg.paths.outputs}: cannot write to {folder} ({error.strerror})") from error
    return folder


def is_finished(cfg: DictConfig, folder: Path) -> bool:
    """Whether a run has all that was asked for: answers, comparison with the unpruned run, times of the probe.

    It has not if samples failed for a reason that may pass, if its journal lost some, nor with ``resume=false``.
    """
    if not cfg.resume:
        return False
    found = Run.read(folder)
    cut_short = (folder / JOURNAL).exists() and not holds_all(folder, found)
    if not found.done or found.n_passing or cut_short or (cfg.baseline == Baseline.auto and found.baseline is None):
        return False
    return not cfg.probe.speed or (found.speed is not None and found.config.get("probe") == plain(cfg.probe))

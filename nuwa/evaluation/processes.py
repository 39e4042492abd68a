"""Several processes that share a run (``trainer=ddp``): who they are, how they start, and where they meet.

All of them go through the same jobs in the same order. The first one, the lead, decides, merges and writes results;
the others answer their share. torchrun starts them, either by hand or from ``launch.py``. They exchange small Python
objects only, so they meet over gloo, on GPUs too.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from omegaconf import DictConfig
from torch import distributed

from nuwa.config import ConfigError
from nuwa.schema import Accelerator

PER_CORE = 4  # processes on a CPU
PATIENCE = timedelta(days=7)
"""How long a process waits for the others. A death is noticed at once; this bounds a lost network."""


class ProcessError(RuntimeError):
    """Another process of the run failed; the message names it."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them; by default it is the only one.

    ``rank`` counts over all nodes, ``local_rank`` on this node; the process uses the GPU of that number.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def lead(self) -> bool:
        """Whether this process decides and writes for all."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """The lead's ``value``, in every process."""
        return self._gather(value)[0]

    def wait(self) -> None:
        """Wait until all processes are here.

        Raises:
            SystemExit: one of them was lost, and the others can do no more.
        """
        try:
            self._gather(None)
        except ProcessError as error:
            raise SystemExit(1) from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make work fail in all processes if it fails in one, after all have finished it.

        Raises:
            Exception: the error of this process, or a ProcessError that names the error of another one.
        """
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        reasons = self._gather(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, reason in enumerate(reasons):
            if reason is not None:
                raise ProcessError(f"process {rank} of {self.size}: {reason}")

    def _gather(self, value: Any) -> list[Any]:
        if self.size == 1:
            return [value]
        values = [None] * self.size
        try:
            distributed.all_gather_object(values, value)
        except RuntimeError as error:
            raise ProcessError("another process was lost; the same command goes on from there") from error
        return values


def is_shared(cfg: DictConfig) -> bool:
    """Whether a config asks for several processes, or for as many as there are GPUs."""
    return cfg.trainer.devices != 1 or cfg.trainer.num_nodes != 1


def current(cfg: DictConfig) -> Processes:
    """The processes that torchrun has started for this job; a single one without torchrun or ``trainer=ddp``."""
    if not is_shared(cfg) or not distributed.is_torchelastic_launched():
        return Processes()
    return Processes(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))


def meet(cfg: DictConfig) -> Processes:
    """Connect the `current` processes; the connection stays open for the jobs that follow."""
    processes = current(cfg)
    if processes.size > 1 and not distributed.is_initialized():
        distributed.init_process_group("gloo", rank=processes.rank, world_size=processes.size, timeout=PATIENCE)
    return processes


def check_processes(cfg: DictConfig, processes: Processes) -> None:
    """Refuse a number of processes other than the config's."""
    trainer, nodes = cfg.trainer, processes.size // processes.local_size
    if trainer.num_nodes != nodes or trainer.devices not in (None, processes.local_size):
        raise ConfigError(
            f"trainer.devices={trainer.devices}, trainer.num_nodes={trainer.num_nodes}: the processes are "
            f"{processes.local_size} on each of {nodes} nodes; "
            f"start them with torchrun --nnodes={trainer.num_nodes} --nproc-per-node={trainer.devices or '<GPUs>'}"
        )


def start(cfg: DictConfig) -> None:
    """Run this command line in several processes if the config asks for them, then end the program.

    A process that torchrun has started goes on; all but the lead fall silent.

    Raises:
        ConfigError: the processes cannot be started from here.
        SystemExit: the processes have ended.
    """
    if not is_shared(cfg):
        return
    if distributed.is_torchelastic_launched():
        if not current(cfg).lead:  # which reports the errors of the others, too
            logging.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    if cfg.trainer.num_nodes != 1:
        raise ConfigError(
            f"trainer.num_nodes={cfg.trainer.num_nodes}: start torchrun on every node, as conf/trainer/ddp.yaml shows"
        )
    most = PER_CORE * (os.cpu_count() or 1)
    if cfg.trainer.accelerator == Accelerator.cpu and (cfg.trainer.devices or 1) > most:
        raise ConfigError(f"trainer.devices={cfg.trainer.devices}: this machine has cores for {most} processes at most")
    count = cfg.trainer.devices or (1 if cfg.trainer.accelerator == Accelerator.cpu else torch.cuda.device_count())
    if count > 1:
        raise SystemExit(_run(count))


def check_sweep(cfg: DictConfig) -> None:
    """Refuse ``trainer=ddp`` under a launcher that runs the jobs of a sweep side by side."""
    launcher = cfg.hydra.launcher._target_
    if is_shared(cfg) and not launcher.endswith(".BasicLauncher"):
        raise ConfigError(
            f"hydra/launcher={launcher.rsplit('.', 1)[-1]}: trainer=ddp computes the jobs of a sweep one after the "
            "other, each on all devices; leave the launcher at basic, or spread jobs over devices with trainer=gpu"
        )


def _run(count: int) -> int:
    """Run this command line in ``count`` processes under torchrun; returns the exit status.

    The processes share the cores of the CPU, where torchrun would give each a single one.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    main = sys.modules["__main__"].__spec__
    program = [sys.argv[0]] if main is None else ["--module", main.name]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // count)))
    logging.disable()  # the processes log for themselves; what they could not say is printed below
    try:
        torchrun.run(torchrun.parse_args(["--standalone", f"--nproc-per-node={count}", *program, *sys.argv[1:]]))
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            ended = f"process {rank} was ended by {failure.signal_name()}"
            print(f"error: {ended}; the same command goes on from there", file=sys.stderr)
        return 1
    except SignalException as stopped:
        return 128 + stopped.sigval
    return 0

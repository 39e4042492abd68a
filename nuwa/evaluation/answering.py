"""Answers the samples that a job's journal lacks: a session or an engine, its data, and what watches."""

from __future__ import annotations

import logging
import math
import warnings
from contextlib import ExitStack

from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from omegaconf import DictConfig

from nuwa import prune
from nuwa.config import decoding
from nuwa.engine.blocking import configured_block
from nuwa.engine.session import PruningSession
from nuwa.evaluation.callbacks import KeptTokenPictures, SampleProgress
from nuwa.evaluation.check import Parts, pruning_options
from nuwa.evaluation.data import EvaluationData
from nuwa.evaluation.engine import EngineEvaluation
from nuwa.evaluation.features import batches_key, feature_cache
from nuwa.evaluation.journal import Journal, Row
from nuwa.evaluation.module import Evaluation
from nuwa.evaluation.processes import Processes
from nuwa.evaluation.running import RunningMetrics
from nuwa.models.loading import LoadedModel
from nuwa.schema import OnError
from nuwa.serve.engine import Engine

QUIET = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")


def answer(
    cfg: DictConfig,
    parts: Parts,
    loaded: LoadedModel,
    journal: Journal,
    done: dict[str, Row],
    processes: Processes,
    engine: Engine | None,
    logger: Logger | None,
) -> None:
    """Answer this process's share of the samples that are not ``done``."""
    count = parts.benchmark.take(cfg.limit)
    if len(done) >= count:
        return
    for name in QUIET:  # a banner per job
        logging.getLogger(name).setLevel(logging.ERROR)
    record = cfg.on_error == OnError.record
    portions = (cfg.trainer.batch_size, cfg.trainer.num_workers, record, processes.rank, processes.size)
    whole = engine is None and not done and processes.size == 1
    ahead = (None if engine else loaded.encode), cfg.trainer.prefetch, batches_key(cfg, loaded) if whole else ""
    data = EvaluationData(parts.benchmark, count, done, *portions, *ahead)
    on_gpu = loaded.device.type == "cuda"
    trainer = Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=[loaded.device.index or 0] if on_gpu else 1,
        plugins=[LightningEnvironment()],  # each of several processes has a trainer of its own
        logger=False,  # the result is logged when it is there: a logger that fails must not stop the trainer
        callbacks=_callbacks(cfg, parts, journal, count - len(done) + len(journal), processes, logger),
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=journal.path.parent,
    )
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.filterwarnings("ignore", module=r"lightning\..*")  # advice about training loops
        if engine is None:
            session = _session(cfg, parts, loaded, stack)
            module = Evaluation(loaded, parts.benchmark, session, journal, decoding(cfg), cfg.seed, record)
        else:
            module = EngineEvaluation(engine, parts.benchmark, journal, cfg.generation.max_new_tokens, record)
        trainer.test(module, datamodule=data, verbose=False)


def _session(cfg: DictConfig, parts: Parts, loaded: LoadedModel, stack: ExitStack) -> PruningSession:
    """The open session under which a model answers."""
    share = cfg.trainer.share and cfg.blocking.source is None
    how = pruning_options(cfg)
    session = prune(loaded.model, parts.pruner, share=share, cache=feature_cache(cfg, loaded), **how)
    stack.enter_context(session)
    stack.enter_context(configured_block(session, **cfg.blocking))
    return session


def _callbacks(
    cfg: DictConfig, parts: Parts, journal: Journal, total: int, processes: Processes, logger: Logger | None
) -> list[Callback]:
    """Running numbers, pictures and a bar, in the first process alone, about its share of the ``total``."""
    if not processes.lead:
        return []
    share = math.ceil(total / processes.size)
    callbacks: list[Callback] = [] if logger is None else [RunningMetrics(logger, parts.benchmark, journal, share)]
    callbacks.append(KeptTokenPictures(journal.path.parent, cfg.callbacks.pictures))
    if cfg.callbacks.progress:
        label = f"{parts.pruner.name} {journal.run_key}" + (f" 1/{processes.size}" if processes.size > 1 else "")
        callbacks.append(SampleProgress(label, journal, share))
    return callbacks

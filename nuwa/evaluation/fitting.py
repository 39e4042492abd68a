"""Budgets of methods that let every image decide: the coefficient that spends a mean, found on a few samples."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from nuwa import prune
from nuwa.benchmarks.base import Benchmark
from nuwa.evaluation.check import Parts, pruning_options
from nuwa.evaluation.features import feature_cache
from nuwa.evaluation.journal import Row
from nuwa.models.loading import LoadedModel
from nuwa.pruners.base import Pruner
from nuwa.pruning.budget import Budget, BudgetError, average_entering, turn_dial
from nuwa.pruning.schedules import Schedule
from nuwa.samples import Sample, SampleError, visual_ids

MISSED = 0.05
"""The share of a budget by which the mean of a run may miss it before the run says so."""

log = logging.getLogger(__name__)


def fit_budget(cfg: DictConfig, parts: Parts, loaded: LoadedModel) -> dict[str, Any]:
    """The value of the method's dial at which images spend the budget on average, and what they spend: for result.json.

    What is solved for is the mean of visual tokens entering the LLM's layers (a share of an image's, under
    ``budget.ratio``). The prompts of ``budget.samples`` samples, the same for every method, are read once for each
    value that is tried.

    Raises:
        BudgetError: there are too few samples, or no value spends the budget.
    """
    pruner, budget = parts.pruner, parts.pruner.budget
    samples = draw_samples(parts.benchmark, parts.benchmark.take(cfg.limit), cfg.budget.samples)
    seen: dict[float, list[float]] = {}

    def mean_at(value: float) -> float:
        seen[value] = _spend(cfg, loaded, pruner.turned(value), budget, samples)
        return fmean(seen[value])

    assert pruner.dial is not None
    try:
        value = turn_dial(mean_at, pruner.dial, budget.asked)
    except BudgetError as error:
        on = f"{len(samples)} samples of {parts.benchmark.name}"
        raise BudgetError(f"pruner {pruner.name}, on {on}: {error}") from error
    option = pruner.dial.option
    log.info("pruner.%s=%.6g spends %.4g on average of %d samples", option, value, fmean(seen[value]), len(samples))
    unit = "ratio" if budget.average is None else "average"
    fitted = {"option": option, "value": value, "unit": unit, "budget": budget.asked, **spread(seen[value])}
    return fitted | {"samples": [sample.id for sample in samples]}


def draw_samples(benchmark: Benchmark, count: int, wanted: int) -> list[Sample]:
    """``wanted`` of the first ``count`` samples that can be read and have a visual, the same ones whenever asked.

    Raises:
        BudgetError: there are fewer.
    """
    drawn: list[Sample] = []
    for index in torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist():
        try:
            sample = benchmark[index]
        except SampleError:
            continue
        if sample.image_ids:
            drawn.append(sample)
        if len(drawn) == wanted:
            return drawn
    raise BudgetError(
        f"budget.samples={wanted}: {benchmark.name} has {len(drawn)} readable samples with a picture or video to fit a "
        f"budget on"
    )


def _spend(
    cfg: DictConfig, loaded: LoadedModel, pruner: Pruner, budget: Budget, samples: Sequence[Sample]
) -> list[float]:
    """What each image of some samples spends under a pruner."""
    spent, size = [], cfg.trainer.batch_size
    with prune(loaded.model, pruner, cache=feature_cache(cfg, loaded), **pruning_options(cfg)) as session:
        for start in range(0, len(samples), size):
            batch = samples[start : start + size]
            names = visual_ids(batch)
            with session.about(names, loaded.questions(batch)):
                # a run numbers the places of padded rows as generate does
                loaded.model.generate(**loaded.encode(batch), max_new_tokens=1, do_sample=False)
            images = session.report().images
            spent += [budget.spent(average_entering(image.per_layer), image.n_tokens) for image in images]
    return spent


def spread(spent: Sequence[float]) -> dict[str, float]:
    """Mean and 10th, 50th and 90th percentile of what images spend."""
    low, middle, high = np.percentile(spent, (10, 50, 90)).tolist()
    return {"mean": fmean(spent), "p10": low, "p50": middle, "p90": high}


def compare_with_run(
    pruner: Pruner, fitted: Mapping[str, Any] | None, rows: Sequence[Row], layers: int
) -> dict[str, Any]:
    """What the images of a run spent, added to what was ``fitted``, and a warning if their mean misses the budget.

    Nothing where there is no budget, or the method meets it exactly.
    """
    budget, spent = pruner.budget, []
    if budget.full or not pruner.counts_by_itself:
        return {}
    for row in rows:
        for (first, *later), n_tokens in zip(row["kept"], row["image_tokens"], strict=True):
            entering = Schedule(first[1], tuple(map(tuple, later))).average(layers)
            spent.append(budget.spent(entering, n_tokens))
    if not spent:
        return {}
    whole = spread(spent)
    off = whole["mean"] / budget.asked - 1
    outcome: dict[str, Any] = {} if fitted is None else {"fitted": {**fitted, "run": whole}}
    if abs(off) > MISSED:
        outcome["warning"] = f"its mean of {whole['mean']:.4g} misses the budget of {budget.asked:g} by {off:+.1%}"
    return outcome

"""Reads samples of a benchmark one at a time and collects records of what was measured.

A record is a flat dict: sample, task, layer, what was measured, ``value``. Layers count from 0; states are those that
leave a layer. Of a sample with several images the first is looked at. `average` makes tables of records.
"""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from nuwa import prune
from nuwa.analysis.gradients import GradientCall, watch_gradients
from nuwa.analysis.measures import group_flow, mean_and_error
from nuwa.benchmarks.base import Benchmark
from nuwa.engine.calls import LayerCall, read_prompt_once, watch_layers
from nuwa.engine.groups import GROUPS
from nuwa.models import adapter_for
from nuwa.models.loaded import LoadedModel
from nuwa.models.towers import LayerRun, Recording
from nuwa.pruners.none import KeepAll
from nuwa.samples import Sample

Record = dict[str, Any]


def record(sample: Sample, layer: int | None, value: float | None, **what: Any) -> Record:
    """One measured value of a sample."""
    return {"sample": sample.id, "task": sample.task, "layer": layer, **what, "value": value}


def read_layers(loaded: LoadedModel, sample: Sample, watch: Callable[[LayerCall], None]) -> None:
    """Call ``watch`` after every decoder layer while the unpruned model reads a sample."""
    with prune(loaded.model, KeepAll()) as session, watch_layers(session, watch):
        read_prompt_once(session, loaded.encode([sample]))


@torch.no_grad()
def read_tower(loaded: LoadedModel, sample: Sample, watch: Callable[[Recording, LayerRun], None]) -> Recording:
    """Call ``watch`` after every layer of the vision tower while it sees a sample; returns a recording of features."""
    family = adapter_for(loaded.model)
    encode = family.encode_images
    known = inspect.signature(encode).parameters
    arguments = {name: value for name, value in loaded.encode([sample]).items() if name in known}
    recording = family.new_recording(arguments)
    with recording.reading((), functools.partial(watch, recording)):
        encode(**arguments)
    return recording


def attention_flow(loaded: LoadedModel, sample: Sample) -> list[Record]:
    """Where a token of each group looks, per layer (paper Fig. 3): shares of its attention by group."""
    records: list[Record] = []
    read_layers(loaded, sample, lambda call: records.extend(_flow_records(sample, call, call.groups(), call)))
    return records


def gradient_flow(loaded: LoadedModel, benchmark: Benchmark, sample: Sample) -> list[Record]:
    """The same of attention times the gradient of the answer's log-likelihood, ReLU, head mean (paper Fig. 7).

    ``per``: the mean over a group's tokens, and the sum over the ``group``, as vision has many. The answer is the
    model's own, decoded greedily, so that every benchmark and prompt has one.
    """
    inputs, records = loaded.encode([sample]), []
    with prune(loaded.model, KeepAll()) as session:
        limit = benchmark.max_new_tokens(sample.task)
        ids = loaded.model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        answers = torch.tensor([ids.shape[1] - inputs["input_ids"].shape[1]], device=ids.device)

        def watch(seen: GradientCall) -> None:
            records.extend(_flow_records(sample, seen.call, seen.call.groups(answers - 1), seen))

        watch_gradients(session, prompt_and_answer(inputs, ids), ids, answers, watch)
    return records


def prompt_and_answer(inputs: dict[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
    """The inputs of a prompt that goes on with all but the last of ``ids`` (B, L + n)."""
    more = ids.shape[1] - 1 - inputs["input_ids"].shape[1]
    longer = inputs | {"input_ids": ids[:, :-1]}
    for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if name in inputs:
            longer[name] = torch.nn.functional.pad(inputs[name], (0, more), value=value)
    return longer


def _flow_records(sample: Sample, call: LayerCall, groups: Tensor, seen: LayerCall | GradientCall) -> list[Record]:
    """Mean and sum over the queries of each group; a group without tokens has no record."""
    parts = [group_flow(rows, groups[:, query], groups) for query, rows in seen.attention_chunks()]
    sums, counts = (sum(part)[0] for part in zip(*parts, strict=True))
    records = []
    for one, source in enumerate(GROUPS):
        for other, target in enumerate(GROUPS[: one + 1]):
            if counts[one] and counts[other]:
                total, flow = float(sums[one, other]), {"source": source, "target": target}
                records.append(record(sample, call.index, total / float(counts[one]), **flow, per="token"))
                records.append(record(sample, call.index, total, **flow, per="group"))
    return records


def average(records: Iterable[Record], keys: Sequence[str]) -> list[Record]:
    """Mean, standard error and number of the values that share ``keys``, in order of appearance."""
    values: dict[tuple, list[float]] = defaultdict(list)
    for entry in records:
        values[tuple(entry[key] for key in keys)].append(entry["value"])
    rows = []
    for group, members in values.items():
        mean, error = mean_and_error(members)
        rows.append({**dict(zip(keys, group, strict=True)), "mean": mean, "error": error, "n": len(members)})
    return rows

"""The speed probe: how long a pruned model takes beside the unpruned one, part by part, in one process.

Both run in turn on the same batch, after a warm-up; every number is the median over rounds with its quartiles, and
every ratio is taken within a round. On a GPU the clock waits for the device at every mark.
"""

from __future__ import annotations

import copy
import inspect
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from nuwa.benchmarks.base import Benchmark
from nuwa.engine.arguments import cache_of, with_cache
from nuwa.engine.session import PruningSession
from nuwa.models import adapter_for
from nuwa.models.base import Family
from nuwa.models.loaded import LoadedModel
from nuwa.pruners.base import Pruner
from nuwa.pruning.flops import llm_flops
from nuwa.samples import Sample, SampleError
from nuwa.schema import ProbeConfig

VANILLA, PRUNED = "vanilla", "pruned"
RATIOS = ("encode_ms", "prefill_ms", "ttft_ms", "decode_ms_per_token")
MEGABYTE = 2**20


@dataclass
class Clock:
    """Milliseconds on a device, added up by name."""

    device: torch.device
    spent: dict[str, float] = field(default_factory=dict)

    def now(self) -> float:
        """Milliseconds, once the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return 1000 * time.perf_counter()

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Add the time of a block, or of each call of the function that this decorates, to ``name``."""
        start = self.now()
        yield
        self.spent[name] = self.spent.get(name, 0.0) + self.now() - start


def probe_speed(
    loaded: LoadedModel,
    benchmark: Benchmark,
    pruner: Pruner | None,
    position: str,
    options: ProbeConfig,
    **how: Any,
) -> list[dict[str, Any]]:
    """One entry per batch size: medians and quartiles of every part, vanilla and pruned, and their ratios.

    ``pruner=None`` measures the unpruned model alone; ``how``: other arguments of `nuwa.prune`. A benchmark with fewer
    samples than a batch repeats them. ``warmup`` rounds of the ``options`` are thrown away, ``repeats`` count; each
    decodes ``new_tokens``.

    Raises:
        SampleError: no sample has a picture or a video.
    """
    samples = [*islice(_with_visuals(benchmark), max(options.batch_sizes))]
    if not samples:
        raise SampleError("no sample that can be read has a picture or a video")
    batches = []
    for size in options.batch_sizes:
        batch = [samples[index % len(samples)] for index in range(size)]
        inputs, questions = loaded.encode(batch), loaded.questions(batch)
        batches.append(_probe_batch(loaded.model, inputs, questions, pruner, {"position": position, **how}, options))
    return batches


def _with_visuals(benchmark: Benchmark) -> Iterator[Sample]:
    """The samples that can be read and have a picture or a video."""
    for index in range(len(benchmark)):
        with suppress(SampleError):
            sample = benchmark[index]
            if sample.image_ids:
                yield sample


@torch.no_grad()
def _probe_batch(
    model: nn.Module,
    inputs: dict[str, Tensor],
    questions: Sequence[str] | None,
    pruner: Pruner | None,
    how: Mapping[str, Any],
    options: ProbeConfig,
) -> dict[str, Any]:
    adapter, device = adapter_for(model), inputs["input_ids"].device
    names = [VANILLA] if pruner is None else [VANILLA, PRUNED]
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    lengths: dict[str, list[int]] = {}
    for repeat in range(options.warmup + options.repeats):
        for name in names:
            clock = Clock(device)
            with ExitStack() as stack:
                if pruner is not None and name == PRUNED:
                    session = PruningSession(model, _watched(pruner, clock), **how)
                    stack.enter_context(session)
                    stack.enter_context(session.about(questions=questions))
                measured, lengths[name] = _round(adapter, inputs, clock, options.new_tokens)
            if repeat >= options.warmup:
                rounds[name].append(measured)
    entry: dict[str, Any] = {
        "batch": len(inputs["input_ids"]),
        "prompt_tokens": inputs["input_ids"].shape[1],
        "new_tokens": options.new_tokens,
        "warmup": options.warmup,
        "repeats": options.repeats,
        "variants": {name: _summary(rounds[name]) for name in names},
    }
    if pruner is not None:
        entry |= _comparison(adapter, rounds, lengths)
    return entry


def _watched(pruner: Pruner, clock: Clock) -> Pruner:
    """The same method, the time of its choices inside the LLM added to the clock."""
    watched = copy.copy(pruner)
    if watched.prunes_llm:
        vars(watched)["prune_llm"] = clock.timing("llm_selection_ms")(watched.prune_llm)
    return watched


def _round(
    adapter: Family, inputs: dict[str, Tensor], clock: Clock, new_tokens: int
) -> tuple[dict[str, float], list[int]]:
    """Encode pictures and videos, run the prompt, decode; what each took, and the tokens that each layer cached."""
    model, cuda, timing = adapter.model, clock.device.type == "cuda", clock.timing
    if cuda:
        torch.cuda.reset_peak_memory_stats(clock.device)
    seen = {kind: family for kind, family in adapter.kinds.items() if family.pixels_at in inputs}
    taken = {kind: _arguments(family, inputs) for kind, family in seen.items()}
    pixels = [family.pixels_at for family in seen.values()]
    rest = {name: value for name, value in inputs.items() if name not in pixels}
    projector, running = adapter.projector, ExitStack()
    before = projector.register_forward_pre_hook(lambda *_: running.enter_context(timing("projector_ms")))
    after = projector.register_forward_hook(lambda *_: running.close())
    with timing("ttft_ms"):
        with timing("encode_ms"), before, after:
            encoded = {kind: family.encode_images(**taken[kind]) for kind, family in seen.items()}
        with timing("prefill_ms"):
            output = model(**rest, mm_encoder_outputs=encoded, use_cache=True, logits_to_keep=1)
    cache: Any = cache_of(output)
    layers = cache.layers
    lengths = [layer.keys.shape[2] for layer in layers]
    kv_bytes = sum(x.numel() * x.element_size() for layer in layers for x in (layer.keys, layer.values))
    with timing("decode_ms"):
        _decode(adapter, inputs["attention_mask"], output, new_tokens)
    measured = clock.spent
    decode = measured.pop("decode_ms")
    measured["decode_ms_per_token"] = decode / new_tokens
    measured["samples_per_second"] = 1000 * len(inputs["input_ids"]) / (measured["ttft_ms"] + decode)
    measured["kv_mb"] = kv_bytes / MEGABYTE
    if cuda:
        measured["peak_memory_mb"] = torch.cuda.max_memory_allocated(clock.device) / MEGABYTE
    return measured, lengths


def _arguments(family: Family, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the inputs that the encoder of one kind of visuals takes."""
    known = inspect.signature(family.encode_images).parameters
    return {name: value for name, value in inputs.items() if name in known and name != "input_ids"}


def _decode(adapter: Family, mask: Tensor, output: Any, new_tokens: int) -> None:
    """Greedy steps on a filled cache; under M-RoPE one id on all axes, as the place of a step costs nothing."""
    cache = cache_of(output)
    for _ in range(new_tokens):
        mask = nn.functional.pad(mask, (0, 1), value=1)
        ids = mask.sum(1, keepdim=True) - 1
        output = adapter.model(
            input_ids=output.logits[:, -1:].argmax(-1),
            attention_mask=mask,
            position_ids=ids if adapter.axes == 1 else ids.expand(adapter.axes, *ids.shape),
            use_cache=True,
            logits_to_keep=1,
            **with_cache(adapter.model, {}, cache),
        )


def _comparison(
    adapter: Family, rounds: dict[str, list[dict[str, float]]], lengths: dict[str, list[int]]
) -> dict[str, Any]:
    """Speed-ups of the pruned run, and how much of what the prefill's FLOPs promise is reached."""
    pairs = list(zip(rounds[VANILLA], rounds[PRUNED], strict=True))
    speedup = {name: _quartiles([vanilla[name] / pruned[name] for vanilla, pruned in pairs]) for name in RATIOS}
    extra = _quartiles([pruned["encode_ms"] - vanilla["encode_ms"] for vanilla, pruned in pairs])
    promised = llm_flops(lengths[VANILLA], adapter.shape) / llm_flops(lengths[PRUNED], adapter.shape)
    return {
        "speedup": speedup,
        "compression_ms": extra,
        "theoretical_prefill_speedup": promised,
        "reached": speedup["prefill_ms"]["median"] / promised,
    }


def _summary(measured: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: _quartiles([one[name] for one in measured]) for name in measured[0]}


def _quartiles(values: list[float]) -> dict[str, float]:
    """Median and quartiles; a single value is all three."""
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": median, "q1": low, "q3": high}

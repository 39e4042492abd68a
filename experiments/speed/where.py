"""Where the time of a prefill goes, by size of the model and batch, unpruned and pruned, as Markdown.

    python experiments/speed/where.py [--models 128x16 512x16 1024x32] [--batches 1 8 32] [--method nuwa] [--repeats 3]

LLaVA-1.5's architecture with random weights: 576 visual tokens, 95 of text, an average budget of 64. A model is given
by the width and the layers of its LLM. Times of the processor, so that other work on the machine counts little; medians
over rounds after one that does not count, unpruned and pruned in turn in one process. A cell is the time of a part and,
in the pruned row, how many times faster it is. ``attention`` and ``MLP`` hold their projections, ``choosing`` all that
the method does, ``rest`` whatever belongs to no part: Python, masks, cache, rotary embeddings, moving tokens.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import nn

import nuwa
from nuwa.engine import encoder
from nuwa.engine.arguments import cache_of, with_cache
from nuwa.models import adapter_for
from nuwa.models.loaded import LoadedModel
from nuwa.models.prompts import IMAGE
from nuwa.models.random_vlm import RandomModel
from nuwa.pruning.flops import llm_flops
from nuwa.report.tables.formats import markdown_text

PARTS = ("tower", "choosing", "attention", "MLP", "norms", "lm_head", "rest")
TEXT_BEFORE, TEXT_AFTER, AVERAGE, STEPS = 35, 60, 64, 4
Times = dict[str, float]


def build(width: int, layers: int) -> LoadedModel:
    """A model whose tower is a quarter as wide as its LLM and has three quarters of the layers, as LLaVA-1.5-7B's."""
    tower = {"vision_hidden_size": max(64, width // 4), "vision_layers": layers * 3 // 4, "vision_heads": 4}
    sizes = {"hidden_size": width, "intermediate_size": width * 43 // 16, "layers": layers, "heads": width // 32}
    return RandomModel(prompt="{images}{text}", device="cpu", **sizes, **tower).load()


def inputs_of(loaded: LoadedModel, batch: int) -> dict[str, torch.Tensor]:
    """Prompts of one picture between two runs of text; no two pictures are alike."""
    config, draws = loaded.model.config, torch.Generator().manual_seed(0)
    image = torch.full((batch, config.image_seq_length), loaded.tokenizer.convert_tokens_to_ids(IMAGE))
    text = torch.randint(5, 200, (batch, TEXT_BEFORE + TEXT_AFTER), generator=draws)
    side = config.vision_config.image_size
    ids = torch.cat([text[:, :TEXT_BEFORE], image, text[:, TEXT_BEFORE:]], 1)
    return {"input_ids": ids, "pixel_values": torch.randn(batch, 3, side, side, generator=draws)}


class Watch:
    """Seconds of the processor by part."""

    def __init__(self) -> None:
        self.seconds: Times = defaultdict(float)

    def timed(self, part: str, function: Callable) -> Callable:
        """``function``, its time added to a part."""

        def wrapper(*args, **kwargs):
            start = time.process_time()
            result = function(*args, **kwargs)
            self.seconds[part] += time.process_time() - start
            return result

        return wrapper

    @contextmanager
    def watching(self, model: nn.Module, pruner: nuwa.pruners.Pruner) -> Iterator[None]:
        """Inside it, the parts of a model and the choices of a method are timed."""
        adapter = adapter_for(model)
        parts = [("tower", model.model.vision_tower), ("tower", adapter.projector), ("lm_head", model.lm_head)]
        parts += [("norms", adapter.language_model.norm)]
        for layer in adapter.layers:
            parts += [("attention", layer.self_attn), ("MLP", layer.mlp)]
            parts += [("norms", layer.input_layernorm), ("norms", layer.post_attention_layernorm)]
        with ExitStack() as stack:
            for part, module in parts:
                stack.enter_context(mock.patch.object(module, "forward", self.timed(part, module.forward)))
            stack.enter_context(mock.patch.object(pruner, "prune_llm", self.timed("choosing", pruner.prune_llm)))
            choose = self.timed("choosing", encoder.plan_images)
            stack.enter_context(mock.patch.object(encoder, "plan_images", choose))
            yield


def run(model: nn.Module, inputs: dict[str, torch.Tensor], pruner: nuwa.pruners.Pruner) -> tuple[Times, list[int]]:
    """One prefill, the time of a decoding step behind it, and the tokens that each layer has cached."""
    watch = Watch()
    with nuwa.prune(model, pruner):
        with watch.watching(model, pruner):
            start = time.process_time()
            output = model(**inputs, logits_to_keep=1, use_cache=True)
            whole = time.process_time() - start
        cache = cache_of(output)
        lengths = [layer.keys.shape[2] for layer in cache.layers]
        start = time.process_time()
        for _ in range(STEPS):
            model(input_ids=inputs["input_ids"][:, -1:], logits_to_keep=1, **with_cache(model, {}, cache))
        step = (time.process_time() - start) / STEPS
    seconds = watch.seconds
    rest = whole - sum(seconds.values())
    return {**seconds, "rest": rest, "prefill": whole - seconds["tower"], "all": whole, "step": step}, lengths


@torch.no_grad()
def compare(loaded: LoadedModel, batch: int, method: str, repeats: int) -> list[dict[str, str]]:
    """The two rows of a model and a batch."""
    inputs, found, lengths = inputs_of(loaded, batch), defaultdict(list), {}
    pruners = {"none": nuwa.load_pruner("none"), method: nuwa.load_pruner(method, budget=AVERAGE)}
    for repeat in range(repeats + 1):
        for name, pruner in pruners.items():
            times, lengths[name] = run(loaded.model, inputs, pruner)
            if repeat:
                found[name].append(times)
    shape = adapter_for(loaded.model).shape
    promised = llm_flops(lengths["none"], shape) / llm_flops(lengths[method], shape)
    names, rows = (*PARTS, "prefill", "all", "step"), []
    times = {
        name: {part: statistics.median(one.get(part, 0) for one in rounds) for part in names}
        for name, rounds in found.items()
    }
    for name, mine in times.items():
        before = times["none"] | {"choosing": 0} if name == method else {}
        cells = {part: _spell(mine[part], before.get(part)) for part in mine}
        reached = times["none"]["prefill"] / mine["prefill"] / promised
        rows.append(
            {
                "model": f"{shape.hidden} x {shape.layers}",
                "batch": str(batch),
                "": name,
                **{part: cells[part] for part in PARTS},
                "prefill": cells["prefill"],
                "with the tower": cells["all"],
                "decoding step": cells["step"],
                "promised": f"{promised:.1f}x, {reached:.0%} reached" if name == method else "",
            }
        )
    return rows


def _spell(seconds: float, unpruned: float | None) -> str:
    """Milliseconds, and how many times faster than unpruned."""
    faster = f" ({unpruned / seconds:.1f}x)" if unpruned and seconds else ""
    return f"{1000 * seconds:.1f}{faster}" if seconds else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the sizes in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["128x16", "512x16", "1024x32"], help="width x layers")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--method", default="nuwa")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows: list[dict[str, str]] = []
    for size in options.models:
        loaded = build(*map(int, size.split("x")))
        for batch in options.batches:
            rows += compare(loaded, batch, options.method, options.repeats)
    print(f"milliseconds, {options.threads} thread(s), {options.repeats} timed rounds\n")
    print(markdown_text(rows, list(rows[0]), []))


if __name__ == "__main__":
    main()

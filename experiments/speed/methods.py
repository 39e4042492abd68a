"""What each method's choice costs, as a share of a vanilla prefill at LLaVA-1.5's shapes.

    python experiments/speed/methods.py [--repeats 5] [--threads 1]

576 visual tokens, 95 of text, an average budget of 64; three numbers per method.

- time: everything the method does (reading off the tower, scoring, selecting, merging; not what the LLM saves by it)
  over a vanilla prefill with its vision tower. One process, warm-up, median over rounds of the ratio within a round.
  The LLM here has 16 layers of width 512 and random weights, a hundredth of LLaVA-1.5-7B's work per token, and
  selection does not shrink with it: these shares are far above those of a 7B model. They rank methods.
- metric: FLOPs of the method's own formula at 7B shapes, over those of an unpruned LLM on the visual tokens (both as
  the Nüwa paper counts them).
- rows: FLOPs at 7B shapes of the projections that attention rows and keys are recomputed with, likewise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch

import nuwa
from nuwa.models.prompts import IMAGE
from nuwa.models.random_configs import Sizes
from nuwa.models.random_vlm import build_tokenizer, random_vlm
from nuwa.pruners.catalogue import method_names
from nuwa.pruning import session
from nuwa.pruning.budget import llm_flops
from nuwa.report.table4 import LLAVA_7B

SIZES = Sizes(
    hidden_size=512,
    intermediate_size=1376,
    layers=16,
    heads=8,
    vision_hidden_size=512,
    vision_layers=8,
    vision_heads=8,
)
AVERAGE, TEXT_BEFORE, TEXT_AFTER = 64, 35, 60


class Watch:
    """Seconds spent in wrapped functions, and the lengths of the sequences whose keys were recomputed."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.lengths: list[int] = []

    def timed(self, function: Callable) -> Callable:
        """``function``, its time added up."""

        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds += time.perf_counter() - start
            return result

        return wrapper

    def noted(self, function: Callable) -> Callable:
        """``function`` of (layer, hidden, ...), the length of ``hidden`` written down."""

        def wrapper(layer, hidden, *args, **kwargs):
            self.lengths.append(hidden.shape[1])
            return function(layer, hidden, *args, **kwargs)

        return wrapper


def build():
    """A model, and a prompt of one image between two runs of text."""
    tokenizer = build_tokenizer("llava", SIZES.vocab_size)
    model = random_vlm("llava", tokenizer, SIZES)
    image = torch.full((1, model.config.image_seq_length), tokenizer.convert_tokens_to_ids(IMAGE))
    text = torch.randint(5, 200, (1, TEXT_BEFORE + TEXT_AFTER), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([text[:, :TEXT_BEFORE], image, text[:, TEXT_BEFORE:]], 1)
    pixels = torch.randn(1, 3, SIZES.image_size, SIZES.image_size, generator=torch.Generator().manual_seed(1))
    return model, {"input_ids": ids, "pixel_values": pixels, "logits_to_keep": 1}


def watch_prefill(model, inputs, pruner: nuwa.pruners.Pruner) -> Watch:
    """One pruned prefill, with what the method spent."""
    watch = Watch()
    changed = {
        "plan_images": watch.timed(session.plan_images),
        "llm_attention_rows": watch.noted(session.llm_attention_rows),
        "llm_keys": watch.noted(session.llm_keys),
    }
    inside = mock.patch.object(pruner, "prune_llm", watch.timed(pruner.prune_llm))
    with mock.patch.multiple(session, **changed), inside, nuwa.prune(model, pruner):
        model(**inputs)
    return watch


def seven_billion(pruner: nuwa.pruners.Pruner, lengths: list[int]) -> tuple[float, float]:
    """Shares of the metric and of the recomputed keys in the LLM FLOPs of 576 visual tokens at 7B shapes."""
    whole = llm_flops([LLAVA_7B.image_tokens] * LLAVA_7B.layers, LLAVA_7B)
    keys = 2 * LLAVA_7B.hidden * LLAVA_7B.kv_heads * LLAVA_7B.head_dim
    return pruner.metric_flops(LLAVA_7B.image_tokens, LLAVA_7B) / whole, sum(lengths) * keys / whole


@torch.no_grad()
def main() -> None:
    """Time every method in turn and print its shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, inputs = build()
    pruners = {name: nuwa.load_pruner(name, budget=AVERAGE) for name in method_names() if name != "none"}
    shares: dict[str, list[float]] = {name: [] for name in pruners}
    lengths: dict[str, list[int]] = {}
    for repeat in range(options.warmup + options.repeats):
        start = time.perf_counter()
        model(**inputs)
        vanilla = time.perf_counter() - start
        for name, pruner in pruners.items():
            watch = watch_prefill(model, inputs, pruner)
            lengths[name] = watch.lengths
            if repeat >= options.warmup:
                shares[name].append(watch.seconds / vanilla)
    print(f"{options.threads} thread(s), {options.warmup} warm-up and {options.repeats} timed rounds")
    print(f"{'method':16}{'time':>9}{'metric, 7B':>13}{'rows, 7B':>11}")
    for name, pruner in pruners.items():
        metric, rows = seven_billion(pruner, lengths[name])
        print(f"{name:16}{statistics.median(shares[name]):9.2%}{metric:13.3%}{rows:11.3%}")


if __name__ == "__main__":
    main()

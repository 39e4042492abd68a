"""What the engine itself costs: an idle session, and a pruned forward against a plain one of the same length.

    python experiments/speed/overhead.py [--repeats 15] [--threads 1]

Ratios only, all variants alternated in one process after warm-up. LLaVA-1.5 architecture with random
weights, 576 visual tokens, 16 layers of width 512; the vision tower, and entering the session, are left out of every
timing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

import nuwa
from nuwa.models.prompts import IMAGE
from nuwa.models.random_vlm import RandomModel

SIZES = RandomModel(
    prompt="{images}{text}",
    device="cpu",
    hidden_size=512,
    intermediate_size=1376,
    layers=16,
    heads=8,
    vision_hidden_size=128,
)
TEXT_BEFORE, TEXT_AFTER = 35, 20


def build():
    """A model, and a prompt of one image between two runs of text."""
    loaded = SIZES.load()
    model, tokenizer = loaded.model, loaded.tokenizer
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    visual = model.config.image_seq_length
    text = torch.randint(5, 200, (1, TEXT_BEFORE + TEXT_AFTER), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([text[:, :TEXT_BEFORE], torch.full((1, visual), image), text[:, TEXT_BEFORE:]], 1)
    pixels = torch.randn(1, 3, SIZES.image_size, SIZES.image_size, generator=torch.Generator().manual_seed(1))
    return model, ids, pixels


Variant = tuple[AbstractContextManager, Callable[[], None]]


def variants(model, ids: torch.Tensor, pixels: torch.Tensor) -> dict[str, Variant]:
    """What to be inside of, and a forward (prefill and one decode step); they differ in one thing each."""
    plain = model.model.get_image_features(pixel_values=pixels)
    kept = torch.randn(1, TEXT_BEFORE + TEXT_AFTER + 64, SIZES.hidden_size)

    def forward(**inputs) -> Callable[[], None]:
        def run() -> None:
            cache = model(**inputs, logits_to_keep=1).past_key_values
            model(input_ids=ids[:, -1:], past_key_values=cache, logits_to_keep=1)

        return run

    def inside(pruner: nuwa.pruners.Pruner) -> Variant:
        session = nuwa.prune(model, pruner)
        with session:
            encoded = model.model.get_image_features(pixel_values=pixels)
        return session, forward(input_ids=ids, mm_encoder_outputs={"image": encoded})

    return {
        "vanilla": (nullcontext(), forward(input_ids=ids, mm_encoder_outputs={"image": plain})),
        "idle session": inside(nuwa.load_pruner("none")),
        "plain, 64 visual tokens": (nullcontext(), forward(inputs_embeds=kept)),
        "random, 64 visual tokens": inside(nuwa.load_pruner("random", budget=64)),
        "nuwa, average 64": inside(nuwa.load_pruner("nuwa", budget=64)),
    }


@torch.no_grad()
def main() -> None:
    """Time every variant in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = variants(*build())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(options.warmup + options.repeats):
        for name, (session, run) in runs.items():
            with session:
                start = time.perf_counter()
                run()
                spent = time.perf_counter() - start
            if repeat >= options.warmup:
                seconds[name].append(spent)
    print(f"{options.threads} thread(s), {options.warmup} warm-up and {options.repeats} timed rounds")
    print("median over rounds of the ratio within a round (lower to upper quartile)")
    for name, baseline in (
        ("idle session", "vanilla"),
        ("random, 64 visual tokens", "plain, 64 visual tokens"),
        ("nuwa, average 64", "vanilla"),
    ):
        ratios = [one / other for one, other in zip(seconds[name], seconds[baseline], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        print(f"{name} / {baseline}: {median:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()

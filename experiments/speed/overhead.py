"""What the engine itself costs: an idle session, and a pruned forward against a plain one of the same length.

    python experiments/speed/overhead.py [--repeats 15] [--threads 1]

Ratios only, all variants alternated in one process after warm-up. LLaVA-1.5 architecture with random
weights, 576 visual tokens, 16 layers of width 512; the vision tower, and entering the session, are left out of every
timing. `on_gpu.sh` measures the same at 7B shapes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

import nuwa
from nuwa.models.loaded import LoadedModel
from nuwa.models.prompts import IMAGE
from nuwa.models.random_vlm import RandomModel

TEXT_BEFORE, TEXT_AFTER = 35, 20
SHORT, PRUNED = "plain, 64 visual tokens", "random, 64 visual tokens"
RATIOS = {
    "idle session / vanilla": ("idle session", "vanilla"),
    f"{PRUNED} / {SHORT}": (PRUNED, SHORT),
    "nuwa, average 64 / vanilla": ("nuwa, average 64", "vanilla"),
}
"""The variants whose times are divided."""

Variant = tuple[AbstractContextManager, Callable[[], None]]
Seconds = dict[str, list[float]]


def small_model(**sizes: int) -> LoadedModel:
    """LLaVA-1.5's architecture at a size that a CPU runs in a moment."""
    chosen = {
        "hidden_size": 512,
        "intermediate_size": 1376,
        "layers": 16,
        "heads": 8,
        "vision_hidden_size": 128,
    } | sizes
    return RandomModel(prompt="{images}{text}", **chosen).load()


def seven_billion() -> LoadedModel:
    """LLaVA-1.5-7B's shapes in bfloat16."""
    llm = {"hidden_size": 4096, "intermediate_size": 11008, "layers": 32, "heads": 32, "vocab_size": 32064}
    tower = {"vision_hidden_size": 1024, "vision_layers": 24, "vision_heads": 16}
    return RandomModel(prompt="{images}{text}", dtype="bfloat16", **llm, **tower).load()


def variants(loaded: LoadedModel) -> dict[str, Variant]:
    """What to be inside of, and a forward (prefill and one decode step); they differ in one thing each."""
    model, config = loaded.model, loaded.model.config
    device, dtype = model.device, model.dtype
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(5, 200, (1, TEXT_BEFORE + TEXT_AFTER), generator=generator)
    image = torch.full((1, config.image_seq_length), loaded.tokenizer.convert_tokens_to_ids(IMAGE))
    ids = torch.cat([text[:, :TEXT_BEFORE], image, text[:, TEXT_BEFORE:]], 1).to(device)
    side = config.vision_config.image_size
    pixels = torch.randn(1, 3, side, side, generator=generator).to(device, dtype)
    kept = torch.randn(1, text.shape[1] + 64, config.text_config.hidden_size, generator=generator).to(device, dtype)
    plain = model.model.get_image_features(pixel_values=pixels)

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
        SHORT: (nullcontext(), forward(inputs_embeds=kept)),
        PRUNED: inside(nuwa.load_pruner("random", budget=64)),
        "nuwa, average 64": inside(nuwa.load_pruner("nuwa", budget=64)),
    }


@torch.no_grad()
def rounds(loaded: LoadedModel, warmup: int, repeats: int) -> Seconds:
    """Seconds of every variant in every round that counts; on a GPU the clock waits for the device."""
    runs = variants(loaded)
    wait = torch.cuda.synchronize if loaded.model.device.type == "cuda" else lambda: None
    seconds: Seconds = {name: [] for name in runs}
    for repeat in range(warmup + repeats):
        for name, (session, run) in runs.items():
            with session:
                wait()
                start = time.perf_counter()
                run()
                wait()
                spent = time.perf_counter() - start
            if repeat >= warmup:
                seconds[name].append(spent)
    return seconds


def quartiles(seconds: Seconds, name: str, baseline: str) -> str:
    """Median over rounds of the ratio within a round, with its quartiles."""
    ratios = [one / other for one, other in zip(seconds[name], seconds[baseline], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return f"{median:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Time every variant in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seconds = rounds(small_model(), options.warmup, options.repeats)
    print(f"{options.threads} thread(s), {options.warmup} warm-up and {options.repeats} timed rounds")
    print("median over rounds of the ratio within a round (lower to upper quartile)")
    for name, pair in RATIOS.items():
        print(f"{name}: {quartiles(seconds, *pair)}")


if __name__ == "__main__":
    main()

"""What each method's choice costs, as a share of a vanilla prefill at LLaVA-1.5's shapes, as Markdown.

    python experiments/speed/methods.py [--repeats 9] [--threads 1] [--methods fastv,dart] [--video]

576 visual tokens, 95 of text, an average budget of 64; for every method

- time: everything it does (reading off the tower, scoring, selecting, merging; not what the LLM saves by it) over a
  vanilla prefill with its vision tower: median and quartiles over rounds of the ratio within a round, one process,
  after a warm-up. The LLM here has 16 layers of width 512 and random weights, a hundredth of LLaVA-1.5-7B's work per
  token, and selection does not shrink with it: these shares are far above those of a 7B model. They rank methods.
- metric, 7B: FLOPs of the method's own formula at 7B shapes, over those of an unpruned LLM on the visual tokens (both
  as the Nüwa paper counts them).
- rows, 7B: FLOPs at 7B shapes of the key projections that attention rows are recomputed with, likewise.
- together, 7B: the sum, marked where it is above 5 %.

With ``--video``: see `video_shapes.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import torch
from transformers import CLIPConfig
from video_shapes import video_table

import nuwa
from nuwa.engine import encoder, llm
from nuwa.models.prompts import IMAGE
from nuwa.models.random_vlm import RandomModel
from nuwa.pruners.catalogue import method_names
from nuwa.pruning.flops import ModelShape, llm_flops
from nuwa.report.tables.formats import markdown_text

SIZES = RandomModel(
    prompt="{images}{text}",
    device="cpu",
    hidden_size=512,
    intermediate_size=1376,
    layers=16,
    heads=8,
    vision_hidden_size=512,
    vision_layers=8,
    vision_heads=8,
)
IMAGE_TOKENS = 576
LLAVA_7B = ModelShape(32, 4096, 11008, kv_heads=32, head_dim=128, vision_hidden=1024, image_tokens=IMAGE_TOKENS)
AVERAGE, TEXT_BEFORE, TEXT_AFTER, LIMIT = 64, 35, 60, 0.05
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
"""The text half of the CLIP that LLaVA-1.5's vision tower is from."""


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
        """``function`` of (queries and keys, layer, hidden, ...), the length of ``hidden`` written down."""

        def wrapper(queries_keys, layer, hidden, *args, **kwargs):
            self.lengths.append(hidden.shape[1])
            return function(queries_keys, layer, hidden, *args, **kwargs)

        return wrapper


def build():
    """A model, and a prompt of one image between two runs of text."""
    loaded = SIZES.load()
    model, tokenizer = loaded.model, loaded.tokenizer
    image = torch.full((1, model.config.image_seq_length), tokenizer.convert_tokens_to_ids(IMAGE))
    text = torch.randint(5, 200, (1, TEXT_BEFORE + TEXT_AFTER), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([text[:, :TEXT_BEFORE], image, text[:, TEXT_BEFORE:]], 1)
    pixels = torch.randn(1, 3, SIZES.image_size, SIZES.image_size, generator=torch.Generator().manual_seed(1))
    return model, {"input_ids": ids, "pixel_values": pixels, "logits_to_keep": 1}


def watch_prefill(model, inputs, pruner: nuwa.pruners.Pruner) -> Watch:
    """One pruned prefill, with what the method spent."""
    watch = Watch()
    rows = {name: watch.noted(getattr(llm, name)) for name in ("llm_attention_rows", "llm_keys")}
    vision = mock.patch.object(encoder, "plan_images", watch.timed(encoder.plan_images))
    inside = mock.patch.object(pruner, "prune_llm", watch.timed(pruner.prune_llm))
    with mock.patch.multiple(llm, **rows), vision, inside, nuwa.prune(model, pruner):
        model(**inputs)
    return watch


@torch.no_grad()
def measure(names: Sequence[str], warmup: int, repeats: int) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
    """Of every method: shares of a vanilla prefill's time, one per round, and lengths as in `Watch`."""
    model, inputs = build()
    pruners = {name: nuwa.load_pruner(name, budget=AVERAGE) for name in names}
    shares: dict[str, list[float]] = {name: [] for name in names}
    lengths: dict[str, list[int]] = {}
    for repeat in range(warmup + repeats):
        start = time.perf_counter()
        model(**inputs)
        vanilla = time.perf_counter() - start
        for name, pruner in pruners.items():
            watch = watch_prefill(model, inputs, pruner)
            lengths[name] = watch.lengths
            if repeat >= warmup:
                shares[name].append(watch.seconds / vanilla)
    return shares, lengths


def seven_billion(pruner: nuwa.pruners.Pruner, lengths: Sequence[int]) -> dict[str, str]:
    """Shares of the metric and of the recomputed keys in the LLM FLOPs of 576 visual tokens at 7B shapes."""
    whole = llm_flops([IMAGE_TOKENS] * LLAVA_7B.layers, LLAVA_7B)
    keys = 2 * LLAVA_7B.hidden * LLAVA_7B.kv_heads * LLAVA_7B.head_dim
    metric, rows = pruner.metric_flops(IMAGE_TOKENS, LLAVA_7B) / whole, sum(lengths) * keys / whole
    together = f"{metric + rows:.3%}" + (" above 5 %" if metric + rows > LIMIT else "")
    return {"metric, 7B": f"{metric:.3%}", "rows, 7B": f"{rows:.3%}", "together, 7B": together}


def with_clip() -> dict[str, str]:
    """CDPruner with its authors' relevance, by its formula alone: no CLIP is here to be timed."""
    with tempfile.TemporaryDirectory() as folder:
        config = CLIPConfig(text_config=CLIP_L, projection_dim=CLIP_L["hidden_size"]).to_dict()
        Path(folder, "config.json").write_text(json.dumps(config))
        return seven_billion(nuwa.load_pruner("cdpruner", budget=AVERAGE, clip=folder), [])


def cells(name: str, shares: Sequence[float], flops: dict[str, str]) -> dict[str, str]:
    """A row of the table."""
    low, high = (statistics.quantiles(shares, n=4)[i] if len(shares) > 1 else shares[0] for i in (0, 2))
    return {"method": name, "time": f"{statistics.median(shares):.2%} ({low:.2%} to {high:.2%})", **flops}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the methods in turn and print their shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", default="", help="names, separated by commas; all by default")
    parser.add_argument("--video", action="store_true", help="a video of LLaVA-OneVision-7B's shapes")
    parser.add_argument("--device", default="cpu", help="with --video: cuda runs in bfloat16")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.video:
        print(video_table(options.methods, options.device, options.repeats))
        return
    names = [name for name in options.methods.split(",") if name] or [n for n in method_names() if n != "none"]
    shares, lengths = measure(names, options.warmup, options.repeats)
    rows = []
    for name in names:
        flops = seven_billion(nuwa.load_pruner(name, budget=AVERAGE), lengths[name])
        rows.append(cells(name, shares[name], flops))
        if name == "cdpruner":
            rows.append({"method": "cdpruner, pruner.clip (CLIP ViT-L/14)", "time": "", **with_clip()})
    print(f"{options.threads} thread(s), {options.warmup} warm-up and {options.repeats} timed rounds\n")
    print(markdown_text(rows, list(rows[0]), []))


if __name__ == "__main__":
    main()

"""What a choice among the frames of a video costs, at the shapes of LLaVA-OneVision-7B: for methods.py --video.

32 frames of 14 x 14 tokens of width 3,584, made up: two scenes, in each of which half of the cells stands still and
half wanders; a budget of a tenth. All times are seconds of the processor on a CPU (other work on the machine then
counts little), of the clock on a GPU; medians over rounds.

- choosing: ``prune_vision``, merging included.
- reading: what the method reads off the tower (queries and keys of SigLIP's last layer and the attention that its 729
  patches receive), and, if it prunes inside the LLM, the keys of one layer over all that entered.
- of a prefill: the sum over an unpruned one of 6,272 visual tokens: one layer of Qwen2-7B's shape, times 28.
- of its own: over that of the tokens that the method leaves, layer by layer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2Config, Qwen2DecoderLayer, Qwen2RotaryEmbedding

import nuwa
from nuwa.models.towers import NEED_CLS
from nuwa.pruners.contexts import VisionContext
from nuwa.pruning.budget import Budget
from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.scores import received_attention, split_heads
from nuwa.report.tables.formats import markdown_text

FRAMES, GRID, PATCHES, HEADS, VISION, LAYERS = 32, (14, 14), 729, 16, 1152, 28
CELLS, SHARE = GRID[0] * GRID[1], 0.1
QWEN2_7B = {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4}
METHODS = "flashvid,fastvid,prunevid,holitom,vidcom2,evs,dycoke,frame_drop,temporal_pool,visionzip,divprune"
"""Those that see all frames, and two for pictures that are often compared with them."""


def made_up_video(width: int) -> Tensor:
    """Tokens (F, CELLS, width) of two scenes."""
    draws = torch.Generator().manual_seed(0)
    noise = partial(torch.randn, generator=draws)
    scenes = noise(2, CELLS, width).repeat_interleave(FRAMES // 2, 0)
    wander = 0.3 * noise(FRAMES, CELLS, width).cumsum(0) * (torch.arange(CELLS) % 2)[:, None]
    return scenes + wander + 0.05 * noise(FRAMES, CELLS, width)


def video_context(pruner: nuwa.pruners.Pruner, video: Tensor) -> VisionContext:
    """What a method is shown of the video, all of it or frame by frame."""
    views = pruner.tiling.views_to_prune(ImageLayout.single(GRID, FRAMES))
    count, cells, like = len(views), len(views[0].tokens), {"device": video.device, "dtype": video.dtype}
    shapes = {"cls_attention": (count, HEADS, cells), "received_attention": (count, cells)}
    taps = {
        name: torch.rand(shapes.get(tap.kind, (count, cells, VISION)), device=video.device)
        for name, tap in pruner.taps.items()
        if tap.kind not in NEED_CLS
    }
    features = video.reshape(count, cells, -1).to(**like)
    ids = [str(number) for number in range(count)]
    return VisionContext(views[0].grid, features, taps, ids, project=lambda x: x, frames=views[0].frames)


@torch.no_grad()
def seconds(work: Callable[[], object], device: str, repeats: int) -> float:
    """The median time that some work takes, after a first run."""
    found = []
    for _ in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter() if device == "cuda" else time.process_time()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append((time.perf_counter() if device == "cuda" else time.process_time()) - start)
    return statistics.median(found[1:])


class Costs:
    """Times of the model's parts, each measured once."""

    def __init__(self, device: str) -> None:
        self.device, dtype = device, torch.bfloat16 if device == "cuda" else torch.float32
        config = Qwen2Config(**QWEN2_7B, _attn_implementation="sdpa")
        self.width = config.hidden_size
        with torch.device(device):
            self.layer = Qwen2DecoderLayer(config, 0).to(dtype).eval()
            self.rotary = Qwen2RotaryEmbedding(config)
            self.projections = nn.Linear(VISION, 2 * VISION).to(dtype)
            self.states = torch.randn(1, FRAMES * CELLS, self.width).to(dtype)
            self.patches = torch.randn(FRAMES, PATCHES, VISION).to(dtype)

    @cache  # noqa: B019  (one object for a run of the script)
    def layer_of(self, tokens: int) -> float:
        """One layer of the LLM over so many tokens; the largest is timed once, it takes long."""
        states = self.states[:, :tokens]
        rotary = self.rotary(states, torch.arange(tokens, device=self.device)[None])
        work = partial(self.layer, states, position_embeddings=rotary)
        return seconds(work, self.device, 1 if self.device == "cpu" else 9)

    @cache  # noqa: B019
    def keys_of(self, tokens: int) -> float:
        """The keys that an attention row in the LLM takes."""
        return seconds(lambda: self.layer.self_attn.k_proj(self.states[:, :tokens]), self.device, 3)

    @cache  # noqa: B019
    def tower(self) -> float:
        """Attention that patches receive in the tower's last layer, recomputed."""

        def work() -> Tensor:
            queries, keys = (split_heads(x, VISION // HEADS) for x in self.projections(self.patches).chunk(2, -1))
            return received_attention(queries, keys, (VISION // HEADS) ** -0.5)

        return seconds(work, self.device, 3)


def video_table(names: str, device: str, repeats: int) -> str:
    """The table, for names that are separated by commas."""
    costs, rows = Costs(device), []
    video, whole = made_up_video(costs.width).to(costs.states), LAYERS * costs.layer_of(FRAMES * CELLS)
    for name in (names or METHODS).split(","):
        pruner = nuwa.load_pruner(name, budget=Budget(ratio=SHARE))
        context, schedule = video_context(pruner, video), pruner.schedule(FRAMES * CELLS, LAYERS)
        keep = schedule.vision // len(context.features)
        choosing = seconds(partial(pruner.prune_vision, context, keep), device, repeats)
        reading = costs.tower() * any(tap.kind.endswith("attention") for tap in pruner.taps.values())
        reading += sum(costs.keys_of(count) for count in schedule.before_stages())
        own = sum(map(costs.layer_of, schedule.per_layer(LAYERS)))
        rows.append(
            {
                "method": name,
                "choosing": f"{choosing:.3f} s",
                "reading": f"{reading:.3f} s",
                "of a prefill": f"{(choosing + reading) / whole:.2%}",
                "of its own": f"{(choosing + reading) / own:.1%}",
            }
        )
    return f"a prefill of {FRAMES * CELLS} tokens: {whole:.1f} s on {device}\n\n" + markdown_text(
        rows, list(rows[0]), []
    )

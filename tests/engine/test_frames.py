"""A picture is a visual of one frame: a visual of several goes through methods frame by frame, and keeps its ids."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from helpers.families import FAMILIES
from helpers.family import PROMPTS
from helpers.methods import pruner_for

import nuwa
from nuwa.engine.calls import cache_of, read_prompt_once
from nuwa.engine.conversation import conversation_of
from nuwa.pruners.base import Pruner, Tap, VisionDecision
from nuwa.pruning.budget import Budget
from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.merging import join
from nuwa.pruning.tiling import FramesTogether

QWENS, PICTURE = ("qwen2_5_vl", "qwen2_vl"), 2
"""Families whose image grids have frames, and the picture, 6 x 6 tokens, that is the first frame."""


def inputs(family, frames):
    """A prompt about a visual of ``frames``: the picture, and after it the picture shifted and mirrored."""
    one = family.pictures(PICTURE)
    pixels = torch.cat([one["pixel_values"].roll(4 * n, 0) if n % 2 else one["pixel_values"].flip(0) if n else
                        one["pixel_values"] for n in range(frames)])  # fmt: skip
    grid = one["image_grid_thw"].clone()
    grid[0, 0] = frames
    ids = family.ids("middle")
    start, count = ids.index(4), len(family.cells(PROMPTS["middle"][1][0]))
    ids = ids[:start] + [4] * (36 * frames) + ids[start + count :]
    given = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    given |= {"pixel_values": pixels, "image_grid_thw": grid}
    given["position_ids"] = torch.arange(len(ids))[None]
    return family.finish(given)


@torch.no_grad()
def kept(family, pruner, given, position="pesp"):
    with nuwa.prune(family.model(), pruner, position) as session:
        output = read_prompt_once(session, given)
    return conversation_of(cache_of(output)), session.report().images[0], output.logits


def test_a_layout_of_frames():
    layout = ImageLayout.single((2, 3), frames=2)
    assert [view.tokens.tolist() for view in layout.views] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert (layout.n_tokens, layout.patches, layout.frames) == (12, 12, 2)
    assert [len(one.views) for one in (ImageLayout.single((2, 3)), layout)] == [1, 2]


@pytest.mark.parametrize("family", QWENS)
@pytest.mark.parametrize("name", ["visionzip", "nuwa", "pooling", "hiprune", "restore", "grid"])
def test_methods_see_frame_by_frame(family, name):
    """The first of three frames keeps what it keeps as a picture, every frame the same number, in frame order."""
    family = FAMILIES[family]
    pruner = pruner_for(name, family)
    pruner.budget = Budget(ratio=1 / 3)
    _, alone, _ = kept(family, pruner, inputs(family, 1))
    _, three, _ = kept(family, pruner, inputs(family, 3))
    one, all_of_them = alone.stages[0][1], three.stages[0][1]
    assert all_of_them[: len(one)] == one
    assert [token // 36 for token in all_of_them] == [0] * len(one) + [1] * len(one) + [2] * len(one)
    if name not in ("pooling", "grid"):  # for which all frames are alike
        assert {token % 36 for token in all_of_them} != {token % 36 for token in one}


@pytest.mark.parametrize("family", QWENS)
def test_methods_that_see_an_image_at_once_see_all_frames(family):
    """DivPrune chooses among all tokens, so that a frame like the one before gives few."""
    family, given = FAMILIES[family], inputs(FAMILIES[family], 3)
    given["pixel_values"] = given["pixel_values"].view(3, -1, given["pixel_values"].shape[1])[[0, 0, 1]].flatten(0, 1)
    _, image, _ = kept(family, nuwa.load_pruner("divprune", Budget(ratio=1 / 3)), given)
    frames = [token // 36 for token in image.stages[0][1]]
    assert frames == sorted(frames) and len(frames) == 36
    assert frames.count(0) + frames.count(1) < 2 * frames.count(2)


@dataclass
class Growing(Pruner):
    """Keep the first token of the first frame, the first two of the second, ..., merging all into the last of them."""

    name: ClassVar[str] = "growing"
    taps: ClassVar = {"states": Tap("states"), "received": Tap("received_attention")}

    @property
    def tiling(self):
        return FramesTogether()

    def prune_vision(self, context, keep):
        self.seen = context
        cells = math.prod(context.grid) // context.frames
        chosen = torch.tensor([[f * cells + cell for f in range(context.frames) for cell in range(f + 1)]])
        segment = torch.arange(context.frames).repeat_interleave(cells)[None]
        members = join(
            chosen, context.frames * cells, torch.arange(5, cells)[None], torch.full((1, cells - 5), keep - 1)
        )
        states = context.features.gather(1, chosen[..., None].expand(-1, -1, context.features.shape[-1]))
        return VisionDecision(chosen, 2 * states, {"segment": segment}, members=members)


@pytest.mark.parametrize("family", QWENS)
def test_a_method_may_see_all_frames_together(family):
    """One grid, frame above frame, whose features and taps are the frames' own; a picture is one frame."""
    family, pruner, alone = (
        FAMILIES[family],
        Growing(budget=Budget(ratio=6 / 108)),
        Growing(budget=Budget(ratio=1 / 36)),
    )
    state, image, _ = kept(family, pruner, inputs(family, 3))
    kept(family, alone, inputs(family, 1))
    seen, picture = pruner.seen, alone.seen
    assert (seen.grid, seen.frames, seen.views, picture.grid, picture.frames) == ((18, 6), 3, 1, (6, 6), 1)
    assert seen.features.shape[:2] == seen.taps["states"].shape[:2] == seen.taps["received"].shape == (1, 108)
    for here, there in (seen.features, picture.features), (seen.taps["states"], picture.taps["states"]):
        torch.testing.assert_close(here[:, :36], there, atol=2e-5, rtol=0)
    # a mean over all queries, of which those of other frames do not look
    torch.testing.assert_close(3 * seen.taps["received"][:, :36], picture.taps["received"], atol=2e-5, rtol=0)
    assert image.stages[0][1] == [0, 36, 37, 72, 73, 74]
    plan = state.prompt.rows[0][0]
    assert plan.sizes[[0, 36, 74]].tolist() == [1, 1, 32] and plan.members[[5, 35, 36, 38]].tolist() == [74, 74, 36, -1]
    assert plan.extras["segment"].tolist() == [n // 36 for n in range(108)]


@pytest.mark.parametrize("family", QWENS)
def test_ids_have_a_frame_row_and_column(family):
    family = FAMILIES[family]
    state, _, _ = kept(family, pruner_for("visionzip", family), inputs(family, 2), "pesp")
    segment = state.tables[0]
    mine = segment.image[0] == 0
    token, start = segment.token[0, mine], state.prompt.spans[0, :, 0, 0]
    place = torch.stack([token // 36, token % 36 // 6, token % 6])
    assert torch.equal(segment.ids[:, 0, mine], start[:, None] + place)


@pytest.mark.parametrize("family", QWENS)
def test_keep_all_of_frames_changes_nothing(family):
    family = FAMILIES[family]
    given = inputs(family, 2)
    with torch.no_grad():
        expected = family.model()(**given).logits
    assert torch.equal(kept(family, nuwa.load_pruner("none"), given)[2], expected)


@pytest.mark.parametrize("family", QWENS)
def test_a_budget_is_the_visuals(family):
    """In both stages: a method with an LLM stage counts tokens of all frames together there."""
    family = FAMILIES[family]
    pruner = nuwa.load_pruner("nuwa", Budget(ratio=0.25))
    _, image, _ = kept(family, pruner, inputs(family, 2))
    assert image.per_layer == pruner.schedule(72, 6).per_layer(6)


@pytest.mark.parametrize("family", QWENS)
@pytest.mark.parametrize("name", ["flashvid", "fastvid", "prunevid"])
def test_video_methods_spend_the_budget_on_all_frames(family, name):
    """The first frame twice and another one: kept tokens are of all frames, as many in every layer as planned."""
    family, given = FAMILIES[family], inputs(FAMILIES[family], 3)
    given["pixel_values"] = given["pixel_values"].view(3, -1, given["pixel_values"].shape[1])[[0, 0, 1]].flatten(0, 1)
    pruner = nuwa.load_pruner(name, Budget(ratio=0.25))
    state, image, logits = kept(family, pruner, given)
    assert image.per_layer == pruner.schedule(108, 6).per_layer(6)
    assert {token // 36 for token in image.stages[0][1]} == {0, 1, 2}
    plan, whole = state.prompt.rows[0][0], kept(family, nuwa.load_pruner("none"), given)[2]
    assert len(plan.extras["tree"]) == len(plan.extras["segment"]) == 108
    assert plan.sizes[plan.keep].sum() > len(plan.keep) and not torch.allclose(logits, whole)

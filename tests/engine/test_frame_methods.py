"""Methods that see all frames of a video, through the engine: a batch is its rows alone, counts, ids, the budget."""

from __future__ import annotations

import pytest
import torch
from helpers.families import FAMILIES
from helpers.family import PROMPTS
from helpers.methods import OVER_TIME

import nuwa
from nuwa.engine.calls import cache_of, read_prompt_once
from nuwa.engine.conversation import conversation_of
from nuwa.pruning.budget import Budget

FAMILY, PICTURE, CELLS = FAMILIES["qwen2_5_vl"], 2, 36
METHODS = (*OVER_TIME, "fastvid", "flashvid", "holitom", "prunevid", "vidcom2")


def row(frames: int, seed: int) -> dict[str, torch.Tensor]:
    """A prompt about a visual of ``frames`` of 6 x 6 tokens, of which each differs from the one before in places."""
    one = FAMILY.pictures(PICTURE)
    draws = torch.Generator().manual_seed(seed)
    pixels = [torch.randn(one["pixel_values"].shape, generator=draws)]
    for _ in range(frames - 1):
        pixels.append(pixels[-1].clone())
        pixels[-1][: 16 + 4 * len(pixels)] = torch.randn(16 + 4 * len(pixels), pixels[0].shape[1], generator=draws)
    ids = FAMILY.ids("middle")
    start, count = ids.index(4), len(FAMILY.cells(PROMPTS["middle"][1][0]))
    ids = ids[:start] + [4] * (CELLS * frames) + ids[start + count :]
    grid = one["image_grid_thw"].clone()
    grid[0, 0] = frames
    return {"ids": ids, "pixel_values": torch.cat(pixels), "image_grid_thw": grid}


def together(*rows):
    """Rows as one batch, padded on the left, positions counted from each row's first token."""
    longest = max(len(row["ids"]) for row in rows)
    ids = torch.tensor([[0] * (longest - len(row["ids"])) + row["ids"] for row in rows])
    mask = torch.tensor([[0] * (longest - len(row["ids"])) + [1] * len(row["ids"]) for row in rows])
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    visuals = {name: torch.cat([row[name] for row in rows]) for name in ("pixel_values", "image_grid_thw")}
    return FAMILY.finish(given | visuals)


@torch.no_grad()
def read(pruner, given, position="pesp"):
    with nuwa.prune(FAMILY.model(), pruner, position) as session:
        output = read_prompt_once(session, given)
    return output.logits, session.report().images, conversation_of(cache_of(output))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("position", ["pesp", "rpme"])
def test_a_batch_of_videos_equals_its_rows_alone(name, position):
    """Of one length and of others: two that share a call of the method, and one that does not."""
    rows, pruner = [row(4, 0), row(3, 1), row(4, 2)], nuwa.load_pruner(name, Budget(ratio=0.5))
    logits, images, _ = read(pruner, together(*rows), position)
    for number, single in enumerate(rows):
        alone, (image,), _ = read(pruner, together(single), position)
        torch.testing.assert_close(logits[number, -7:], alone[0, -7:], atol=2e-6, rtol=0)
        assert image.stages[0][1] == images[number].stages[0][1]


@pytest.mark.parametrize("name", METHODS)
def test_counts_come_near_the_budget_and_ids_are_the_tokens_own(name):
    """Without the stage that some save for in the first; what stands still leaves two of them three fewer here."""
    options = {"inner_keep": 1.0} if name in ("flashvid", "holitom", "prunevid") else {}
    _, (image,), state = read(nuwa.load_pruner(name, Budget(ratio=0.5), **options), together(row(4, 0)))
    _, kept, _ = image.stages[0]
    assert abs(len(kept) - 72) <= {"dycoke": 2, "holitom": 3, "prunevid": 3, "vidcom2": 2}.get(name, 0)
    mine = state.tables[0].image[0] == 0
    token, start = state.tables[0].token[0, mine], state.prompt.spans[0, :, 0, 0]
    place = torch.stack([token // CELLS, token % CELLS // 6, token % 6])
    assert torch.equal(state.tables[0].ids[:, 0, mine], start[:, None] + place)


def test_the_port_of_vidcom2_meets_a_budget_exactly():
    """The engine counts."""
    pruner = nuwa.load_pruner("vidcom2", Budget(ratio=0.3), variant="vllm")
    _, (image,), _ = read(pruner, together(row(4, 0)))
    assert not pruner.counts_by_itself and image.per_layer == [43] * 6


@pytest.mark.parametrize("name", METHODS)
def test_keeping_all_of_a_video_changes_nothing(name):
    given = together(row(3, 0))
    with torch.no_grad():
        expected = FAMILY.model()(**given).logits
    assert torch.equal(read(nuwa.load_pruner(name), given)[0], expected)


@pytest.mark.parametrize("name", METHODS)
def test_generation_equals_that_without_a_cache(name):
    given, options = together(row(3, 0), row(2, 1)), {"max_new_tokens": 3, "do_sample": False}
    with torch.no_grad(), nuwa.prune(FAMILY.model(), nuwa.load_pruner(name, Budget(ratio=0.5))):
        cached = FAMILY.model().generate(**given, **options)
        assert torch.equal(cached, FAMILY.model().generate(**given, use_cache=False, **options))


@pytest.mark.parametrize("name", ["dycoke", "evs"])
def test_what_changes_stays(name):
    """Frames differ in their first tokens."""
    _, (image,), _ = read(nuwa.load_pruner(name, Budget(ratio=0.375)), together(row(4, 0)))
    later = [token % CELLS for token in image.stages[0][1] if token >= CELLS]
    assert later and sum(later) / len(later) < CELLS / 4


@pytest.mark.parametrize("vision", ["evs", "flashvid", "vidcom2"])
def test_a_method_for_videos_before_one_inside_the_llm(vision):
    """Composed: a share of what really entered stays, and all together about the budget."""
    pruner = nuwa.load_pruner("composed", Budget(ratio=0.4), vision=vision, llm="fastv")
    _, (image,), _ = read(pruner, together(row(4, 0)))
    assert [layer for layer, _, _ in image.stages] == [0, 1]
    entering, staying = (len(kept) for _, kept, _ in image.stages)
    assert 36 <= staying < entering < 144
    assert abs(image.per_layer[0] + 5 * image.per_layer[1] - 6 * 0.4 * 144) <= 12


def test_composed_joins_a_stage_for_videos_and_one_inside_the_llm():
    """FlashVID's vision stage as by itself, then PyramidDrop's three; of PruneVid's tokens FastV keeps a share."""
    given = together(row(4, 0), row(3, 1))
    pruner = nuwa.load_pruner("composed", Budget(ratio=0.25), vision="flashvid", llm="pyramiddrop")
    _, images, state = read(pruner, given)
    for image, frames in zip(images, (4, 3), strict=True):
        assert image.per_layer == pruner.schedule(CELLS * frames, 6).per_layer(6) and len(set(image.per_layer)) > 2
    entering = pruner.schedule(CELLS * 4, 6).vision
    alone = nuwa.load_pruner("flashvid", Budget(average=entering), inner_keep=1.0)
    assert read(alone, together(row(4, 0)))[1][0].stages[0][1] == images[0].stages[0][1]
    assert "tree" in state.prompt.rows[0][0].extras
    shares = nuwa.load_pruner("composed", Budget(ratio=0.25), vision="prunevid", llm="fastv")
    _, (image,), _ = read(shares, together(row(4, 0)))
    assert 0 < image.per_layer[-1] < image.per_layer[0] <= shares.schedule(CELLS * 4, 6).vision

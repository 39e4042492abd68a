"""The packed training forward gives the logits of transformers' own forward, question by question."""

import numpy as np
import pytest
import torch

from nuwa.tiny.layers import PATCH_SIDE, window_cells
from nuwa.tiny.losses import AttentionSupervision
from nuwa.tiny.packed import packed_forward
from nuwa.tiny.pictures import caption_bank
from nuwa.tiny.recipe import Recipe
from nuwa.tiny.shipped import TINY_MODELS


@pytest.fixture(scope="module", params=list(TINY_MODELS))
def tiny(request):
    return TINY_MODELS[request.param]


@pytest.fixture(scope="module")
def model(tiny):
    return tiny.build_model(seed=1).eval()


def draw(tiny, size, seed):
    """A batch of the last stage of the recipe, where pictures fill their grid, none rolled."""
    batch = tiny.draw(Recipe.load(tiny.recipe).stages[-1], size, np.random.default_rng([5, seed, 7]), seed=0)
    return batch | {"roll": torch.zeros(size, 2, dtype=torch.long)}


def own_inputs(tiny, model, pixels, ids):
    """What transformers' forward takes: placeholders and pixels as the model's own processor gives them."""
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    values = ((pixels - 0.5) / 0.25).permute(0, 3, 1, 2)
    if tiny.name in ("llava", "text"):
        return inputs | {"pixel_values": values}
    if tiny.name == "video":
        return inputs | {"pixel_values_videos": values[None]}
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    options = {"patch_size": PATCH_SIDE, "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    size = {"shortest_edge": 64, "longest_edge": 96 * 96}
    image = (pixels[0] * 255).round().byte().numpy()
    pictures = Qwen2VLImageProcessorPil(size=size, **options)(image, return_tensors="pt")
    return inputs | dict(pictures) | {"mm_token_type_ids": (ids == model.config.image_token_id).long()}


@torch.no_grad()
def test_packed_logits_equal_transformers(tiny, model):
    batch, words = draw(tiny, 1, 0), tiny.vocabulary
    ids = batch["ids"][:, :3]
    visual = tiny.project(model, tiny.encode(model, batch)[0])
    text, _ = packed_forward(tiny, model, visual, batch["cells"], ids, taps=())
    logits = model.lm_head(text).view(3, ids.shape[-1], -1)
    prefix = [*words.prefix, *[words.ids[words.image]] * visual.shape[1]]
    for slot, length in enumerate(batch["length"][0, :3].tolist()):
        single = torch.tensor([[*prefix, *ids[0, slot, :length].tolist()]])
        expected = model(**own_inputs(tiny, model, batch["pixels"], single)).logits
        torch.testing.assert_close(logits[slot, :length], expected[0, len(prefix) :], atol=1e-4, rtol=0)


def test_windows_keep_the_ids_of_the_full_grid():
    ids = window_cells(2, torch.tensor([[3, 5]]), 24)
    assert ids.tolist() == [[3 * 24 + 5, 3 * 24 + 6, 4 * 24 + 5, 4 * 24 + 6]]
    wrapped = window_cells(2, torch.tensor([[23, 0]]), 24, wrap=True)
    assert wrapped.tolist() == [[23 * 24, 23 * 24 + 1, 0, 1]]


@torch.no_grad()
def test_attention_supervision_reads_masses_of_every_kind(tiny, model):
    recipe, batch = Recipe.load(tiny.recipe), draw(tiny, 2, 1)
    visual = tiny.project(model, tiny.encode(model, batch)[0])
    supervision = AttentionSupervision(batch, recipe.attention_layers, tiny.vocabulary)
    packed_forward(tiny, model, visual, batch["cells"], batch["ids"], (recipe.position_tap,), supervision)
    means = supervision.means()
    assert set(means) == {"attend_words", "attend_nouns", "attend_objects"}
    assert all(0 < value < 9.3 for value in means.values())  # -log of a mass between 1e-4 and 1


@torch.no_grad()
def test_a_slot_does_not_see_the_other_slots(tiny, model):
    ids = draw(tiny, 1, 2)["ids"][:, :2]
    visual, cells = torch.randn(1, 4, 128), torch.tensor([[0, 1, tiny.grid, tiny.grid + 1]])
    both, _ = packed_forward(tiny, model, visual, cells, ids, taps=())
    alone, _ = packed_forward(tiny, model, visual, cells, ids[:, 1:], taps=())
    torch.testing.assert_close(both[:, ids.shape[-1] :], alone, atol=1e-5, rtol=0)


def test_caption_bank_is_the_same_for_a_seed():
    torch.testing.assert_close(caption_bank(3, 5), caption_bank.__wrapped__(3, 5))

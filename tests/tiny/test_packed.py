"""The packed training forward gives the logits of transformers' own forward, question by question."""

import numpy as np
import pytest
import torch

from nuwa.scenes.questions import ask
from nuwa.scenes.scene import draw_scene
from nuwa.tiny.data import LONGEST_QUESTION, build_batch, caption_bank
from nuwa.tiny.layers import PATCH_SIDE, window_cells
from nuwa.tiny.losses import AttentionSupervision
from nuwa.tiny.packed import packed_forward
from nuwa.tiny.recipe import Recipe
from nuwa.tiny.shipped import TINY_MODELS


@pytest.fixture(scope="module", params=list(TINY_MODELS))
def tiny(request):
    return TINY_MODELS[request.param]


@pytest.fixture(scope="module")
def model(tiny):
    return tiny.build_model(seed=1).eval()


def packed_questions(words, scene, rng, count):
    ids = torch.zeros(1, count, LONGEST_QUESTION + len(words.lead) + len(words.cue), dtype=torch.long)
    lengths = []
    for slot in range(count):
        question = ask(scene, rng, ("vqa", "vg")[slot % 2])
        tokens = words.encode_question(question.text) + words.encode_answer(question)
        ids[0, slot, : len(tokens)] = torch.tensor(tokens)
        lengths.append(len(tokens))
    return ids, lengths


def own_inputs(tiny, model, image, ids):
    """What transformers' forward takes: placeholders and pixels as the model's own processor gives them."""
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if tiny.name == "llava":
        values = (torch.from_numpy(image)[None].float() / 255 - 0.5) / 0.25
        return inputs | {"pixel_values": values.permute(0, 3, 1, 2)}
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    options = {"patch_size": PATCH_SIDE, "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    size = {"shortest_edge": 64, "longest_edge": 96 * 96}
    pictures = Qwen2VLImageProcessorPil(size=size, **options)(image, return_tensors="pt")
    return inputs | dict(pictures) | {"mm_token_type_ids": (ids == model.config.image_token_id).long()}


@torch.no_grad()
def test_packed_logits_equal_transformers(tiny, model):
    rng, words = np.random.default_rng([5, 0, 7]), tiny.vocabulary
    scene = draw_scene(rng)
    ids, lengths = packed_questions(words, scene, rng, 3)
    pixels = torch.from_numpy(scene.image)[None].float() / 255
    nowhere = torch.zeros(1, 2, dtype=torch.long)
    cells = window_cells(tiny.grid, nowhere, tiny.grid)
    patches, _ = tiny.encode(model, {"pixels": pixels, "roll": nowhere})
    text, _ = packed_forward(tiny, model, tiny.project(model, patches), cells, ids, taps=())
    logits = model.lm_head(text).view(3, ids.shape[-1], -1)
    prefix = [*words.prefix, *[words.ids[words.image]] * tiny.grid**2]
    for slot, length in enumerate(lengths):
        single = torch.tensor([[*prefix, *ids[0, slot, :length].tolist()]])
        expected = model(**own_inputs(tiny, model, scene.image, single)).logits
        torch.testing.assert_close(logits[slot, :length], expected[0, len(prefix) :], atol=1e-4, rtol=0)


def test_windows_keep_the_ids_of_the_full_grid():
    ids = window_cells(2, torch.tensor([[3, 5]]), 24)
    assert ids.tolist() == [[3 * 24 + 5, 3 * 24 + 6, 4 * 24 + 5, 4 * 24 + 6]]
    wrapped = window_cells(2, torch.tensor([[23, 0]]), 24, wrap=True)
    assert wrapped.tolist() == [[23 * 24, 23 * 24 + 1, 0, 1]]


@torch.no_grad()
def test_attention_supervision_reads_masses_of_every_kind(tiny, model):
    recipe = Recipe.load(tiny.recipe)
    stage = next(stage for stage in recipe.stages if stage.questions)
    batch = build_batch(tiny, stage, 2, np.random.default_rng(0), caption_bank(0, 256))
    cells = window_cells(stage.size // tiny.token, batch["origin"], tiny.grid)
    visual = tiny.project(model, tiny.encode(model, batch)[0])
    supervision = AttentionSupervision(batch, recipe.attention_layers, tiny.vocabulary)
    packed_forward(tiny, model, visual, cells, batch["ids"], (recipe.position_tap,), supervision)
    means = supervision.means()
    assert set(means) == {"attend_words", "attend_nouns", "attend_objects"}
    assert all(0 < value < 9.3 for value in means.values())  # -log of a mass between 1e-4 and 1


def test_a_slot_does_not_see_the_other_slots(tiny, model):
    rng = np.random.default_rng([5, 1, 7])
    ids, _ = packed_questions(tiny.vocabulary, draw_scene(rng), rng, 2)
    cells = window_cells(2, torch.zeros(1, 2, dtype=torch.long), tiny.grid)
    with torch.no_grad():
        visual = torch.randn(1, 4, 128)
        both, _ = packed_forward(tiny, model, visual, cells, ids, taps=())
        alone, _ = packed_forward(tiny, model, visual, cells, ids[:, 1:], taps=())
    torch.testing.assert_close(both[:, ids.shape[-1] :], alone, atol=1e-5, rtol=0)


def test_caption_bank_is_the_same_for_a_seed():
    torch.testing.assert_close(caption_bank(3, 5), caption_bank(3, 5))

"""The packed training forward gives the logits of transformers' own forward, question by question."""

import numpy as np
import pytest
import torch

from nuwa.tiny.data import SLOT, BatchStream, caption_bank
from nuwa.tiny.losses import AttentionSupervision
from nuwa.tiny.model import FIRST_PATCH, GRID, build_model
from nuwa.tiny.packed import cell_ids, encode_image, packed_forward
from nuwa.tiny.questions import ask
from nuwa.tiny.recipe import RECIPE, Recipe
from nuwa.tiny.scenes import draw_scene
from nuwa.tiny.vocabulary import ANSWER_CUE, IMAGE, PREFIX_IDS, encode_words


@pytest.fixture(scope="module")
def model():
    return build_model(seed=1).eval()


def packed_questions(scene, rng, count):
    ids = torch.zeros(1, count, SLOT, dtype=torch.long)
    lengths = []
    for slot in range(count):
        question = ask(scene, rng, ("vqa", "vg")[slot % 2])
        words = encode_words(f"{question.text} {ANSWER_CUE}") + encode_words(question.answer)
        ids[0, slot, : len(words)] = torch.tensor(words)
        lengths.append(len(words))
    return ids, lengths


@torch.no_grad()
def test_packed_logits_equal_transformers(model):
    rng = np.random.default_rng([5, 0, 7])
    scene = draw_scene(rng)
    ids, lengths = packed_questions(scene, rng, 3)
    pixels = torch.from_numpy(scene.image)[None].float() / 255
    cells = cell_ids(GRID, torch.zeros(1, 2, dtype=torch.long))
    patches, _ = encode_image(model, pixels, cells)
    packed = packed_forward(model, patches, cells, ids, taps=(6,))
    logits = model.lm_head(packed.text).view(3, SLOT, -1)
    for slot, length in enumerate(lengths):
        single = torch.tensor([[*PREFIX_IDS, *[IMAGE] * GRID**2, *ids[0, slot, :length].tolist()]])
        values = ((pixels - 0.5) / 0.25).permute(0, 3, 1, 2)
        expected = model(input_ids=single, pixel_values=values, attention_mask=torch.ones_like(single)).logits
        torch.testing.assert_close(logits[slot, :length], expected[0, FIRST_PATCH + GRID**2 :], atol=1e-4, rtol=0)


def test_windows_keep_the_ids_of_the_full_grid():
    ids = cell_ids(2, torch.tensor([[3, 5]]))
    assert ids.tolist() == [[3 * GRID + 5, 3 * GRID + 6, 4 * GRID + 5, 4 * GRID + 6]]
    wrapped = cell_ids(2, torch.tensor([[GRID - 1, 0]]), wrap=True)
    assert wrapped.tolist() == [[(GRID - 1) * GRID, (GRID - 1) * GRID + 1, 0, 1]]


@torch.no_grad()
def test_attention_supervision_reads_masses_of_every_kind(model):
    recipe = Recipe.load(RECIPE)
    stage = next(stage for stage in recipe.stages if stage.questions)
    stream = BatchStream([stage], seed=0, captions=256, world=stage.batch // 2)
    batch = next(iter(stream))
    cells = cell_ids(stage.size // 4, batch["origin"])
    patches, _ = encode_image(model, batch["pixels"], cells)
    supervision = AttentionSupervision(batch, recipe.attention_layers)
    packed_forward(model, patches, cells, batch["ids"], (recipe.position_tap,), supervision)
    means = supervision.means()
    assert set(means) == {"attend_words", "attend_nouns", "attend_objects"}
    assert all(0 < value < 9.3 for value in means.values())  # -log of a mass between 1e-4 and 1


def test_a_slot_does_not_see_the_other_slots(model):
    rng = np.random.default_rng([5, 1, 7])
    ids, _ = packed_questions(draw_scene(rng), rng, 2)
    cells = cell_ids(2, torch.zeros(1, 2, dtype=torch.long))
    with torch.no_grad():
        patches = torch.randn(1, 4, 96)
        both = packed_forward(model, patches, cells, ids, taps=(1,)).text[:, SLOT:]
        alone = packed_forward(model, patches, cells, ids[:, 1:], taps=(1,)).text
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=0)


def test_caption_bank_is_the_same_for_a_seed():
    torch.testing.assert_close(caption_bank(3, 5), caption_bank(3, 5))

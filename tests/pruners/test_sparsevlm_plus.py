"""SparseVLM+ against its definition, one rater, head and token at a time."""

import math

import pytest
import torch
from helpers.golden_cases import noise, prompt

import nuwa
from nuwa.pruners.sparsevlm import find_raters, text_raters
from nuwa.pruning.scores import rotary_kernel

BEFORE, IMAGE, AFTER, HEADS, WIDTH = 3, 8, 5, 4, 6
LENGTH = BEFORE + IMAGE + AFTER


def contexts(attention, kernel):
    """Layer 0 and the layer before the stage, one row: text, image, question."""
    hidden = noise(1, LENGTH, 16, seed=3)
    first = prompt(BEFORE, IMAGE, AFTER, hidden=hidden, layer=0)
    before = prompt(BEFORE, IMAGE, AFTER, hidden=hidden, layer=1)
    before.attention = lambda query: attention[:, :, query]
    before.rotary_kernel = lambda query: kernel[:, query]
    return prompt(BEFORE, IMAGE, AFTER, hidden=hidden, layer=2, earlier={"previous": before, "first": first}), hidden


def wanted(attention, kernel, hidden, keep, heads, correct):
    image, question = range(BEFORE, BEFORE + IMAGE), range(BEFORE + IMAGE, LENGTH)
    share = [(hidden[0, list(question)] @ hidden[0, v]).softmax(0) for v in image]
    score = sum(share) / len(image)
    rating = [q for q, x in zip(question, score, strict=True) if x > score.mean()]
    value = {
        (h, q, v): float(attention[0, h, q, v]) / (float(kernel[0, q, v]) if correct else 1.0)
        for h in range(HEADS)
        for q in rating
        for v in image
    }
    mass = {h: sum(value[h, q, v] for q in rating for v in image) for h in range(HEADS)}
    heard = sorted(mass, key=mass.get, reverse=True)[:heads]
    score = {v: sum(value[h, q, v] for h in heard for q in rating) for v in image}
    return sorted(sorted(score, key=score.get, reverse=True)[:keep])


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize(("share", "heads"), [(0.5, 2), (0.25, 1), (1.0, 4)])
def test_selection(correct, share, heads):
    attention = noise(1, HEADS, LENGTH, LENGTH, seed=1).mul(2).softmax(-1)
    kernel = 1 + 0.5 * noise(1, LENGTH, LENGTH, seed=2)
    context, hidden = contexts(attention, kernel)
    pruner = nuwa.load_pruner("sparsevlm_plus", heads=share, correct_distance=correct)
    kept = pruner.prune_llm(context, torch.tensor([[3]]))[0].nonzero()[:, 0].tolist()
    assert kept == wanted(attention, kernel, hidden, 3, heads, correct)


def test_the_kernel_is_a_sum_of_cosines_of_distances():
    positions, theta = torch.tensor([0, 3, 4, 11]), 100.0
    frequency = theta ** (-torch.arange(WIDTH // 2).float() / (WIDTH // 2))
    angle = torch.cat([positions[:, None] * frequency] * 2, -1)[None]
    kernel = rotary_kernel((angle.cos(), angle.sin()), torch.tensor([1, 3]))
    for row, i in enumerate((1, 3)):
        for j in range(4):
            distance = int(positions[i] - positions[j])
            expected = 2 * sum(math.cos(distance * float(f)) for f in frequency) / math.sqrt(WIDTH)
            assert float(kernel[0, row, j]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("nominal", "counts"), [(64, (66, 34, 20)), (96, (246, 54, 28)), (128, (238, 108, 60)), (192, (300, 200, 118))]
)
def test_the_authors_lists(nominal, counts):
    schedule = nuwa.load_pruner("sparsevlm_plus", budget=nominal, counting="authors").schedule(576, 32)
    assert schedule.llm == tuple(zip((3, 7, 16), counts, strict=True))


def test_entering_meets_the_budget():
    schedule = nuwa.load_pruner("sparsevlm_plus", budget=128).schedule(576, 32)
    assert schedule.average(32) == pytest.approx(128, abs=1.3)


def test_a_question_of_one_token_rates():
    hidden = noise(1, BEFORE + IMAGE + 1, 16, seed=4)
    first = prompt(BEFORE, IMAGE, 1, hidden=hidden, layer=0)
    assert find_raters(first)[0].nonzero().tolist() == [[BEFORE + IMAGE]]


def test_tokens_that_resemble_the_image_like_all_others_do_not_rate():
    score, rates = text_raters(torch.ones(1, 2, 3), torch.ones(1, 2) > 0, torch.ones(1, 4, 3), torch.ones(1, 4) > 0)
    assert score.tolist() == [[0.25] * 4] and not rates.any()

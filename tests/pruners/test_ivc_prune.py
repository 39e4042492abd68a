"""IVC-Prune: golden data of its authors' code, for one axis of position ids and for three."""

import pytest
import torch
from helpers.golden_cases import Golden, after, noise, prompt

import nuwa
from nuwa.pruners.ivc_prune import heard_text, rotations, value_scores
from nuwa.pruning.budget import BudgetError
from nuwa.pruning.selection import top_tokens

QWEN = ["ivc_qwen25", "ivc_qwen25_tall"]


def context_of(case, params):
    values = case.inputs["values"]
    heads, length, width = values.shape[1:]
    start, image = params["visual_start"], params["image_len"]
    ids = case.inputs["position_ids"] if "position_ids" in case.inputs else torch.arange(length)[None, None]
    flat = values.transpose(1, 2).flatten(2)
    before = prompt(start, image, length - start - image, hidden=flat, values=lambda: flat, kv_heads=heads)
    frequencies = params["rope_base"] ** (-torch.arange(0, width, 2) / width)
    return after(before, position_ids=ids, frequencies=frequencies)


@pytest.mark.parametrize("name", ["ivc_llava", *QWEN])
def test_golden(name):
    case = Golden(name)
    params = case.params("release")
    context, count = context_of(case, params), params["image_len"]
    image = slice(params["visual_start"], params["visual_start"] + count)
    mine, on_image = context.visual, name in QWEN
    seeds = torch.tensor([max(1, round(params["seeds"] * count))])
    text = heard_text(context, mine)
    first, second, seeded = value_scores(
        case.inputs["values"], mine, text, mine if on_image else context.valid, seeds, int(seeds)
    )
    case.check("release", score_text=first[0, image], score=second[0, image], seeds=seeded[0, image].nonzero()[:, 0])
    best = [
        top_tokens(turn[0, image], round(params["coordinates"] * count))
        for turn in rotations(context.position_ids, context.frequencies)
    ]
    case.check("release", coordinates_cos=best[0], coordinates_sin=best[1])
    pruner = nuwa.load_pruner("ivc_prune", adaptive=not on_image)
    kept = pruner.prune_llm(context, torch.tensor([[round(params.get("target", 1) * count)]]))[0]
    case.check("release", kept=kept[image].nonzero()[:, 0])
    rows = (kept | context.text[0]).nonzero()[:, 0]
    case.check("release", keep_sequence_indices=rows)


def test_the_first_rows_and_a_comb_are_coordinates():
    """methods_new.md E: base 10000, heads of 128, an image of 576 tokens from place 5 on."""
    frequencies = 10000.0 ** (-torch.arange(0, 128, 2) / 128)
    cosine, sine = (turn[0, 5:581] for turn in rotations(torch.arange(600)[None, None], frequencies))
    assert top_tokens(cosine, 29).tolist() == [*range(28), 32]
    assert top_tokens(sine, 29).tolist()[:5] == [141, 179, 191, 222, 241]


def test_cells_that_swap_row_and_column_tie():
    ids = torch.tensor([[4, 4], [7, 12], [12, 7]])[:, None]
    cosine, sine = rotations(ids, 1e6 ** (-torch.arange(0, 64, 2) / 64))
    assert cosine[0, 0] == cosine[0, 1] and sine[0, 0] == sine[0, 1]


def test_two_tokens_behind_an_image_are_not_heard_where_more_follow():
    assert heard_text(prompt(2, 4, 5), prompt(2, 4, 5).visual).tolist() == [[False] * 8 + [True] * 3]
    assert heard_text(prompt(2, 4, 2), prompt(2, 4, 2).visual).tolist() == [[True] * 2 + [False] * 4 + [True] * 2]


def test_coordinates_go_before_the_score_and_the_score_decides_among_them():
    length = 40
    flat = noise(1, length, 8)
    before = prompt(2, 30, 8, hidden=flat, values=lambda: flat, kv_heads=2)
    frequencies = 10000.0 ** (-torch.arange(0, 16, 2) / 16)
    context = after(before, position_ids=torch.arange(length)[None, None], frequencies=frequencies)

    def kept(keep, **options):
        pruner = nuwa.load_pruner("ivc_prune", **options)
        return set(pruner.prune_llm(context, torch.tensor([[keep]]))[0].nonzero()[:, 0].tolist())

    always = kept(0, adaptive=True, foreground=0.0, coordinates=0.1)
    assert kept(12, coordinates=0.1) >= always
    assert kept(3, coordinates=0.1) < always
    assert kept(12, coordinates=0.0) != kept(12, coordinates=0.1)


def test_what_no_ladder_reaches_is_refused():
    assert nuwa.load_pruner("ivc_prune", budget=300).schedule(576, 32).llm == ((16, 24),)
    assert nuwa.load_pruner("ivc_prune", budget=64).schedule(576, 32).llm == ((2, 30),)
    with pytest.raises(BudgetError, match=r"ladder=late needs 288\.5 or more, ladder=early needs 36\.9 or more"):
        nuwa.load_pruner("ivc_prune", budget=64, ladder="late").schedule(576, 32)
    with pytest.raises(BudgetError, match="the image decides"):
        nuwa.load_pruner("ivc_prune", budget=64, adaptive=True).schedule(576, 32)

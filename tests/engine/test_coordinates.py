"""Tokens that stay because of where they stand: which they are, and that every method keeps them within its budget."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from helpers.families import FAMILIES
from helpers.family import PROMPTS
from helpers.methods import CASES, pruner_for

import nuwa
from nuwa.engine.arguments import cache_of
from nuwa.engine.calls import read_prompt_once
from nuwa.engine.conversation import conversation_of
from nuwa.pruners.base import LLMDecision, MisfitError
from nuwa.pruning.coordinates import Coordinates, coordinate_scores, grid_scores
from nuwa.pruning.layout import ImageLayout

LLAVA, SHARE = FAMILIES["llava"], 0.25
METHODS = [name for family, name in CASES if family == "llava" and name not in ("downsample", "none")]
SOME = [case for case in CASES if case[1] in ("nuwa", "visionzip", "sparsevlm", "pooling")]
SINE = [149, 192, 211, 212, 249, 250, 293, 294, 343, 344, 345, 368, 401, 402, 403, 404, 430, 431, 432, 469, 470, 471]
SINE += [502, 503, 546, 547, 548, 549, 550]
COSINE = [*range(11), *range(13, 18), *range(21, 25), *range(30, 34), 40, 41, 42, 53, 66]
"""The 29 best of 576 by either turn, of an image that begins at id 35, base 10,000, width 128, as the released code."""

pytestmark = pytest.mark.filterwarnings("ignore:llava_onevision interpolates")


def test_ivc_tokens_are_the_published_ones():
    frequencies = 10000.0 ** (-torch.arange(64) / 64)
    image = torch.full((1, 620), -1)
    image[:, 35 : 35 + 576] = 0
    score = coordinate_scores(torch.arange(620)[None, None], image, 1, frequencies)[0, 35 : 35 + 576]
    best = score.argsort(descending=True, stable=True)[:58].tolist()
    assert sorted(best) == sorted(COSINE + SINE)
    assert set(best[::2]) == set(COSINE) and set(best[1::2]) == set(SINE)  # taking turns


def test_a_grid_grows_evenly():
    """Sixteen of 8 x 8 are every other row and column, four are every fourth."""
    order = grid_scores(ImageLayout.single((8, 8))).argsort(descending=True, stable=True).tolist()
    for count, step in ((1, 8), (4, 4), (16, 2), (64, 1)):
        assert sorted(order[:count]) == [8 * row + c for row in range(0, 8, step) for c in range(0, 8, step)]


@torch.no_grad()
def traced(family, pruner, coordinates, *prompts):
    """What each stage of the method chose of every image, and the state of the call."""
    chosen, family = [], FAMILIES[family]

    def spy(decide):
        def decided(context, keep):
            chosen.append((context, decide(context, keep)))
            return chosen[-1][1]

        return decided

    for stage in ("prune_vision", "prune_llm"):
        setattr(pruner, stage, spy(getattr(pruner, stage)))
    questions = [f"what is {number}?" for prompt in prompts for number in PROMPTS[prompt][1]]
    session = nuwa.prune(family.model(), pruner, "pesp", coordinates=coordinates)
    with session, session.about(questions=questions):
        output = read_prompt_once(session, family.inputs(*prompts, numbered=True))
    return chosen, conversation_of(cache_of(output))


def best_others(scores, kept, count):
    """The ``count`` best of the tokens not ``kept``, by (score, -token)."""
    return sorted((token for token in scores if token not in kept), key=lambda t: (-scores[t], t))[:count]


@pytest.mark.parametrize("kind", ["ivc", "random", "grid"])
@pytest.mark.parametrize(
    "name", [name for family, name in CASES if family == "llava" and name not in ("downsample", "none")]
)
def test_every_stage_keeps_the_best_coordinates_within_its_budget(name, kind):
    pruner = pruner_for(name)
    usual = pruner.schedule(64, 6)
    chosen, state = traced("llava", pruner, Coordinates(kind, SHARE), "two")
    whole, (plans,) = state.prompt.whole, state.prompt.rows
    for image in range(len(plans)):
        mine = (whole.image[0] == image).nonzero()[:, 0]
        scores = dict(zip(whole.token[0, mine].tolist(), whole.columns["score"][0, mine].tolist(), strict=True))
        alive = set(scores)
        for segment in {segment.start: segment for segment in state.tables}.values():
            before = segment.start == 0 and pruner.prunes_vision
            planned = usual.vision if before else usual.stages(usual.vision).get(segment.start)
            if planned is None:  # everything enters
                continue
            count = round(SHARE * Fraction(planned))
            stage = [d for c, d in chosen if getattr(c, "layer", 0) == segment.start][-1]
            if before:
                kept = set(stage.keep[image].tolist())
            else:
                context = next(c for c, _ in chosen if getattr(c, "layer", None) == segment.start)
                mask = stage.keep if isinstance(stage, LLMDecision) else stage
                kept = set(context.token[0, mask[0] & (context.image[0] == image)].tolist())
            added = best_others({t: scores[t] for t in alive}, kept, count)
            here = segment.token[0, segment.image[0] == image].tolist()
            assert sorted(here) == sorted(kept | set(added)) and len(added) == count
            if name != "pooling":
                assert len(here) == planned
            assert set(best_others({t: scores[t] for t in alive}, (), count)) <= set(here)
            alive = set(here)


@pytest.mark.parametrize(("family", "name"), SOME)
@pytest.mark.parametrize("kind", ["ivc", "random"])
def test_a_batch_equals_its_rows_alone_cached_or_not(family, name, kind):
    family, names = FAMILIES[family], ("middle", "two", "last")
    model, options = family.model(), {"max_new_tokens": 3, "do_sample": False}
    pruner, coordinates = pruner_for(name, family), Coordinates(kind, SHARE)
    with torch.no_grad(), nuwa.prune(model, pruner, "rpme", coordinates=coordinates) as session:
        with session.about(ids=list("abcd")):
            together = model.generate(**family.inputs(*names), **options)
            assert torch.equal(model.generate(**family.inputs(*names), use_cache=False, **options), together)
        with session.about(ids=["b", "c"]):
            assert torch.equal(model.generate(**family.inputs("two"), **options)[0, -3:], together[1, -3:])


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_what_is_added_is_followed(family):
    """Rows that have a patch again have their newline; patches stand in raster order."""
    pruner = pruner_for("nuwa", FAMILIES[family])
    _, state = traced(family, pruner, Coordinates("grid", 0.5), "two")
    (plans,), segment = state.prompt.rows, state.tables[0]
    for image, picture in enumerate((1, 2)):
        here = segment.token[0, segment.image[0] == image].tolist()
        patches = {token for token in here if plans[image].layout.source[token] >= 0}
        assert here == FAMILIES[family].with_newlines(picture, patches)
        assert len(patches) == plans[image].schedule.vision


def test_images_that_decide_get_them_on_top():
    pruner = nuwa.load_pruner("prumerge", adaptive=True, fence=0.5)
    chosen, state = traced("llava", pruner, Coordinates("grid", SHARE), "two")
    counts = [sum(state.tables[0].image[0] == image) for image in (0, 1)]
    own = chosen[0][1].counts.tolist()
    assert counts == [count + round(SHARE * count) for count in own] and own[0] != own[1]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"coordinates\.kind=ivcs: expected one of none, ivc, random, grid"):
        Coordinates("ivcs")
    with pytest.raises(ValueError, match=r"coordinates\.share=1\.0: expected a share in \(0, 1\)"):
        Coordinates("ivc", 1.0)
    with pytest.raises(MisfitError, match=r"coordinates\.kind=ivc adds .* pruner downsample shows a smaller one"):
        nuwa.prune(LLAVA.model(), nuwa.load_pruner("downsample", 16), coordinates=Coordinates("ivc"))

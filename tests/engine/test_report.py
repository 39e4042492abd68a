"""What a session tells: three lines for a person, everything for a program, and where the rows of a layer stand."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from helpers.families import FAMILIES
from helpers.methods import pruner_for
from helpers.support import Fixed

import nuwa

BATCH = ("middle", "two", "last")


@pytest.fixture(params=["llava", "llava_next", "qwen2_5_vl"])
def family(request):
    return FAMILIES[request.param]


def session_of(family, pruner, *names, position="pesp", **options):
    with torch.no_grad(), nuwa.prune(family.model("eager"), pruner, position) as session:
        return session, family.model("eager")(**family.inputs(*(names or BATCH)), **options)


def test_three_lines_that_a_person_reads():
    session, _ = session_of(FAMILIES["llava"], nuwa.load_pruner("nuwa", budget=20))
    assert str(session.report()).splitlines() == [
        "nuwa, position ids pesp, 4 images of 64 visual tokens",
        "35 in layers 0-2, 5 in layers 3-5: 20 on average",
        "27.3% of their FLOPs in the LLM, 31.2% of their KV cache",
    ]


def test_before_the_first_image():
    report = nuwa.prune(FAMILIES["llava"].model(), Fixed(3)).report()
    assert str(report) == "fixed, position ids pesp: no image yet"
    assert report.to_dict()["tokens_per_layer"] == report.images == []
    with pytest.raises(ValueError, match="layer 0 of 6, after 0 images, saw nothing"):
        report.places(0)


def test_shares_by_hand():
    """Six layers of width 48 and 96: 22 of 64 tokens, then 11 from layer 2 on."""
    session, _ = session_of(FAMILIES["llava"], Fixed(3, (2,)))
    flops = {n: 8 * n * 48**2 + 4 * n**2 * 48 + 4 * n * 48 * 96 for n in (11, 22, 64)}
    found = session.report().to_dict()
    assert found["tokens_per_layer"] == [22, 22, 11, 11, 11, 11]
    assert found["flops_share"] == pytest.approx((2 * flops[22] + 4 * flops[11]) / (6 * flops[64]))
    assert found["cache_share"] == pytest.approx((2 * 22 + 4 * 11) / (6 * 64))


def test_all_of_it_as_json(family):
    session, _ = session_of(family, pruner_for("nuwa", family))
    found = json.loads(json.dumps(session.report().to_dict()))
    assert (found["method"], found["position"], found["images_seen"]) == ("nuwa", "pesp", 4)
    for told, image in zip(found["images"], session.report().images, strict=True):
        assert told["stages"] == [[layer, kept, positions] for layer, kept, positions in image.stages]
        assert told["extras"]["salience"] == image.extras["salience"].tolist()


@pytest.mark.parametrize("name", ["nuwa", "visionzip", "fastv", "sparsevlm"])
def test_rows_of_a_layer_stand_where_places_says(family, name):
    """Independently: each visual row has the place of a kept token, text rows are all there, and in order."""
    pruner = pruner_for(name, family)
    session, out = session_of(family, pruner, output_hidden_states=True, output_attentions=True)
    ids, mask = (family.inputs(*BATCH)[key] for key in ("input_ids", "attention_mask"))
    report, first = session.report(), {}
    for layer in range(6):
        places = report.places(layer)
        assert out.attentions[layer].shape[2:] == (places.shape[1], places.shape[1])
        assert out.hidden_states[layer + 1].shape[1] == places.shape[1]
        for row, placed in enumerate(places.tolist()):
            placed = [place for place in placed if place >= 0]
            text = [i for i in range(ids.shape[1]) if mask[row, i] and ids[row, i] != 4]
            assert [place for place in placed if ids[row, place] != 4] == text
            starts = [i for i in range(ids.shape[1]) if ids[row, i] == 4 and (i == 0 or ids[row, i - 1] != 4)]
            images = [image for image in report.images if image.row == row]
            kept = [next(k for start, k, _ in reversed(image.stages) if start <= layer) for image in images]
            expected = [start + token for start, tokens in zip(starts, kept, strict=True) for token in tokens]
            assert [place for place in placed if ids[row, place] == 4] == expected
        first.setdefault(places.shape[1], layer)
    assert len(first) == (1 if name == "visionzip" else len(pruner.schedule(64, 6).llm) + 1)


def test_hidden_states_in_the_prompts_frame(family):
    """The example of docs/inside_a_session.md: what left the last layer, normed, is `last_hidden_state`."""
    model, inputs, layer = family.model("eager"), family.inputs(*BATCH), 5
    with torch.no_grad(), nuwa.prune(model, Fixed(3, (2, 4))) as session:
        out = model.model(**inputs, output_hidden_states=True)
    states = out.hidden_states[layer + 1]
    places = session.report().places(layer)
    whole = states.new_zeros(*inputs["input_ids"].shape, states.shape[-1])
    rows, columns = (places >= 0).nonzero(as_tuple=True)
    whole[rows, places[rows, columns]] = states[rows, columns]
    there = whole.abs().sum(-1) > 0
    assert there.sum() == (places >= 0).sum()
    assert torch.equal(whole[there], out.last_hidden_state[there])


def test_images_among_embeddings_are_spoken_of():
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.inputs("middle")
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(inputs["input_ids"])
        said = r"no image was pruned.*inputs_embeds.*pass input_ids and pixel_values"
        with pytest.warns(UserWarning, match=said), nuwa.prune(model, Fixed(3)):
            model.generate(inputs_embeds=embeddings, max_new_tokens=2, do_sample=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with nuwa.prune(model, Fixed(3)):
                model(input_ids=inputs["input_ids"][:, :3])
            with nuwa.prune(model, Fixed(3)):
                model(**inputs)

"""Who is who in a prompt, written out by hand and counted from the ids of every family."""

import pytest
import torch
from helpers.analysis_cases import PAIR, session_of, written_groups
from helpers.families import FAMILIES
from helpers.support import Fixed, kept_tokens

import nuwa
from nuwa.engine.calls import read_prompt_once, watch_layers
from nuwa.engine.groups import LAST, NO_GROUP, SYSTEM, TEXT, VISION, token_groups


def test_groups_by_hand():
    image = torch.tensor([[-1, -1, -1, 0, 0, -1, 1, -1, -1], [-1, -1, -1, -1, -1, -1, -1, -1, -1]])
    valid = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1, 1, 1]]).bool()
    groups = token_groups(image, valid)
    two_images = [NO_GROUP, SYSTEM, SYSTEM, VISION, VISION, TEXT, VISION, TEXT, LAST]
    assert groups.tolist() == [two_images, [NO_GROUP] * 6 + [TEXT, TEXT, LAST]]
    ended = token_groups(image, valid, torch.tensor([1, 0]))
    assert ended.tolist() == [[*two_images[:7], LAST, LAST], groups[1].tolist()]


@pytest.mark.parametrize("name", FAMILIES)
def test_groups_of_a_running_model(name):
    family = FAMILIES[name]
    inputs, seen = family.inputs(*PAIR), []
    with session_of(family) as session, watch_layers(session, lambda call: seen.append(call.groups())):
        read_prompt_once(session, inputs)
    length = inputs["input_ids"].shape[1]
    wanted = [written_groups(family, prompt) for prompt in PAIR]
    assert seen[0].tolist() == [[NO_GROUP] * (length - len(row)) + row for row in wanted]


def test_places_of_an_image_say_which_tokens_are_gone():
    family, seen = FAMILIES["llava"], []
    with nuwa.prune(family.model(), Fixed(3, (2,))) as session, watch_layers(session, seen.append, [1, 4]):
        read_prompt_once(session, family.inputs("middle", "two"))
    for call, stage in zip(seen, (1, 2), strict=True):
        for row, ordinal in ((0, 0), (1, 0), (1, 1)):
            places = call.places(row, ordinal).tolist()
            assert [token for token, place in enumerate(places) if place >= 0] == kept_tokens(64, 3, stage)
            assert set(places) - {place for place in places if place >= 0} == {-1}
            assert all(call.segment.token[row, place] == token for token, place in enumerate(places) if place >= 0)
            assert (call.segment.image[row, [place for place in places if place >= 0]] == ordinal).all()

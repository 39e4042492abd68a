"""Rows about the same image: one vision pass and one prefix for all of them; features from the disk change no bit."""

from __future__ import annotations

import functools

import pytest
import torch
from helpers.families import FAMILIES, PROMPTS
from helpers.support import Fixed, batch

import nuwa
from nuwa.engine.blocking import block
from nuwa.engine.feature_cache import FeatureCache
from nuwa.engine.guards import SessionError
from nuwa.engine.prefix import Split
from nuwa.models import adapter_for
from nuwa.pruners import KeepAll
from nuwa.pruning.budget import Budget

ASKED = (("middle", (9,)), ("middle", (10, 11, 12)), ("middle", (9, 10)), ("two", (13,)), ("two", ()), ("last", (14,)))
"""Rows: a prompt of ``PROMPTS`` and more text behind it. Three begin alike, then two, then one."""
READERS = ("nuwa", "visionzip", "hiprune", "vispruner", "holov", "divprune", "nuwa_release", "sparsevlm", "random")
"""Methods that between them read every kind of tap that all families have, or none."""
LLAVA_ONLY = ("prumerge", "prumerge_plus", "downsample", "feather")

pytestmark = pytest.mark.filterwarnings("ignore:llava_onevision interpolates")


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


BEGINNINGS = [name for name in FAMILIES if FAMILIES[name].shares_beginnings]
"""Without deepstack planes, recurrent states, pictures that see themselves: the others share the vision pass."""
sharing = pytest.mark.parametrize("family", BEGINNINGS, indirect=True)


def asked(family, *rows, **options):
    """A batch of the rows, images repeated for every row."""
    numbers = [number for prompt, _ in rows for number in PROMPTS[prompt][1]]
    ids = [[*family.ids(prompt), *more] for prompt, more in rows]
    return family.finish(batch(*ids, **options) | family.pictures(*numbers))


@sharing
def test_rows_alike_are_computed_whole_unless_sharing_is_asked_for(family):
    """Sharing gives no logits in front of the images; without it they are those of a row alone."""
    model = family.model()
    for share in (False, True):
        with nuwa.prune(model, Fixed(3), "pesp", share=share):
            alike = model(**asked(family, ASKED[0], ASKED[0])).logits
        with nuwa.prune(model, Fixed(3), "pesp"):
            alone = model(**asked(family, ASKED[0])).logits
        assert torch.allclose(alike, alone.expand_as(alike), atol=1e-4) is not share


@torch.no_grad()
def answers(model, inputs, pruner, position="native", share=True, cache=None, **options):
    """Generated ids and the logits of every step; images are named by what they show."""
    arguments = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with nuwa.prune(model, pruner, position, share=share, cache=cache) as session:
        found = model.generate(**inputs, **arguments | options)
    return found.sequences, torch.stack(found.logits), session.report()


class Watch:
    """Counts what enters the tower, and the (rows, tokens) of every pass through a layer of the LLM."""

    def __init__(self, model, layer=0):
        adapter, self.features, self.layers = adapter_for(model), 0, []
        self.watched = adapter.tower_layers[0], adapter.layers[layer]

    def __enter__(self):
        tower, layer = self.watched
        self.handles = [
            tower.register_forward_pre_hook(self.count),
            layer.register_forward_pre_hook(lambda module, args: self.layers.append(tuple(args[0].shape[:2]))),
        ]
        return self

    def count(self, module, args):
        self.features += args[0].numel()

    def __exit__(self, *exception):
        for handle in self.handles:
            handle.remove()


def features_of(family, *pictures):
    """What enters the tower for some pictures."""
    with torch.no_grad(), Watch(family.model()) as watch:
        family.model().model.get_image_features(**family.pictures(*pictures))
    return watch.features


@pytest.mark.parametrize("position", ["perc", "pesp", "rpme"])
@pytest.mark.parametrize("pruner", [KeepAll(), Fixed(3), Fixed(2, (2, 4))], ids=["keep all", "vision", "both stages"])
def test_shared_rows_answer_as_rows_on_their_own(family, pruner, position):
    model, inputs = family.model(), asked(family, *ASKED)
    ids, logits, report = answers(model, inputs, pruner, position)
    expected_ids, expected, unshared = answers(model, inputs, pruner, position, share=False)
    torch.testing.assert_close(logits, expected, atol=5e-6, rtol=0)
    assert torch.equal(ids, expected_ids)
    assert report.tokens_per_layer == unshared.tokens_per_layer
    assert [image.stages for image in report.images] == [image.stages for image in unshared.images]


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True, "top_k": 1}])
def test_beams_and_samples_share_too(family, options):
    model, inputs = family.model(), asked(family, *ASKED)
    torch.manual_seed(0)
    ids, _, _ = answers(model, inputs, Fixed(3), **options)
    torch.manual_seed(0)
    assert torch.equal(ids, answers(model, inputs, Fixed(3), share=False, **options)[0])


@sharing
def test_each_beginning_runs_once(family):
    model, inputs = family.model(), asked(family, *ASKED)
    with Watch(model) as watch:
        answers(model, inputs, Fixed(3), max_new_tokens=1)
    (beginnings, head), (rows, tail) = watch.layers
    assert watch.features == features_of(family, 0, 1, 2, 3) and (beginnings, rows) == (3, 6)
    ends = [len(family.ids(prompt)) + len(more) - after_images(family, prompt) for prompt, more in ASKED]
    assert tail == max(ends)
    kept = [token for image in answers(model, inputs, Fixed(3))[2].images for _, token, _ in image.stages]
    assert head >= max(map(len, kept))


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(BEGINNINGS)))
def test_families_that_share_no_beginnings_share_the_vision_pass(name):
    family = FAMILIES[name]
    with Watch(family.model()) as watch:
        answers(family.model(), asked(family, *ASKED), Fixed(3), max_new_tokens=1)
    assert watch.features == features_of(family, 0, 1, 2, 3) and [rows for rows, _ in watch.layers] == [6]


def test_a_short_beginning_may_have_more_behind_it_than_a_long_one():
    """Padded to the longest beginning, it would start before the row does."""
    family = FAMILIES["llava"]
    model, inputs = family.model(), asked(family, ("two", ()), ("two", (9,)), ("middle", (9, 10, 11) * 5))
    found, expected = (answers(model, inputs, Fixed(3), share=share)[1] for share in (True, False))
    torch.testing.assert_close(found, expected, atol=5e-6, rtol=0)


def after_images(family, prompt):
    """Place behind the last placeholder of a prompt."""
    ids = family.ids(prompt)
    return max(place for place, token in enumerate(ids) if token == family.model().config.image_token_id) + 1


@sharing
def test_a_beginning_ends_at_the_first_stage(family):
    model, inputs = family.model(), asked(family, *ASKED)
    with Watch(model, layer=2) as watch:
        answers(model, inputs, Fixed(2, (3, 4)), max_new_tokens=1)
    assert watch.features == features_of(family, 0, 1, 2, 3) and [rows for rows, _ in watch.layers] == [3, 6]
    with Watch(model, layer=4) as watch:
        answers(model, inputs, Fixed(2, (3, 4)), max_new_tokens=1)
    assert [rows for rows, _ in watch.layers] == [6]


STAGED = ("nuwa", "fastv", "pyramiddrop", "sparsevlm", "sparsevlm_plus", "feather", "dart", "composed", "nuwa_release")
"""Methods with a stage in the LLM; between them they see all that can be seen there."""


@pytest.mark.parametrize("name", STAGED)
@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"], indirect=True)
def test_methods_choose_the_same_in_the_llm(family, name):
    model, inputs = family.model(), asked(family, *ASKED)
    pruner = nuwa.load_pruner(name, budget=20 if family.name == "llava" else Budget(ratio=0.34))
    ids, logits, report = answers(model, inputs, pruner)
    expected_ids, expected, unshared = answers(model, inputs, pruner, share=False)
    torch.testing.assert_close(logits, expected, atol=5e-6, rtol=0)
    assert torch.equal(ids, expected_ids)
    assert [image.stages for image in report.images] == [image.stages for image in unshared.images]


def test_rows_are_shared_by_content_not_by_name():
    family = FAMILIES["llava"]
    model, pruner = family.model(), nuwa.load_pruner("random", budget=5)
    inputs = asked(family, *ASKED[:3])
    with torch.no_grad(), nuwa.prune(model, pruner, share=True) as session, Watch(model) as watch:
        with session.about(["a", "b", "b"]):  # another name, another draw
            model.generate(**inputs, max_new_tokens=1)
        drawn = [image.stages[0][1] for image in session.report().images]
    assert drawn[0] != drawn[1] == drawn[2]
    assert watch.features == features_of(family, 0) and [rows for rows, _ in watch.layers] == [2, 3]


def test_text_without_images_and_prompts_that_end_with_one_are_left_alone():
    family = FAMILIES["llava"]
    model = family.model()
    for rows in ([("last", ()), ("last", ())], [("last", (9,))]):
        with Watch(model) as watch:
            answers(model, asked(family, *rows), Fixed(3), max_new_tokens=1)
        assert len(watch.layers) == 1
    text = batch([1, 9, 10], [1, 9, 10])
    assert torch.equal(answers(model, text, Fixed(3))[0], answers(model, text, Fixed(3), share=False)[0])


def test_without_a_cache_nothing_is_shared_in_the_llm():
    family = FAMILIES["llava"]
    model, inputs = family.model(), asked(family, *ASKED)
    shared = answers(model, inputs, Fixed(3), use_cache=False)
    assert torch.equal(shared[0], answers(model, inputs, Fixed(3), share=False)[0])


@pytest.mark.parametrize("stages", [(), (2, 4)], ids=["vision", "both stages"])
def test_a_call_that_fails_leaves_nothing_behind(monkeypatch, stages):
    family = FAMILIES["llava"]
    model, inputs, pruner = family.model(), asked(family, *ASKED), Fixed(2, stages)
    expected = answers(model, inputs, pruner, share=False)[0]

    def fail(split, inputs):
        raise torch.OutOfMemoryError("too many beginnings")

    with torch.no_grad(), nuwa.prune(model, pruner, share=True) as session:
        with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
            patch.setattr(Split, "prefix_inputs", fail)
            model.generate(**inputs, max_new_tokens=4)
        assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), expected)
    assert session.report().images_seen == 8


@pytest.mark.filterwarnings("ignore")
def test_training_with_checkpointed_layers_shares_no_prefix():
    family = FAMILIES["llava"]
    model, inputs = family.model(), asked(family, *[("middle", (9, more)) for more in (10, 11, 12)])
    found = []
    try:
        model.train()
        model.gradient_checkpointing_enable()
        for share in (True, False):
            with nuwa.prune(model, Fixed(2, (2, 4)), share=share):
                found.append(model(**inputs).logits[:, -1])
    finally:
        model.gradient_checkpointing_disable()
        model.eval()
    torch.testing.assert_close(*found, atol=5e-6, rtol=0)


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_sizes_of_images_may_be_a_list(name):
    family = FAMILIES[name]
    model, inputs = family.model(), asked(family, *ASKED)
    expected = answers(model, inputs, Fixed(3))[1]
    with torch.no_grad(), nuwa.prune(model, Fixed(3), share=True):
        found = model(**inputs | {"image_sizes": inputs["image_sizes"].tolist()}).logits[:, -1]
    torch.testing.assert_close(found, expected[0], atol=5e-6, rtol=0)


def test_analyses_refuse_shared_rows():
    model = FAMILIES["llava"].model()
    shared = nuwa.prune(model, KeepAll(), share=True)
    with shared as session, pytest.raises(SessionError, match="share=False"), block(session, "text"):
        pass


CACHED = [("llava", name) for name in (*READERS, *LLAVA_ONLY)]
CACHED += [
    (family, name) for number, family in enumerate(FAMILIES) for name in READERS[number % 3 :: 3] if family != "llava"
]
"""All that is read off the tower on LLaVA, a third of it on every other family."""


@pytest.mark.parametrize(("family", "name"), CACHED, indirect=["family"])
def test_features_from_the_disk_change_no_bit(family, name, tmp_path):
    model, inputs = family.model(), asked(family, *ASKED)
    pruner = nuwa.load_pruner(name, budget=20 if family.name == "llava" else Budget(ratio=0.34))
    cache = FeatureCache(tmp_path, "space", 10**8)
    plain = answers(model, inputs, pruner)
    first = answers(model, inputs, pruner, cache=cache)
    with Watch(model) as watch:
        second = answers(model, inputs, pruner, cache=cache)
    assert cache.hits == cache.misses >= 1 + pruner.prunes_vision and not watch.features
    for found in (first, second):
        assert torch.equal(found[0], plain[0]) and torch.equal(found[1], plain[1])


def test_other_images_order_taps_layer_or_space_are_other_entries(tmp_path):
    family = FAMILIES["llava"]
    model, cache = family.model(), FeatureCache(tmp_path, "space", 10**8)
    answers(model, asked(family, *ASKED), KeepAll(), cache=cache)
    answers(model, asked(family, *reversed(ASKED)), KeepAll(), cache=cache)
    answers(model, asked(family, *ASKED), nuwa.load_pruner("nuwa", budget=20), cache=cache)
    last = {"vision_feature_layer": -1}
    found = answers(model, asked(family, *ASKED), KeepAll(), cache=cache, **last)[1]
    assert torch.equal(found, answers(model, asked(family, *ASKED), KeepAll(), **last)[1])
    assert (cache.hits, cache.misses) == (0, 4 + 1)  # and what Nüwa decided
    assert len(list(tmp_path.rglob("*.safetensors"))) == 5
    answers(model, asked(family, *ASKED), KeepAll(), cache=FeatureCache(tmp_path, "other", 10**8))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 6


def test_unshared_calls_have_their_own_entries(tmp_path):
    family, cache = FAMILIES["llava"], FeatureCache(tmp_path, "space", 10**8)
    for numbers in ((0, 1), (1, 0), (0, 1)):
        with torch.no_grad(), nuwa.prune(family.model(), KeepAll(), cache=cache) as session:
            found = session.adapter.multimodal.get_image_features(**family.pictures(*numbers)).pooler_output
        with torch.no_grad():
            expected = family.model().model.get_image_features(**family.pictures(*numbers)).pooler_output
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert (cache.hits, cache.misses) == (1, 2)


def test_features_of_a_smaller_image_are_another_entry(tmp_path):
    """Methods without taps would be served what `downsample` has encoded, and it what other budgets made it encode."""
    family = FAMILIES["llava"]
    model, inputs, cache = family.model(), asked(family, *ASKED), FeatureCache(tmp_path, "space", 10**8)
    for pruner in (*(nuwa.load_pruner("downsample", budget=budget) for budget in (16, 32)), KeepAll()):
        expected, found = (answers(model, inputs, pruner, cache=used)[1] for used in (None, cache))
        assert torch.equal(found, expected)
    assert (cache.hits, cache.misses) == (0, 3 + 2)  # and what the first two decided


def test_what_a_call_asks_for_by_any_name_makes_another_entry(tmp_path):
    family = FAMILIES["llava"]
    arguments, cache = family.pictures(0), FeatureCache(tmp_path, "space", 10**8)
    with torch.no_grad(), nuwa.prune(family.model(), KeepAll(), cache=cache) as session:
        for more in ({}, {"interpolate_pos_encoding": True}, {"interpolate_pos_encoding": False}):
            session.adapter.multimodal.get_image_features(**arguments, **more)
    assert (cache.hits, cache.misses) == (0, 3)


def test_pictures_of_equal_pixels_and_other_sizes_are_two():
    """Padding that was cut off one of them is part of the other."""
    family = FAMILIES["llava_next"]
    pictures = family.pictures(0, 0)
    pictures["image_sizes"] = torch.tensor([[8, 32], [16, 32]])
    with torch.no_grad(), nuwa.prune(family.model(), KeepAll(), share=True) as session:
        images = session.adapter.multimodal.get_image_features(**pictures).pooler_output
    assert len(images[0]) < len(images[1])


@pytest.mark.parametrize("share", [False, True])
def test_features_come_back_in_the_type_in_which_the_model_made_them(share, tmp_path, monkeypatch):
    """Model code may call methods of a tensor on them, or take images of different sizes off a list."""
    family, cache = FAMILIES["llava"], FeatureCache(tmp_path, "space", 10**8)
    owner, pictures = family.model().model, family.pictures(0, 1, 0)
    encode = owner.get_image_features

    @functools.wraps(encode)
    def stacked(*args, **kwargs):
        output = encode(*args, **kwargs)
        output.pooler_output = torch.stack(list(output.pooler_output))
        return output

    with torch.no_grad(), nuwa.prune(family.model(), KeepAll(), share=share, cache=cache):
        expected = owner.get_image_features(**pictures).pooler_output
    assert isinstance(expected, list) and len(expected) == 3
    monkeypatch.setitem(vars(owner), "get_image_features", stacked)
    with torch.no_grad(), nuwa.prune(family.model(), KeepAll(), share=share, cache=FeatureCache(tmp_path, "b", 10**8)):
        for _ in range(2):  # from the tower, then from the disk
            assert torch.equal(owner.get_image_features(**pictures).pooler_output, torch.stack(expected))

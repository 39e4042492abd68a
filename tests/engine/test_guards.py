"""A session leaves no trace, and refuses what it cannot do right."""

from __future__ import annotations

import functools

import pytest
import torch
from helpers.support import Fixed, batch, pixels, prompt, random_llava
from torch import nn
from transformers import DynamicCache, StaticCache

import nuwa
from nuwa.engine.guards import SessionError
from nuwa.pruners import KeepAll
from nuwa.pruners.base import Pruner, VisionDecision
from nuwa.pruning.schedules import Schedule


@pytest.fixture
def model():
    return random_llava()


@pytest.fixture
def inputs():
    return batch(prompt(3, "image", 5)) | {"pixel_values": pixels(1)}


class Asks(Pruner):
    """Keeps everything, and notes questions and names."""

    name = "asks"

    def __post_init__(self):
        super().__post_init__()
        self.seen = []

    def schedule(self, n_tokens, layers):
        return Schedule(n_tokens)

    def prune_vision(self, context, keep):
        self.seen.append((context.questions, context.ids))
        return VisionDecision(torch.arange(keep)[None])


def traces(model) -> list:
    counts = [
        (name, len(m._forward_hooks), len(m._forward_pre_hooks), "get_image_features" in m.__dict__)
        for name, m in model.named_modules()
    ]
    return [*counts, sorted(model.model.__dict__)]


@torch.no_grad()
def test_a_models_own_encoder_survives(model, inputs):
    encode, calls = model.model.get_image_features, []

    @functools.wraps(encode)
    def own(*args, **kwargs):
        calls.append(kwargs)
        return encode(*args, **kwargs)

    model.model.get_image_features = own
    with nuwa.prune(model, Fixed(3)):
        model(**inputs)
    assert len(calls) == 1
    assert model.model.get_image_features is own


@torch.no_grad()
def test_nothing_is_left_behind(model, inputs):
    expected = model(**inputs).logits
    before = traces(model)
    with nuwa.prune(model, Fixed(3, (2, 4))):
        assert not torch.equal(model(**inputs).logits, expected)
    assert traces(model) == before
    assert torch.equal(model(**inputs).logits, expected)


@torch.no_grad()
def test_an_exception_leaves_the_model_clean(model, inputs):
    expected = model(**inputs).logits
    before = traces(model)

    def fail(context, keep):
        raise RuntimeError("from the method")

    pruner = Fixed(3, (2,))
    pruner.prune_llm = fail
    with pytest.raises(RuntimeError, match="from the method"), nuwa.prune(model, pruner):
        model(**inputs)
    assert traces(model) == before
    assert torch.equal(model(**inputs).logits, expected)


@torch.no_grad()
def test_a_session_can_be_entered_again(model, inputs):
    session = nuwa.prune(model, Fixed(3, (2, 4)))
    results = []
    for _ in range(2):
        with session:
            results.append(model(**inputs).logits)
    assert torch.equal(*results)
    assert session.report().images_seen == 2


def test_nested_sessions_are_refused(model):
    with nuwa.prune(model, KeepAll()):
        with pytest.raises(SessionError, match="already has a pruning session"), nuwa.prune(model, KeepAll()):
            pass
        assert "get_image_features" in model.model.__dict__


def test_static_caches_are_refused_where_layers_differ(model, inputs):
    with nuwa.prune(model, Fixed(3, (2,))), pytest.raises(SessionError, match="StaticCache cannot hold"):
        model.generate(**inputs, max_new_tokens=2, cache_implementation="static")
    cache = StaticCache(config=model.config.text_config, max_cache_len=128)
    with nuwa.prune(model, Fixed(3, (2,))), pytest.raises(SessionError, match="before the LLM only"):
        model(**inputs, past_key_values=cache)


def test_chunked_prefill_is_refused(model, inputs):
    with nuwa.prune(model, Fixed(3)), pytest.raises(SessionError):
        model.generate(**inputs, max_new_tokens=2, prefill_chunk_size=16)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 9), (2, 73), (1, 1, 73, 73), (73,)])
def test_masks_of_another_shape_are_refused(model, inputs, shape):
    inputs["attention_mask"] = torch.ones(shape, dtype=torch.long)
    with nuwa.prune(model, Fixed(3)), pytest.raises(SessionError, match=r"attention mask must be 2-D, \(1, 73\)"):
        model(**inputs)


@torch.no_grad()
def test_a_sliding_window_is_refused(model, inputs):
    model.config.text_config.sliding_window = 4
    with nuwa.prune(model, Fixed(3)), pytest.raises(SessionError, match="sliding window"):
        model(**inputs)


@torch.no_grad()
def test_a_cache_cut_into_an_image_is_refused(model, inputs):
    with nuwa.prune(model, Fixed(3)):
        cache = model(**inputs).past_key_values
        with pytest.raises(SessionError, match=r"9 tokens .* were to be cut off, but an image"):
            cache.crop(-9)


@torch.no_grad()
def test_a_cleared_cache_has_no_prompt(model, inputs):
    """Neither for a text that is read into it, nor for placeholders without images."""
    text, step = batch(prompt(9)), torch.tensor([[7]])
    cache = DynamicCache(config=model.config.text_config)
    model(**text, past_key_values=cache)
    expected = model(input_ids=step, past_key_values=cache).logits
    with nuwa.prune(model, Fixed(3, (2,))):
        cache.reset()
        model(**inputs, past_key_values=cache)
        cache.reset()
        model(**text, past_key_values=cache)
        assert torch.equal(model(input_ids=step, past_key_values=cache).logits, expected)
        cache.reset()
        model(**inputs, past_key_values=cache)
        cache.crop(-cache.get_seq_length())
        with pytest.raises(SessionError, match="placeholders without images"):
            model(input_ids=inputs["input_ids"], past_key_values=cache)


@torch.no_grad()
def test_a_call_of_the_language_model_alone_is_no_prompt_with_images(model, inputs):
    language_model = model.model.language_model
    for length in (5, inputs["input_ids"].shape[1]):
        embeddings = language_model.embed_tokens(torch.arange(length)[None] % 60)
        expected = language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        with nuwa.prune(model, Fixed(3)):
            model(**inputs)
            found = language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        assert torch.equal(found, expected)


def test_videos_are_refused(model):
    with nuwa.prune(model, KeepAll()), pytest.raises(SessionError, match="videos are not pruned in llava models"):
        model(input_ids=torch.tensor([[1, 8]]), pixel_values_videos=torch.zeros(1, 2, 3, 32, 32))


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_the_whole_conversation_behind_its_cache_is_refused_by_the_model(model, inputs, masked):
    with nuwa.prune(model, Fixed(3)):
        cache = model(**inputs).past_key_values
        longer = torch.cat([inputs["input_ids"], torch.tensor([[7, 8, 9]])], 1)
        mask = {"attention_mask": torch.ones_like(longer)} if masked else {}
        with pytest.raises(SessionError, match="behind a cached prompt the new ids only"):
            model(input_ids=longer, past_key_values=cache, **mask)


@torch.no_grad()
def test_a_continuation_with_new_ids_works(model, inputs):
    """A second turn on the pruned cache equals the same tokens in one prompt (nothing in the LLM depends on them)."""
    turn = torch.tensor([[7, 8, 9]])
    with nuwa.prune(model, Fixed(3, (2, 4))):
        cache = model(**inputs).past_key_values
        mask = torch.ones(1, inputs["input_ids"].shape[1] + 3, dtype=torch.long)
        continued = model(input_ids=turn, attention_mask=mask, past_key_values=cache).logits
        whole = model(
            input_ids=torch.cat([inputs["input_ids"], turn], 1),
            attention_mask=mask,
            pixel_values=inputs["pixel_values"],
        ).logits
    torch.testing.assert_close(continued, whole[:, -3:], atol=2e-6, rtol=0)


@torch.no_grad()
def test_a_continuation_with_a_mask_of_another_kind_is_refused(model, inputs):
    with nuwa.prune(model, Fixed(3)):
        cache = model(**inputs).past_key_values
        mask = torch.ones(1, 1, 1, inputs["input_ids"].shape[1] + 1, dtype=torch.bool)
        with pytest.raises(SessionError, match="attention mask must be 2-D"):
            model(input_ids=torch.tensor([[7]]), attention_mask=mask, past_key_values=cache)


@torch.no_grad()
def test_assisted_decoding_crops_every_layer(model, inputs):
    pruner = Fixed(3, (2, 4))
    with nuwa.prune(model, pruner):
        expected = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        got = model.generate(**inputs, max_new_tokens=12, do_sample=False, prompt_lookup_num_tokens=3)
    assert torch.equal(got, expected)


def test_images_encoded_outside_are_refused(model, inputs):
    features = model.model.get_image_features(pixel_values=inputs.pop("pixel_values"))
    with nuwa.prune(model, Fixed(3)), pytest.raises(SessionError, match="outside this session"):
        model(**inputs, mm_encoder_outputs={"image": features})


def test_placeholders_that_do_not_match_are_refused(model, inputs):
    inputs["input_ids"] = inputs["input_ids"][:, 10:]
    inputs["attention_mask"] = inputs["attention_mask"][:, 10:]
    with nuwa.prune(model, Fixed(3)), pytest.raises(ValueError, match=r"[Ii]mage"):
        model(**inputs)


def test_image_names_must_match_the_call(model, inputs):
    with (
        nuwa.prune(model, Fixed(3)) as session,
        session.about(["a", "b"]),
        pytest.raises(SessionError, match=r"ids=.* about 2 images, but this call has 1"),
    ):
        model(**inputs)


@torch.no_grad()
def test_questions_and_names_are_about_the_calls_of_a_block(model, inputs):
    with nuwa.prune(model, Asks()) as session:
        with session.about(["a"], ["what?"]):
            model(**inputs)
        assert session.pruner.seen == [(["what?"], ["a"])]
        model(**inputs)
    questions, (name,) = session.pruner.seen[1]
    assert questions is None and name != "a"


def test_unsupported_models_are_named(model):
    with pytest.raises(ValueError, match=r"not supported; supported: .*llava"):
        nuwa.prune(nn.Linear(2, 2), KeepAll())
    model.config.vision_feature_select_strategy = "full"
    with pytest.raises(ValueError, match="vision_feature_select_strategy"):
        nuwa.prune(model, KeepAll())


def test_unknown_position_is_named(model):
    with pytest.raises(ValueError, match="position='rope'"):
        nuwa.prune(model, KeepAll(), "rope")


def test_unreachable_budget_is_refused_before_the_first_call(model):
    with pytest.raises(ValueError, match=r"budget\.average=100"):
        nuwa.prune(model, nuwa.load_pruner("nuwa", budget=100))


def test_unknown_pruner_is_named():
    with pytest.raises(ValueError, match=r"pruner 'nuwaa' is unknown; choose one of .*visionzip"):
        nuwa.load_pruner("nuwaa")

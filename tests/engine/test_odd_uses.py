"""Uses that were once silently wrong: packed rows, caches whose rows change, methods that call models, and others."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from helpers.families import FAMILIES
from helpers.family import generate, run
from helpers.support import IMAGE, Fixed, batch, pixels, prompt, random_llava
from transformers import DynamicCache, StaticCache

import nuwa
from nuwa.engine.arguments import cache_of
from nuwa.engine.guards import SessionError
from nuwa.pruning.budget import Budget

ROWS = [prompt(5, "image", 3), prompt(2, "image", 7)]
TWO = {**batch(*ROWS), "pixel_values": pixels(2)}


@pytest.fixture
def model():
    return random_llava()


@torch.no_grad()
def test_packed_rows_are_refused(model):
    """Unpruned and without a cache, prompts of one row do not see each other; with one they do, pruned or not."""
    ids = torch.tensor([[place for row in ROWS for place in range(len(row))]])
    packed = {
        "input_ids": torch.tensor([[*ROWS[0], *ROWS[1]]]),
        "position_ids": ids,
        "pixel_values": TWO["pixel_values"],
    }
    alone = [
        model(input_ids=torch.tensor([row]), pixel_values=image[None]).logits
        for row, image in zip(ROWS, TWO["pixel_values"], strict=True)
    ]
    plain = model(**packed, use_cache=False).logits
    torch.testing.assert_close(plain, torch.cat(alone, 1), atol=2e-6, rtol=1e-4)
    with pytest.raises(SessionError, match="packed into a row"):
        run(model, packed, Fixed(3), use_cache=False)
    everything = nuwa.load_pruner("none")
    assert torch.equal(run(model, packed, everything), model(**packed).logits)
    one = {"input_ids": torch.tensor(ROWS[:1]), "pixel_values": TWO["pixel_values"][:1]}
    counted = one | {"position_ids": torch.arange(len(ROWS[0]))[None]}
    assert torch.equal(run(model, counted, Fixed(3), use_cache=False), run(model, one, Fixed(3), use_cache=False))


@torch.no_grad()
@pytest.mark.parametrize("strategy", ["perc", "pesp"])
@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda cache: cache.batch_select_indices(torch.tensor([1, 0])), [1, 0]),
        (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
        (lambda cache: cache.reorder_cache(torch.tensor([1, 1])), [1, 1]),
        (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1]),
    ],
    ids=["swap", "select", "reorder", "repeat"],
)
def test_rows_of_a_cache_take_what_is_known_of_them_along(model, change, rows, strategy):
    """A further question, and an image in it, of rows that have changed places."""
    turn, words = torch.tensor([prompt(2, "image", 3)[1:]] * len(rows)), torch.arange(20, 20 + len(rows))[:, None]
    turn, images = torch.cat([turn, words], 1), pixels(1, seed=9)
    with nuwa.prune(model, Fixed(3, (2, 4)), strategy):

        def go_on(cache, mask, turn):
            length, more = mask.shape[1], turn.shape[1]
            mask = torch.cat([mask, torch.ones(len(mask), 2 * more, dtype=torch.long)], 1)
            ids = mask.cumsum(1) - 1
            text = turn.where(turn != IMAGE, 9)
            shown = {"pixel_values": images.expand(len(turn), -1, -1, -1)}
            found = []
            for given, start, also in ((text, length, {}), (turn, length + more, shown)):
                end = start + more
                asked = {"attention_mask": mask[:, :end], "position_ids": ids[:, start:end], "past_key_values": cache}
                found.append(model(input_ids=given, **asked, **also).logits[:, -1])
            return torch.stack(found, 1)

        counted = {"position_ids": (TWO["attention_mask"].cumsum(1) - 1).clamp(min=0)}
        cache = cache_of(model(**TWO, **counted, use_cache=True))
        change(cache)
        ours = go_on(cache, TWO["attention_mask"][rows], turn)
        for place, row in enumerate(rows):
            one = torch.tensor([ROWS[row]])
            cache = cache_of(model(input_ids=one, pixel_values=TWO["pixel_values"][row][None], use_cache=True))
            alone = go_on(cache, torch.ones_like(one), turn[place : place + 1])
            torch.testing.assert_close(ours[place], alone[0], atol=2e-6, rtol=1e-4)


@dataclass
class Asking(Fixed):
    """Calls a model before it decides at a stage."""

    call: ClassVar[dict[str, Any]] = {}
    name: ClassVar[str] = "asking"

    def prune_vision(self, context, keep):
        self.call.get("vision", int)()
        return super().prune_vision(context, keep)

    def prune_llm(self, context, keep):
        self.call.get("llm", int)()
        return super().prune_llm(context, keep)


@torch.no_grad()
@pytest.mark.parametrize("stage", ["vision", "llm"])
def test_a_method_that_calls_its_own_model_is_refused_and_another_models_is_another_call(model, stage):
    expected, other, text = run(model, TWO, Fixed(3, (2,))), random_llava(), torch.tensor([[9, 10, 11]])
    for called in (model, model.model.language_model):
        Asking.call = {stage: lambda called=called: called(input_ids=text)}
        with pytest.raises(SessionError, match="a method called the model while it decides"):
            run(model, TWO, Asking(3, (2,)))
    within, said = run(other, TWO, Fixed(2)), []
    with nuwa.prune(other, Fixed(2), "pesp"):
        Asking.call = {stage: lambda: said.append(other(**TWO).logits)}
        assert torch.equal(run(model, TWO, Asking(3, (2,))), expected)
    assert said and all(torch.equal(logits, within) for logits in said)
    assert torch.equal(run(model, TWO, Fixed(3, (2,))), expected)


def test_features_of_another_layer_than_the_configs_are_refused(model):
    """VisionZip would merge features of the config's layer among them."""
    with pytest.raises(SessionError, match=r"asks for vision_feature_layer=-1, and the model's config says -2"):
        run(model, TWO, nuwa.load_pruner("visionzip", budget=20), vision_feature_layer=-1)
    run(model, TWO, nuwa.load_pruner("visionzip", budget=20), vision_feature_layer=-2)
    run(model, TWO, nuwa.load_pruner("fastv", budget=30), vision_feature_layer=-1)


@torch.no_grad()
@pytest.mark.parametrize("strategy", ["perc", "pesp"])
def test_rows_with_answers_of_two_lengths_chat_on_in_a_static_cache(model, strategy):
    """The padding behind the shorter answer is neither seen nor counted."""
    greedy = {"do_sample": False, "disable_compile": True, "return_dict_in_generate": True, "output_logits": True}
    said = torch.tensor([[9, 10, 11, 0, 0, 20, 21], [12, 13, 14, 15, 16, 0, 23]])
    real = torch.tensor([[1, 1, 1, 0, 0, 1, 1], [1, 1, 1, 1, 1, 0, 1]])
    whole = {
        "input_ids": torch.cat([TWO["input_ids"], said], 1),
        "attention_mask": torch.cat([TWO["attention_mask"], real], 1),
    }
    with nuwa.prune(model, Fixed(3), strategy):
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=128)
        model.generate(**TWO, past_key_values=cache, max_new_tokens=1, **greedy)
        together = model.generate(**whole, past_key_values=cache, max_new_tokens=4, **greedy)
        for row in range(2):
            cache, first = DynamicCache(), torch.tensor(ROWS[row : row + 1])
            one = {"input_ids": first, "pixel_values": TWO["pixel_values"][row : row + 1]}
            model.generate(**one, past_key_values=cache, max_new_tokens=1, **greedy)
            ids = torch.cat([first, said[row][real[row] > 0][None]], 1)
            alone = model.generate(ids, past_key_values=cache, max_new_tokens=4, **greedy)
            ours = torch.stack(together.logits)[:, row]
            torch.testing.assert_close(ours, torch.cat(alone.logits), atol=2e-6, rtol=1e-4)


def test_a_sliding_window_is_refused_with_a_static_cache_too(model):
    model.config.text_config.sliding_window = 4096
    with pytest.raises(SessionError, match="sliding window"):
        generate(model, TWO, Fixed(3), cache_implementation="static", disable_compile=True)


@pytest.mark.parametrize("name", ["fastv", "nuwa", "sparsevlm"])
def test_an_image_without_text_is_refused_where_text_is_asked(model, name):
    bare = {"input_ids": torch.full((1, 64), IMAGE), "pixel_values": pixels(1)}
    pruner = nuwa.load_pruner(name, budget=Budget(ratio=0.4))
    with pytest.raises(SessionError, match=f"pruner {name} reads the text of a prompt, and row 0 is an image"):
        run(model, bare, pruner)
    inputs = batch(bare["input_ids"][0].tolist(), ROWS[0])
    with pytest.raises(SessionError, match="row 0 is an image"):
        run(model, {**inputs, "pixel_values": pixels(2)}, pruner)
    assert run(model, bare, nuwa.load_pruner("visionzip", budget=20)).isfinite().all()


@torch.no_grad()
def test_a_session_that_was_detached_is_left_in_peace(model):
    """Its block ends as if it had not been open, whatever is open then."""
    plain = model(**TWO).logits
    with nuwa.prune(model, Fixed(3)):
        nuwa.detach(model)
        assert torch.equal(model(**TWO).logits, plain)
        other = nuwa.prune(model, Fixed(2)).__enter__()
    assert not torch.equal(model(**TWO).logits, plain)
    other.__exit__()
    assert torch.equal(model(**TWO).logits, plain)


def test_families_of_three_axes_pack_by_the_ids_of_text():
    family = FAMILIES["qwen2_5_vl"]
    inputs = family.inputs("middle")
    del inputs["attention_mask"]
    ids = torch.arange(inputs["input_ids"].shape[1])[None].clone()
    ids[:, -3:] = torch.arange(3)
    for given in (ids, ids.expand(4, 1, -1)):
        with pytest.raises(SessionError, match="packed into a row"):
            run(family.model(), inputs, Fixed(3), use_cache=False, position_ids=given)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_guidance_is_that_of_two_loops_by_hand(name):
    """The other prompt of classifier-free guidance is the last token alone, which shows no image."""
    family = FAMILIES[name]
    model, inputs, scale = family.model(), family.inputs("middle"), 1.7
    ours = generate(model, inputs, Fixed(3, (2, 4)), "perc", guidance_scale=scale)
    length, other = inputs["input_ids"].shape[1], inputs["input_ids"][:, -1:]
    with nuwa.prune(model, Fixed(3, (2, 4)), "perc"):
        out, mask = model(**inputs, use_cache=True), inputs["attention_mask"]
        for step in range(8):
            asked, unasked = (x[:, -1].log_softmax(-1) for x in (out.logits, model(input_ids=other).logits))
            word = (scale * (asked - unasked) + unasked).argmax(-1, keepdim=True)
            assert torch.equal(ours[:, length + step : length + step + 1], word)
            other, mask = torch.cat([other, word], 1), torch.cat([mask, torch.ones_like(word)], 1)
            out = model(input_ids=word, attention_mask=mask, past_key_values=cache_of(out))


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_autocast(name):
    family = FAMILIES[name]
    model, inputs = family.model(), family.inputs("middle", "two")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = run(model, inputs)
        assert torch.equal(run(model, inputs, nuwa.load_pruner("none")), plain)
        ours = generate(model, inputs, Fixed(3, (2, 4)), "perc")
        assert torch.equal(ours, generate(model, inputs, Fixed(3, (2, 4)), "perc", use_cache=False))

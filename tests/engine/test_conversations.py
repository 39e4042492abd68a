"""Chat over several turns, prefix caches and new images on a pruned cache, against the same tokens in one prompt."""

import copy

import pytest
import torch
from helpers.families import FAMILIES, PLAIN, merging_stage
from helpers.support import Fixed, Merging, batch, pixels, plain_decode, prompt, random_llava

import nuwa
from nuwa.engine.arguments import cache_of
from nuwa.pruning.budget import Budget

STRATEGIES = ["perc", "pesp", "rpme"]
TURN = torch.tensor([[9, 11, 13, 17]])
GREEDY = {"max_new_tokens": 5, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}


def longer(family, ids):
    """What a family's model wants with the ids of a conversation whose images have been read."""
    return family.finish({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def assert_same(ours, fresh, length):
    assert torch.equal(ours.sequences[:, length:], fresh.sequences[:, length:])
    torch.testing.assert_close(torch.cat(ours.logits), torch.cat(fresh.logits), atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl"])
def test_a_second_turn_through_generate(name, strategy):
    """The whole conversation as ids, the cache of the first turn: as one prompt in which the same tokens stay."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.inputs("middle")
    with nuwa.prune(model, Fixed(3, (2, 4)), strategy):
        first = model.generate(**inputs, **GREEDY)
        ids = torch.cat([first.sequences, TURN], 1)
        cache = cache_of(first)
        second = model.generate(**longer(family, ids), past_key_values=cache, **GREEDY)
        assert_same(second, model.generate(**family.finish({**inputs, **longer(family, ids)}), **GREEDY), ids.shape[1])
        ids = torch.cat([second.sequences, TURN], 1)
        third = model.generate(**longer(family, ids), past_key_values=cache_of(second), **GREEDY)
        assert_same(third, model.generate(**family.finish({**inputs, **longer(family, ids)}), **GREEDY), ids.shape[1])


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl"])
def test_a_prefix_cache_serves_many_questions(name):
    """As transformers' guide has it: one forward fills the cache, a copy of it goes with every question."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.inputs("first")
    with nuwa.prune(model, Fixed(3, (2, 4)), "perc"):
        prefix = cache_of(model(**inputs))
        for turn in (TURN, TURN + 5):
            ids = torch.cat([inputs["input_ids"], turn], 1)
            ours = model.generate(**longer(family, ids), past_key_values=copy.deepcopy(prefix), **GREEDY)
            assert_same(
                ours, model.generate(**family.finish({**inputs, **longer(family, ids)}), **GREEDY), ids.shape[1]
            )


@torch.no_grad()
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("method", ["fastv", "nuwa", "visionzip", "pyramiddrop"])
def test_tokens_kept_for_the_first_question_stay(method, strategy):
    """Turn two by hand, with the tokens that the first prompt kept and without hooks."""
    model, ids, seen = random_llava(), prompt(5, "image", 3), []
    with nuwa.prune(model, nuwa.load_pruner(method, budget=Budget(average=20)), strategy) as session:
        layer = model.model.language_model.layers[0]
        handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        first = model.generate(input_ids=torch.tensor([ids]), pixel_values=pixels(1), **GREEDY)
        handle.remove()
        (_, kept, _), *later = session.report().images[0].stages
        longer_ids = torch.cat([first.sequences, TURN], 1)
        given = longer(FAMILIES["llava"], longer_ids)
        second = model.generate(**given, past_key_values=cache_of(first), **GREEDY)
    features, start = torch.zeros(64, 48), ids.index(4)
    features[kept] = seen[0][0, start : start + len(kept)]

    def stage(staying):
        return lambda hidden, entries: [i for i, e in enumerate(entries) if e[1] < 0 or e[2] in staying]

    stages = {number: stage(staying) for number, staying, _ in later}
    expected, logits = plain_decode(model, longer_ids[0].tolist(), {}, [kept], stages, strategy, 5, [features])
    assert second.sequences[0, longer_ids.shape[1] :].tolist() == expected
    torch.testing.assert_close(torch.cat(second.logits), logits, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_merged_tokens_stay_for_a_second_turn(strategy):
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.inputs("middle")
    with nuwa.prune(model, Merging((2,)), strategy):
        first = model.generate(**inputs, **GREEDY)
        ids = torch.cat([first.sequences, TURN], 1)
        second = model.generate(**longer(family, ids), past_key_values=cache_of(first), **GREEDY)
    stages = {2: merging_stage(family, "middle")}
    expected, logits = plain_decode(model, ids[0].tolist(), family.pictures(0), [list(range(64))], stages, strategy, 5)
    assert second.sequences[0, ids.shape[1] :].tolist() == expected
    torch.testing.assert_close(torch.cat(second.logits), logits, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("layers", [(), (2, 4)], ids=str)
@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_a_new_image_in_the_second_turn(name, layers, strategy):
    family = FAMILIES[name]
    model, one, two = family.model(), family.inputs("middle"), family.inputs("last")
    with nuwa.prune(model, Fixed(3, layers), strategy) as session:
        first = model.generate(**one, **GREEDY)
        ids = torch.cat([first.sequences, two["input_ids"][:, 1:], TURN], 1)
        given = {**two, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        second = model.generate(**given, past_key_values=cache_of(first), **GREEDY)
        assert [image.row for image in session.report().images] == [0]
        both = {**family.pictures(0, 3), "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        assert_same(second, model.generate(**both, **GREEDY), ids.shape[1])
        ids = torch.cat([second.sequences, TURN], 1)
        third = model.generate(**longer(family, ids), past_key_values=cache_of(second), **GREEDY)
        fresh = model.generate(**both | longer(family, ids), **GREEDY)
        assert_same(third, fresh, ids.shape[1])


@torch.no_grad()
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_of_a_padded_batch_chat_on(strategy):
    """Turn by turn through the model itself, with an image of one size in both rows of the second turn."""
    family = FAMILIES["llava"]
    model, pruner = family.model(), Fixed(3, (2, 4))
    rows = [prompt(5, "image", 3), prompt(2, "image", 7)]
    turn = [prompt("image", 4)[1:], prompt(3, "image", 5)[1:]]
    with nuwa.prune(model, pruner, strategy):
        one, two = batch(*rows), batch(*turn, side="right")
        mask, length = torch.cat([one["attention_mask"], two["attention_mask"]], 1), one["input_ids"].shape[1]
        counted = (mask.cumsum(1) - 1).clamp(min=0)
        cache = cache_of(model(**one, position_ids=counted[:, :length], pixel_values=pixels(4)[:2]))
        together = model(
            input_ids=two["input_ids"],
            attention_mask=mask,
            position_ids=counted[:, length:],
            pixel_values=pixels(4)[2:],
            past_key_values=cache,
        ).logits
        for row in range(2):
            alone = model(
                input_ids=torch.tensor([rows[row] + turn[row]]), pixel_values=pixels(4)[[row, 2 + row]]
            ).logits
            ours, theirs = together[row, : len(turn[row])], alone[0, -len(turn[row]) :]
            kept = theirs.abs().sum(-1) > 0
            torch.testing.assert_close(ours[kept], theirs[kept], atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_an_image_on_a_cached_system_prompt(name, strategy):
    family = FAMILIES[name]
    model, inputs = family.model(), family.inputs("middle")
    start = inputs["input_ids"][0].tolist().index(4)
    with nuwa.prune(model, Fixed(3, (2, 4)), strategy):
        cache = cache_of(model(input_ids=inputs["input_ids"][:, :start], use_cache=True))
        ours = model.generate(**inputs, past_key_values=cache, **GREEDY)
        assert_same(ours, model.generate(**inputs, **GREEDY), inputs["input_ids"].shape[1])


@torch.no_grad()
def test_an_image_of_three_axes_behind_a_cache_with_its_position_ids():
    """M-RoPE: the model counts an image behind a cache as text, unless it is given the ids; with them it is exact."""
    family = FAMILIES["qwen2_5_vl"]
    model, whole = family.model(), family.inputs("two")
    ids = whole["input_ids"][0].tolist()
    cut = ids.index(4) + len(family.cells(1)) + 3
    positions = model.model.get_rope_index(
        whole["input_ids"], whole["mm_token_type_ids"], whole["image_grid_thw"], attention_mask=whole["attention_mask"]
    )[0]
    with nuwa.prune(model, Fixed(3, (2, 4)), "pesp"):
        fresh = model(**whole).logits[:, -1]
        patches = int(whole["image_grid_thw"][0].prod())
        grids, values = whole["image_grid_thw"], whole["pixel_values"]
        first = {"pixel_values": values[:patches], "image_grid_thw": grids[:1]}
        second = {"pixel_values": values[patches:], "image_grid_thw": grids[1:]}
        cache = cache_of(model(input_ids=whole["input_ids"][:, :cut], position_ids=positions[..., :cut], **first))
        rest = {"input_ids": whole["input_ids"][:, cut:], "position_ids": positions[..., cut:]}
        ours = model(**rest, **second, past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(ours, fresh, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_question_is_cut_off_and_another_asked():
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.inputs("middle")
    with nuwa.prune(model, Fixed(3, (2, 4)), "perc"):
        first = model.generate(**inputs, **GREEDY)
        cache, length = cache_of(first), inputs["input_ids"].shape[1]
        cache.crop(length - 3 - cache.get_seq_length())
        assert cache.get_seq_length() == length - 3
        ids = torch.cat([inputs["input_ids"][:, :-3], TURN], 1)
        ours = model.generate(**longer(family, ids), past_key_values=cache, **GREEDY)
        fresh = model.generate(**inputs | longer(family, ids), **GREEDY)
        assert_same(ours, fresh, ids.shape[1])


@torch.no_grad()
@pytest.mark.parametrize("name", PLAIN)
def test_the_two_lengths_of_a_cache(name):
    """Outside the model the length without pruning; every layer holds what is left."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.inputs("middle")
    with nuwa.prune(model, Fixed(3, (2, 4))) as session:
        cache = cache_of(model(**inputs))
        length = inputs["input_ids"].shape[1]
        assert [cache.get_seq_length(layer) for layer in range(6)] == [length] * 6
        gone = [len(family.cells(0)) - count for count in session.report().images[0].per_layer]
        assert [layer.keys.shape[2] + less for layer, less in zip(cache.layers, gone, strict=True)] == [length] * 6
        assert gone[0] < gone[2] < gone[4]
        cache.reset()
        assert cache.get_seq_length() == 0

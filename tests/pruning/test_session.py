"""The engine against the unpruned model, against rows alone, and against a decoder loop without hooks or cache."""

from __future__ import annotations

import copy

import pytest
import torch
from support import Fixed, Merging, batch, kept_tokens, merging_stage, pixels, plain_decode, prompt, random_llava

import nuwa
from nuwa.pruners import KeepAll

ROWS = {
    "first": prompt("image", 7),
    "middle": prompt(5, "image", 3),
    "two": prompt(3, "image", 4, "image", 6),
    "last": prompt(6, "image"),
}


@pytest.fixture(scope="module")
def model():
    return random_llava()


def padded_batch():
    """Three prompts of different lengths with 1, 2 and 1 images."""
    return batch(ROWS["middle"], ROWS["two"], ROWS["last"]) | {"pixel_values": pixels(4)}


def images_of(row: int):
    return {0: pixels(4)[:1], 1: pixels(4)[1:3], 2: pixels(4)[3:]}[row]


@torch.no_grad()
def run(model, inputs, pruner=None, position="pesp", **options):
    """Logits of a forward, pruned or not."""
    if pruner is None:
        return model(**inputs, **options).logits
    with nuwa.prune(model, pruner, position):
        return model(**inputs, **options).logits


@torch.no_grad()
def generate(model, inputs, pruner=None, position="pesp", **options):
    arguments = {"max_new_tokens": 8, "do_sample": False, **inputs, **options}
    if pruner is None:
        return model.generate(**arguments)
    with nuwa.prune(model, pruner, position):
        return model.generate(**arguments)


class TestKeepAll:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("pruner", [KeepAll(), Fixed(1, (0, 2, 4))], ids=["idle", "gathers"])
    def test_forward_is_bit_equal(self, attention, dtype, pruner):
        model = random_llava(attention, dtype)
        if isinstance(pruner, Fixed):
            pruner.prune_llm = lambda context, keep: context.valid  # gathers everything at every stage
        inputs = padded_batch()
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        assert torch.equal(run(model, inputs), run(model, inputs, pruner))

    @pytest.mark.parametrize(
        "options",
        [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}, {"use_cache": False}],
        ids=["greedy", "beam", "sampling", "no cache"],
    )
    def test_generate_is_equal(self, model, options):
        inputs = padded_batch()
        torch.manual_seed(3)
        expected = generate(model, inputs, **options)
        torch.manual_seed(3)
        assert torch.equal(expected, generate(model, inputs, KeepAll(), **options))

    def test_loss_is_equal(self, model):
        inputs = padded_batch()
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        with torch.no_grad():
            expected = model(**inputs, labels=labels).loss
            with nuwa.prune(model, KeepAll()):
                assert torch.equal(model(**inputs, labels=labels).loss, expected)


class TestBatches:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("position", ["perc", "pesp", "rpme"])
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_rows_equal_rows_alone(self, attention, position, side):
        model = random_llava(attention)
        inputs = batch(*list(ROWS.values())[1:], side=side) | {"pixel_values": pixels(4)}
        pruner = Fixed(3, (2, 4))
        together = run(model, inputs, pruner, position)
        for row, ids in enumerate(list(ROWS.values())[1:]):
            alone = run(model, batch(ids) | {"pixel_values": images_of(row)}, pruner, position)
            cut = together[row, -len(ids) :] if side == "left" else together[row, : len(ids)]
            torch.testing.assert_close(cut, alone[0], atol=2e-6, rtol=0)

    @pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beam"])
    @pytest.mark.parametrize("position", ["perc", "pesp", "rpme"])
    def test_generated_rows_equal_rows_alone(self, model, options, position):
        pruner = Fixed(2, (1, 3))
        together = generate(model, padded_batch(), pruner, position, **options)
        for row, ids in enumerate(list(ROWS.values())[1:]):
            alone = generate(model, batch(ids) | {"pixel_values": images_of(row)}, pruner, position, **options)
            assert torch.equal(together[row, -8:], alone[0, -8:])

    def test_a_text_only_row_is_untouched(self, model):
        inputs = batch(prompt(9), ROWS["first"]) | {"pixel_values": pixels(1)}
        pruned = run(model, inputs, Fixed(3, (2,)))
        alone = run(model, batch(prompt(9)))
        torch.testing.assert_close(pruned[0, -10:], alone[0], atol=2e-6, rtol=0)

    def test_a_text_only_call_inside_a_session(self, model):
        inputs = batch(prompt(9))
        assert torch.equal(generate(model, inputs), generate(model, inputs, Fixed(3, (2,))))


class TestMerging:
    """States made inside the LLM, in an order of their own; and a stage before the first layer."""

    @pytest.mark.parametrize("position", ["perc", "pesp", "rpme"])
    @pytest.mark.parametrize(("row", "layers"), [("middle", (2, 4)), ("two", (0, 3))])
    def test_against_plain_decoding(self, model, position, row, layers):
        ids, pruner = ROWS[row], Merging(layers)
        images = pixels(ids.count(4) // 64)
        stages = dict.fromkeys(layers, merging_stage)
        tokens, logits = plain_decode(model, ids, images, [list(range(64))] * len(images), stages, position, 8)
        inputs = batch(ids) | {"pixel_values": images}
        out = generate(model, inputs, pruner, position, output_logits=True, return_dict_in_generate=True)
        torch.testing.assert_close(torch.cat(out.logits), logits, atol=2e-6, rtol=0)
        assert out.sequences[0, len(ids) :].tolist() == tokens

    @pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beam"])
    def test_rows_alone_and_without_cache(self, model, options):
        pruner = Merging((0, 3))
        together = generate(model, padded_batch(), pruner, **options)
        assert torch.equal(together, generate(model, padded_batch(), pruner, use_cache=False, **options))
        for row, ids in enumerate(list(ROWS.values())[1:]):
            alone = generate(model, batch(ids) | {"pixel_values": images_of(row)}, pruner, **options)
            assert torch.equal(together[row, -8:], alone[0, -8:])

    def test_counts(self, model):
        with torch.no_grad(), nuwa.prune(model, Merging((0, 3))) as session:
            model(**padded_batch())
        assert session.report().tokens_per_layer == [33, 33, 33, 18, 18, 18]
        assert [(layer, len(kept)) for layer, kept, _ in session.report().images[0].stages] == [(0, 33), (3, 18)]


class TestAgainstPlainDecoding:
    @pytest.mark.parametrize("position", ["perc", "pesp", "rpme"])
    @pytest.mark.parametrize("row", ["first", "middle", "two", "last"])
    def test_cached_generation(self, model, position, row):
        ids, pruner = ROWS[row], Fixed(3, (2, 4))
        images = pixels(ids.count(4) // 64)
        stages = {layer: _fixed_stage(3, stage) for layer, stage in ((2, 2), (4, 3))}
        keep = [kept_tokens(64, 3, 1)] * len(images)
        tokens, logits = plain_decode(model, ids, images, keep, stages, position, 8)
        inputs = batch(ids) | {"pixel_values": images}
        out = generate(model, inputs, pruner, position, output_logits=True, return_dict_in_generate=True)
        torch.testing.assert_close(torch.cat(out.logits), logits, atol=2e-6, rtol=0)
        assert out.sequences[0, len(ids) :].tolist() == tokens

    def test_strategies_differ(self, model):
        """The comparison above can fail: another strategy gives logits far outside its tolerance."""
        inputs = batch(ROWS["middle"]) | {"pixel_values": pixels(1)}
        results = [run(model, inputs, Fixed(3, (2, 4)), p)[0, -1] for p in ("perc", "pesp", "rpme")]
        for i in range(3):
            assert (results[i] - results[i - 1]).abs().max() > 1e-3

    @pytest.mark.parametrize("position", ["perc", "pesp", "rpme"])
    def test_without_cache(self, model, position):
        inputs = padded_batch()
        cached = generate(model, inputs, Fixed(3, (2, 4)), position)
        assert torch.equal(cached, generate(model, inputs, Fixed(3, (2, 4)), position, use_cache=False))

    def test_interleaved_manual_loops(self, model):
        """Two prompts decoded in turn with one session: what was kept travels with the cache."""
        prompts = [
            batch(ROWS["first"]) | {"pixel_values": pixels(1)},
            batch(ROWS["two"]) | {"pixel_values": pixels(2, 1)},
        ]
        pruner = Fixed(3, (2, 4))
        expected = [generate(model, p, pruner)[0, -6:].tolist() for p in prompts]
        with torch.no_grad(), nuwa.prune(model, pruner, "pesp"):
            outs = [model(**p) for p in prompts]
            got = [[int(o.logits[0, -1].argmax())] for o in outs]
            caches = [copy.deepcopy(o.past_key_values) for o in outs]
            for _ in range(7):
                for i, cache in enumerate(caches):
                    logits = model(input_ids=torch.tensor([[got[i][-1]]]), past_key_values=cache).logits
                    got[i].append(int(logits[0, -1].argmax()))
        assert [g[2:] for g in got] == expected

    def test_layers_cache_what_they_saw(self, model):
        with torch.no_grad(), nuwa.prune(model, Fixed(3, (2, 4)), "pesp") as session:
            out = model(**(batch(ROWS["first"]) | {"pixel_values": pixels(1)}))
        text = len(ROWS["first"]) - 64
        counts = [len(kept_tokens(64, 3, s)) for s in (1, 1, 2, 2, 3, 3)]
        assert [layer.keys.shape[2] - text for layer in out.past_key_values.layers] == counts
        assert session.report().tokens_per_layer == counts
        assert session.report().images[0].stages[1][1] == kept_tokens(64, 3, 2)


def _fixed_stage(stride: int, stage: int):
    def choose(hidden, entries):
        allowed = kept_tokens(64, stride, stage)
        return [i for i, (_, image, token) in enumerate(entries) if image < 0 or token in allowed]

    return choose

"""A block zeroes exactly the intended attention, in prompts and in decoding, and leaves everything else alone."""

import pytest
import torch
from helpers.analysis_cases import PAIR, eager_attention, session_of, written_groups
from helpers.families import FAMILIES

from nuwa import load_pruner, prune
from nuwa.engine.blocking import block, blocked_pairs, layer_range
from nuwa.engine.guards import SessionError
from nuwa.models import adapter_for

NUMBER = {"vision": 1, "text": 2, "last": 3}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def attending(family, layers=range(1, 4)):
    """Those of some layers that have attention."""
    return [layer for layer in layers if layer in adapter_for(family.model()).shape.attention_layers]


def lost(groups, source):
    """(L, L): query of the source, key of the image, not itself."""
    pairs = [[q == NUMBER[source] and k == 1 and i != j for j, k in enumerate(groups)] for i, q in enumerate(groups)]
    return torch.tensor(pairs)


@torch.no_grad()
def run(model, inputs, **options):
    return model(**inputs, **options)


@pytest.mark.parametrize("source", NUMBER)
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "qwen3_5"], indirect=True)
def test_exactly_the_intended_attention_is_gone(family, source):
    inputs, first = family.inputs(*PAIR), 2
    plain = eager_attention(family, inputs)
    with session_of(family, "eager") as session, block(session, source, [first, first + 1]):
        blocked = run(family.model("eager"), inputs, output_attentions=True).attentions
    for index in range(first):
        assert torch.equal(blocked[index], plain[index])
    for row, prompt in enumerate(PAIR):
        groups = written_groups(family, prompt)
        gone = lost(groups, source)
        assert gone.any()
        n = len(groups)
        before, after = (maps[first][row, :, -n:, -n:] for maps in (plain, blocked))
        wanted = before.masked_fill(gone, 0)
        assert torch.allclose(after, wanted / wanted.sum(-1, keepdim=True), atol=1e-6)
        assert not after[:, gone].any()
        assert not blocked[first + 1][row, :, -n:, -n:][:, gone].any()
        assert blocked[first + 2][row, :, -n:, -n:][:, gone & torch.ones(n, n).tril().bool()].all()


@pytest.mark.parametrize("source", NUMBER)
def test_sdpa_blocks_what_eager_blocks(family, source):
    inputs = family.inputs(*PAIR)
    logits = []
    for attention in (["eager"], []):
        with session_of(family, *attention) as session, block(session, source, attending(family)):
            logits.append(run(family.model(*attention), inputs).logits[:, -1])
    assert torch.allclose(*logits, atol=1e-4)
    assert not torch.allclose(run(family.model(), inputs).logits[:, -1], logits[1], atol=1e-2)


def test_blocking_no_layer_or_nobody_changes_nothing(family):
    inputs = family.inputs(*PAIR)
    plain = run(family.model(), inputs).logits
    with session_of(family) as session:
        with block(session, "vision", []):
            assert torch.equal(run(family.model(), inputs).logits, plain)
        with block(session, "vision"):
            assert not torch.equal(run(family.model(), inputs).logits, plain)
        assert torch.equal(run(family.model(), inputs).logits, plain)  # nothing is left behind
        text = {"input_ids": torch.tensor([[1, 9, 12]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
        with block(session, "text"):
            blocked = run(family.model(), text).logits
    assert torch.equal(blocked, run(family.model(), text).logits)


@pytest.mark.parametrize("source", NUMBER)
def test_decoding_with_a_cache_equals_reading_the_answer_at_once(family, source):
    """Every generated token is `last`: teacher forcing with the groups of the whole answer says the same."""
    inputs, model, steps = family.inputs("middle", "first"), family.model(), 4
    with session_of(family) as session, block(session, source, attending(family)):
        output = model.generate(
            **inputs, max_new_tokens=steps, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        alone = [
            model.generate(**family.inputs(prompt), max_new_tokens=steps, do_sample=False, output_logits=True,
                           return_dict_in_generate=True)
            for prompt in ("middle", "first")
        ]  # fmt: skip
    for row, single in enumerate(alone):
        for step in range(steps):
            assert torch.allclose(output.logits[step][row], single.logits[step][0], atol=1e-4)
    expected = forced(family, "middle", alone[0].sequences[0, -steps:].tolist(), source, attending(family))
    assert torch.allclose(torch.cat(alone[0].logits), expected, atol=1e-4)


@torch.no_grad()
def forced(family, prompt, answer, source, layers):
    """Logits of each answer token: the plain eager model reads prompt and answer at once, its masks cut by hand."""
    model = family.model("eager")
    ids = family.ids(prompt) + answer[:-1]
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    inputs = family.finish(inputs | family.pictures(0))
    gone = lost(written_groups(family, prompt, len(answer)), source)

    def hook(module, args, kwargs):
        return args, kwargs | {"attention_mask": kwargs["attention_mask"].masked_fill(gone, float("-inf"))}

    handles = [adapter_for(model).layers[i].register_forward_pre_hook(hook, with_kwargs=True) for i in layers]
    try:
        return model(**inputs).logits[0, -len(answer) :]
    finally:
        for handle in handles:
            handle.remove()


def test_blocks_what_a_pruner_left():
    family = FAMILIES["llava"]
    model, inputs, seen = family.model("eager"), family.inputs(*PAIR), []
    handles = [
        layer.self_attn.register_forward_hook(lambda module, args, output: seen.append(output[1]))
        for layer in adapter_for(model).layers
    ]
    with prune(model, load_pruner("nuwa", budget=16)) as session, block(session, "last"):
        run(model, inputs)
    for handle in handles:
        handle.remove()
    kept = next(image.per_layer for image in session.report().images if image.row == 0)
    assert kept[0] > kept[-1]
    for weights, count in zip(seen, kept, strict=True):
        zeros = (weights[0, 0, -2:] == 0).sum(-1)  # the token before the last does not see the last
        assert int(zeros[1] - zeros[0]) == count - 1


def test_a_token_sees_itself():
    keys = torch.tensor([[0, 1, 1, 3]])
    assert blocked_pairs(keys, keys, "vision")[0, 1].tolist() == [False, False, True, False]
    assert blocked_pairs(keys[:, -1:], keys, "last").tolist() == [[[False, True, True, False]]]


@pytest.mark.parametrize(
    ("text", "layers"), [("8-15", range(8, 16)), ("3-3", range(3, 4)), ("1/4", range(8)), ("4/4", range(24, 32))]
)
def test_layer_ranges(text, layers):
    assert layer_range(text, 32) == layers


def test_parts_cover_a_depth_that_does_not_divide():
    assert [i for k in range(1, 5) for i in layer_range(f"{k}/4", 6)] == list(range(6))


@pytest.mark.parametrize("text", ["15-8", "8-32", "0/4", "5/4", "1/33", "middle", "8", "-1-3", "1.5-2"])
def test_bad_layer_ranges(text):
    with pytest.raises(ValueError, match="layers"):
        layer_range(text, 32)


def test_refusals():
    family = FAMILIES["llava"]
    session = session_of(family)
    with pytest.raises(SessionError, match="open the session"), block(session, "vision"):
        pass
    with session:
        with pytest.raises(ValueError, match="choose one of vision, text, last"), block(session, "system"):
            pass
        with pytest.raises(ValueError, match="layer 6"), block(session, "text", [6]):
            pass
    with session_of(FAMILIES["qwen3_5"]) as linear:
        message = "layer 2: this model has linear attention there; full attention at 1, 3, 5"
        with pytest.raises(ValueError, match=message), block(linear, "text", [1, 2]):
            pass
    with session, block(session, "text"), pytest.raises(SessionError, match="use_cache"):
        run(family.model(), family.inputs("middle"), use_cache=False)

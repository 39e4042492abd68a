"""TransPrune: golden data of its authors' code, and what is added up in the engine."""

import functools

import pytest
import torch
from helpers.families import FAMILIES
from helpers.golden_cases import Golden, golden_runs, prompt
from torch.nn import functional

import nuwa
from nuwa.pruners.transprune import shares
from nuwa.pruning.budget import BudgetError
from nuwa.pruning.scores import rotate, softmax_rows, split_heads, transition_weights

LLAVA = FAMILIES["llava"]


def attention_rows(hidden, wq, wk, heads, base, query):
    """Causal rows of queries (Q,) at the ids 0, 1, ...: (1, H, Q, L)."""
    width = wq.shape[0] // heads
    angle = torch.arange(hidden.shape[1])[:, None] * base ** (-torch.arange(0, width, 2) / width)
    cos, sin = (torch.cat([turn(angle)] * 2, -1)[None] for turn in (torch.cos, torch.sin))
    queries, keys = (rotate(split_heads(hidden @ w.T, width), cos, sin) for w in (wq, wk))
    causal = torch.arange(hidden.shape[1]) <= query[:, None]
    return softmax_rows(queries[:, :, query], keys, width**-0.5, causal)


@pytest.mark.parametrize(("name", "run"), golden_runs("transprune_n144"))
def test_golden(name, run):
    """Each stage with what the authors' stage before it has left."""
    case = Golden(name)
    params, given = case.params(run), case.inputs
    start, image, stage = params["visual_start"], params["image_len"], params["stage"]
    rows = {0: torch.arange(given["attn_in"].shape[1])}
    rows |= {s + 1: case.tensors[f"out.stage{s}.rows"] for s in range(2)}
    after = [case.params(f"stage{s}")["after_layer"] for s in range(3)]
    here, transitions = rows[stage], {}
    for number, layer in enumerate(range(7, 7 + len(params["accumulate_layers"]))):
        then = rows[sum(layer > done for done in after[:stage])]
        valid = torch.ones(1, len(then), dtype=torch.bool)
        both = sum(
            transition_weights(
                given[f"{block}_in"][number][None, then], given[f"{block}_out"][number][None, then], valid
            )
            for block in ("attn", "mlp")
        )
        transitions[layer - 1] = both[:, torch.isin(then, here)]
    hidden = given[f"hidden_{stage}"][:, here]
    left = int(((here >= start) & (here < start + image)).sum())
    context = prompt(
        start,
        left,
        params["text_after"],
        hidden=hidden,
        layer=params["after_layer"],
        layers=32,
        transitions=transitions,
    )
    heads = given[f"wq_{stage}"], given[f"wk_{stage}"], params["heads"], params["rope_base"]
    context.attention = functools.partial(attention_rows, hidden, *heads)
    kept = nuwa.load_pruner("transprune").prune_llm(context, torch.tensor([[params["keep"]]]))[0]
    case.check(run, kept_local=kept[start : start + left].nonzero()[:, 0])
    visual = slice(start, start + left)
    changed = shares(sum(transitions.values()), context.image, 1)[0, visual]
    question = torch.arange(start + left, hidden.shape[1])
    heard = shares(context.attention(question).mean((1, 2)), context.image, 1)[0, visual]
    case.check(run, transition=changed, text_attention=heard, score=changed + heard)


@torch.no_grad()
def test_transitions_are_those_of_the_layers(monkeypatch):
    """By hand, from what the unpruned model's blocks take and give before the first stage."""
    model, seen, found = LLAVA.model(), {}, {}
    pruner = nuwa.load_pruner("transprune", budget=40, ladder="late")
    first = pruner.schedule(64, 6).llm[0][0]

    def watch(block, module, args, kwargs, output):
        entered = args[0] if args else kwargs["hidden_states"]
        seen[block] = entered, output if torch.is_tensor(output) else output[0]

    layer = model.model.language_model.layers[first - 1]
    handles = [
        getattr(layer, block).register_forward_hook(functools.partial(watch, block), with_kwargs=True)
        for block in ("self_attn", "mlp")
    ]
    model(**LLAVA.inputs("two"))
    for handle in handles:
        handle.remove()
    choose = type(pruner).prune_llm
    monkeypatch.setattr(
        type(pruner),
        "prune_llm",
        lambda self, context, keep: found.setdefault(context.layer, context) and choose(self, context, keep),
    )
    with nuwa.prune(model, pruner, "pesp"):
        model(**LLAVA.inputs("two"))
    expected = torch.zeros(found[first].valid.shape[1])
    for entered, left in seen.values():
        turn = torch.stack(
            [1 - functional.cosine_similarity(a, b, dim=0) for a, b in zip(entered[0], left[0], strict=True)]
        )
        expected += left[0].norm(dim=-1) / entered[0].norm(dim=-1) * turn.exp() / turn.exp().sum()
    torch.testing.assert_close(found[first].transitions[first - 1][0], expected)
    assert set(found[first].transitions) == {first - 1}


def test_the_authors_ratios_and_other_budgets():
    schedule = nuwa.load_pruner("transprune", budget=236).schedule(576, 32)
    assert schedule.llm == ((7, 504), (9, 360), (12, 72))
    assert [layer for layer, _ in nuwa.load_pruner("transprune", budget=64).schedule(576, 32).llm] == [2, 4, 6]
    with pytest.raises(BudgetError, match=r"ladder=late needs 126\.8 or more, ladder=early needs 36\.9 or more"):
        nuwa.load_pruner("transprune", budget=64, ladder="late").schedule(576, 32)

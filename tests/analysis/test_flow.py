"""Attention flow and gradient-weighted flow of an sdpa model equal direct sums over eager maps and autograd."""

import pytest
import torch
from helpers.analysis_cases import ANSWERS, PAIR, answered, eager_attention, session_of, written_groups
from helpers.families import FAMILIES
from torch.utils._python_dispatch import TorchDispatchMode

from nuwa.analysis.gradients import watch_gradients
from nuwa.analysis.measures import group_flow
from nuwa.engine.calls import choose_layers, read_prompt_once, watch_layers
from nuwa.engine.guards import SessionError


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def direct_flow(weights, groups):
    """(G, G) sums of one row's weights (L, L), entry by entry of the groups."""
    sums = torch.zeros(4, 4)
    for one in range(4):
        for other in range(4):
            sums[one, other] = weights[[g == one for g in groups]][:, [g == other for g in groups]].sum()
    return sums


def flow_of(call, portions, answers=None):
    groups = call.groups(answers)
    parts = [group_flow(rows, groups[:, query], groups) for query, rows in portions]
    return sum(part[0] for part in parts), sum(part[1] for part in parts)


def test_attention_flow(family):
    inputs, flows = family.inputs(*PAIR), {}

    def watch(call):
        flows[call.index] = flow_of(call, call.attention_chunks(chunk=17))

    with session_of(family) as session, watch_layers(session, watch):
        read_prompt_once(session, inputs)
    reference = eager_attention(family, inputs)
    assert sorted(flows) == list(session.adapter.shape.attention_layers) and len(flows) == len(reference)
    for index, weights in zip(flows, reference, strict=True):
        sums, counts = flows[index]
        for row, prompt in enumerate(PAIR):
            groups = written_groups(family, prompt)
            direct = direct_flow(weights[row, :, -len(groups) :, -len(groups) :].mean(0), groups)
            assert torch.allclose(sums[row], direct, atol=1e-5, rtol=1e-5)
            assert counts[row].tolist() == [groups.count(g) for g in range(4)]
            assert torch.allclose(sums[row].sum(-1), counts[row], atol=1e-4)


def test_gradient_weighted_flow(family):
    inputs, ids, lengths = answered(family)
    flows, groups = {}, [written_groups(family, p, len(a)) for p, a in zip(PAIR, ANSWERS, strict=True)]

    def watch(seen):
        assert seen.call.index not in flows
        flows[seen.call.index] = flow_of(seen.call, seen.attention_chunks(chunk=17), lengths - 1)[0]

    with session_of(family) as session:
        if session.adapter.shape.attention is not None:
            with pytest.raises(ValueError, match="gradients are not followed through linear attention"):
                watch_gradients(session, inputs, ids, lengths, watch)
            return
        likelihood = watch_gradients(session, inputs, ids, lengths, watch)
    output = family.model("eager")(**inputs, output_attentions=True, use_cache=False)
    scores = output.logits.log_softmax(-1)
    total = sum(
        scores[row, place - len(answer) + k, token]
        for row, answer in enumerate(ANSWERS)
        for place in [inputs["input_ids"].shape[1]]
        for k, token in enumerate(answer)
    )
    assert likelihood == pytest.approx(total.item(), abs=1e-5)
    slopes = torch.autograd.grad(total, output.attentions)
    largest = 0
    for index, weights, slope in zip(sorted(flows), output.attentions, slopes, strict=True):
        whole = (weights * slope).relu().mean(1).detach()
        for row in range(2):
            length = len(groups[row])
            direct = direct_flow(whole[row, -length:, -length:], groups[row])
            assert torch.allclose(flows[index][row], direct, atol=1e-5, rtol=1e-4)
            largest = max(largest, float(direct.max()))
    assert largest > 1e-3, "nothing to see"


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation put out."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for value in output if isinstance(output, tuple | list) else [output]:
            if torch.is_tensor(value):
                self.most = max(self.most, value.numel())
        return output


def test_no_map_of_all_heads_is_ever_made():
    family = FAMILIES["llava"]
    inputs = family.inputs("middle")
    ids, answers = torch.cat([inputs["input_ids"], torch.tensor([[9]])], 1), torch.tensor([1])
    heads, length = 4, inputs["input_ids"].shape[1]

    def attention():
        with watch_layers(session, lambda call: list(call.attention_chunks(8))):
            read_prompt_once(session, inputs)

    def gradients():
        watch_gradients(session, inputs, ids, answers, lambda seen: list(seen.attention_chunks(8)))

    with session_of(family) as session:
        for work in (attention, gradients):
            work()  # what transformers makes once is out of the way
            with LargestTensor() as seen:
                work()
            assert heads * 8 * length <= seen.most < heads * length**2 / 2


def test_refusals():
    family = FAMILIES["llava"]
    session = session_of(family)
    with pytest.raises(SessionError, match="open the session"), watch_layers(session, print):
        pass
    with pytest.raises(ValueError, match="layer 6: this model has layers 0 to 5"):
        choose_layers(session.adapter, [2, 6])
    before = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in family.model().modules())
    with session, watch_layers(session, print):
        pass
    assert before == sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in family.model().modules())

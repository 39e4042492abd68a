"""Stage 2 of Nüwa: by text, by attention, at random; batches and several images."""

import pytest
import torch
from helpers.golden_cases import after, noise, prompt, stack

from nuwa.pruners.nuwa import Nuwa
from nuwa.pruners.nuwa_release import NuwaRelease


def slow_stage2(hidden, image, question, keep):
    """Indices of the tokens of one image that are closest to the mean of the question."""
    query = hidden[question].double().mean(0)
    visual = (image == 0).nonzero()[:, 0].tolist()
    cosine = {i: float(hidden[i].double() @ query / hidden[i].double().norm() / query.norm()) for i in visual}
    return sorted(sorted(visual, key=lambda i: -cosine[i])[:keep])


def test_stage2_looks_at_the_text_after_the_image():
    hidden = noise(1, 30, 8)
    hidden[0, 0] *= 1000  # an attention sink
    context = prompt(4, 20, 6, hidden=hidden)
    kept = Nuwa().prune_llm(context, torch.tensor([[5]]))
    assert kept[0].nonzero()[:, 0].tolist() == slow_stage2(hidden[0], context.image[0], slice(24, 30), 5)


def batch_of_three():
    rows = [(4, 20, 6), (2, 8, 3, 12, 9), (7,)]
    ids = ([["a"]], [["b", "c"]], [[]])
    return [
        prompt(*lengths, ids=names, hidden=noise(1, sum(lengths), 8, seed=seed))
        for seed, (lengths, names) in enumerate(zip(rows, ids, strict=True))
    ]


@pytest.mark.parametrize("options", [{}, {"random": True}])
def test_stage2_batch_equals_rows(options):
    alone = batch_of_three()
    together = stack(alone)
    keep = torch.tensor([[5, 0], [3, 4], [0, 0]])
    pruner = Nuwa(**options)
    found = pruner.prune_llm(together, keep)
    assert not (found & ~together.valid).any()
    for i, context in enumerate(alone):
        expected = pruner.prune_llm(context, keep[i : i + 1])[0]
        assert torch.equal(found[i, -len(expected) :], expected)
        assert not expected[context.text[0]].any()
        for ordinal in range(2):
            assert (expected & (context.image[0] == ordinal)).sum() == keep[i, ordinal]


@pytest.mark.parametrize("make", [Nuwa, NuwaRelease])
def test_random_stage2_depends_on_seed_and_image_only(make):
    def draw(seed, name, layer=8):
        context = prompt(4, 50, 6, ids=[[name]], layer=layer)
        return make(random=True, seed=seed).prune_llm(after(context), torch.tensor([[10]])).tolist()

    torch.manual_seed(1)
    first = draw(0, "a")
    torch.manual_seed(2)
    assert draw(0, "a") == first
    assert draw(1, "a") != first
    assert draw(0, "b") != first

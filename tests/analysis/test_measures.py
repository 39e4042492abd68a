"""Entropy, cohesion, alignment and overlaps against loops that follow the definitions."""

import math

import pytest
import torch

from nuwa.analysis.measures import (
    group_flow,
    mean_and_error,
    mean_entropy,
    object_cohesion,
    row_entropy,
    text_alignment,
    top_overlap,
    visual_attention_entropy,
)


def test_entropy_by_definition():
    attention = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))
    wanted = []
    for i in range(7):
        weights = [float(attention[i, j]) for j in range(i)]
        shares = [w / sum(weights) for w in weights]
        wanted.append(-sum(p * math.log2(p) for p in shares))
    whole = visual_attention_entropy(attention)
    assert whole.tolist() == pytest.approx(wanted, abs=1e-5)
    assert float(mean_entropy(whole)) == pytest.approx(sum(wanted[1:]) / 6, abs=1e-5)
    portions = [visual_attention_entropy(part, first) for part, first in ((attention[:3], 0), (attention[3:], 3))]
    assert torch.equal(torch.cat(portions), whole)


def test_entropy_of_known_rows():
    rows = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.0, 0.3, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.2, 0.2, 0.0, 0.0]])
    assert row_entropy(rows).tolist() == pytest.approx([2, 0, 0, 1])
    assert visual_attention_entropy(rows, causal=False).tolist() == pytest.approx([2, 0, 0, 1])
    assert visual_attention_entropy(rows).tolist() == pytest.approx([0, 0, 0, 1])


def test_cohesion_by_definition():
    angles = torch.tensor([0.0, 0.1, 0.2, 1.5, 0.15, 3.0])
    hidden = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([1, 9, 0.1, 2, 5, 1.0])[:, None]
    # nearest to token 1 at 0.1: itself, 4 (0.05 away), then 0 and 2 (0.1 away)
    assert object_cohesion(hidden, torch.tensor([1, 4]), 1) == 1
    assert object_cohesion(hidden, torch.tensor([1, 3]), 1) == pytest.approx(1 / 3)
    assert object_cohesion(hidden, torch.tensor([0, 1, 2, 4]), 1) == 1
    assert object_cohesion(hidden, torch.tensor([1, 3, 5]), 1) == pytest.approx(1 / 5)


def test_alignment_by_definition():
    hidden = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    mean = (hidden[4] + hidden[5]) / 2
    wanted = [float(hidden[i] @ mean / hidden[i].norm() / mean.norm()) for i in (1, 3)]
    found = text_alignment(hidden, torch.tensor([1, 3]), torch.tensor([4, 5]))
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)


def test_overlap_of_the_highest():
    one, other = torch.tensor([5.0, 4, 3, 2, 1, 0]), torch.tensor([0.0, 9, 1, 8, 7, 0])
    assert top_overlap(one, other) == pytest.approx(1 / 3)
    assert top_overlap(one, one) == 1
    assert top_overlap(one[:2], other[:2]) == 1
    assert top_overlap(one, other, count=4) == pytest.approx(3 / 4)


def test_flow_of_a_known_map():
    weights = torch.tensor([[[1, 0, 0], [0.25, 0.75, 0], [0.5, 0.25, 0.25]]])
    groups = torch.tensor([[-1, 1, 3]])
    sums, counts = group_flow(weights, groups, groups)
    assert counts.tolist() == [[0, 1, 0, 1]]
    assert sums[0, 1].tolist() == [0, 0.75, 0, 0] and sums[0, 3].tolist() == [0, 0.25, 0, 0.25]


def test_mean_and_error():
    mean, error = mean_and_error([1, 2, 3, 4])
    assert (mean, error) == pytest.approx((2.5, math.sqrt(5 / 3) / 2))
    assert math.isnan(mean_and_error([1])[1])

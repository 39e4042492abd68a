"""ToFu's rounds against a slow loop over tokens."""

import pytest
import torch
from helpers.golden_cases import noise, vision_context

import nuwa
from nuwa.pruners.tofu import removals


def slow(features, metric, counts, first_merge):
    """Tokens as (place, feature, key, places of its members)."""
    tokens = [(i, f, m, [i]) for i, (f, m) in enumerate(zip(features, metric, strict=True))]
    for number, remove in enumerate(counts):
        even, odd = tokens[::2], tokens[1::2]
        cosine = [[float(torch.cosine_similarity(a[2], b[2], dim=0)) for b in odd] for a in even]
        leaving = sorted(range(len(even)), key=lambda i: -max(cosine[i]))[:remove]
        members = {j: [token] for j, token in enumerate(odd)}
        for i in leaving:
            members[cosine[i].index(max(cosine[i]))].append(even[i])
        if number >= first_merge:
            odd = [fold(group) for group in members.values()]
        tokens = sorted([t for i, t in enumerate(even) if i not in leaving] + odd, key=lambda t: t[0])
    return tokens


def fold(group):
    if len(group) == 1:
        return group[0]
    members = [place for t in group for place in t[3]]
    mean, key = (sum(len(t[3]) * t[part] for t in group) / len(members) for part in (1, 2))
    return group[0][0], mean / mean.norm() * max(t[1].norm() for t in group), key, members


@pytest.mark.parametrize(
    ("keep", "options"), [(20, {}), (9, {"rounds": 3}), (3, {"dropping": 0.0}), (1, {"rounds": 2})]
)
def test_rounds_against_a_slow_loop(keep, options):
    features, keys, attention = noise(2, 33, 5), noise(2, 33, 8, seed=1), noise(2, 2, 33, seed=2)
    pruner = nuwa.load_pruner("tofu", **options)
    decision = pruner.prune_vision(vision_context((3, 11), features, {"attention": attention, "keys": keys}), keep)
    counts = removals(33, keep, pruner.rounds)
    for image in range(2):
        metric = keys[image].unflatten(-1, (2, 4)).mean(1)
        tokens = slow(features[image], metric, counts, pruner.dropping * len(counts))
        assert decision.keep[image].tolist() == [token[0] for token in tokens]
        slots = {place: slot for slot, token in enumerate(tokens) for place in token[3]}
        assert decision.members[image].tolist() == [slots.get(place, -1) for place in range(33)]
        torch.testing.assert_close(decision.features[image], torch.stack([token[1] for token in tokens]))


@pytest.mark.parametrize("rounds", [1, 5, 12])
@pytest.mark.parametrize(("n_tokens", "keep"), [(576, 64), (576, 1), (5, 4), (6, 6)])
def test_rounds_remove_what_is_asked(n_tokens, keep, rounds):
    counts = removals(n_tokens, keep, rounds)
    assert sum(counts) == n_tokens - keep
    for count in counts:
        assert 1 <= count <= n_tokens // 2
        n_tokens -= count


def test_only_dropping_makes_no_features():
    features, taps = noise(1, 12, 5), {"attention": noise(1, 2, 12), "keys": noise(1, 12, 8, seed=1)}
    decision = nuwa.load_pruner("tofu", dropping=1.0).prune_vision(vision_context((3, 4), features, taps), 4)
    assert torch.equal(decision.features[0], features[0, decision.keep[0]])

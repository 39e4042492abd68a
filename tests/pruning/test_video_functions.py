"""What methods for videos share, against slow loops over frames and points."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.golden_cases import noise

from nuwa.pruning.cuts import frame_similarity, segment_numbers
from nuwa.pruning.density import density_clusters
from nuwa.pruning.merging import merge_alike
from nuwa.pruning.selection import top_of_each_group
from nuwa.pruning.trees import best_before, roots


@pytest.mark.parametrize("segments", [1, 2, 4, 8, 20])
def test_a_video_is_cut_at_its_lowest_similarities(segments):
    similarity = noise(9).sigmoid()
    below = {i for i in range(9) if similarity[i] < 0.4}
    lowest = sorted(range(9), key=lambda i: float(similarity[i]))
    cuts = below | set(lowest[: max(0, segments - 1)])
    expected = [sum(end < frame for end in cuts) for frame in range(10)]
    assert segment_numbers(similarity, 0.4, segments).tolist() == expected


def test_equal_similarities_are_cut_from_the_first_on():
    assert segment_numbers(torch.ones(5), 0.9, 3).tolist() == [0, 1, 2, 2, 2, 2]


def test_one_frame_is_one_segment_and_an_empty_frame_resembles_none():
    assert segment_numbers(frame_similarity(noise(1, 4)), 0.9, 8).tolist() == [0]
    frames = torch.stack([torch.ones(4), torch.zeros(4), torch.ones(4)])
    assert frame_similarity(frames).tolist() == [0, 0]


def slow_clusters(points, count, neighbours):
    """DPC-kNN of one group (n, D), point by point."""
    n = len(points)
    apart = [[math.dist(a, b) / math.sqrt(len(a)) for b in points.tolist()] for a in points.tolist()]
    density = [math.exp(-sum(d * d for d in sorted(row)[: min(neighbours, n)]) / min(neighbours, n)) for row in apart]
    farthest = max(max(row) for row in apart)
    score = []
    for i in range(n):
        denser = [apart[i][j] for j in range(n) if (density[j], -j) > (density[i], -i)]
        score.append(density[i] * min([*denser, farthest]))
    centres = sorted(range(n), key=lambda i: (-score[i], i))[:count]
    return [
        centres.index(i) if i in centres else min(range(count), key=lambda c: apart[i][centres[c]]) for i in range(n)
    ], centres


def test_density_clusters_of_groups_are_those_of_each_alone():
    """Groups of different sizes with gaps, other counts and neighbours, one without a cluster."""
    points, counts, neighbours = noise(4, 30, 6, seed=5), [5, 1, 0, 3], [5, 7, 7, 2]
    there = noise(4, 30, seed=6) > torch.tensor([-9.0, 0.0, 0.0, 1.0])[:, None]
    centres, labels = density_clusters(points, counts, neighbours, there, first=True)
    for group, count in enumerate(counts):
        mine = there[group].nonzero()[:, 0]
        assert bool((labels[group][~there[group]] == -1).all())
        if not count:
            assert bool((labels[group] == -1).all())
            continue
        expected, peaks = slow_clusters(points[group][mine].double(), count, neighbours[group])
        assert centres[group, :count].tolist() == mine[torch.tensor(peaks)].tolist()
        assert labels[group][mine].tolist() == expected


def test_equal_points_share_a_cluster_and_the_first_is_its_centre():
    points = torch.tensor([[[0.0], [5.0], [0.0], [5.0], [0.0]]])
    centres, labels = density_clusters(points, [2], first=True)
    assert centres.tolist() == [[0, 1]] and labels.tolist() == [[0, 1, 0, 1, 0]]
    assert density_clusters(points, [2])[0].tolist() == [[0, 1]]


def test_points_that_are_each_others_nearest_are_two_peaks_or_one():
    """With two neighbours 0 and 1 are equally dense; where only the first counts, the second peak is another point."""
    points = torch.tensor([[[0.0], [0.2], [1.5], [1.9]]])
    assert density_clusters(points, [2])[0].tolist() == [[0, 1]]
    assert density_clusters(points, [2], first=True)[0].tolist() == [[0, 2]]


def test_trees_hang_on_the_most_similar_free_token_of_the_frame_before():
    features, free, segment = noise(5, 7, 3), noise(5, 7, seed=1) > -0.8, torch.tensor([0, 0, 0, 1, 1])
    best, parent = best_before(features, free, segment)
    unit = features / features.norm(dim=-1, keepdim=True)
    for frame in range(5):
        for token in range(7):
            others = [n for n in range(7) if frame and free[frame - 1, n] and segment[frame] == segment[frame - 1]]
            if not others or not free[frame, token]:
                assert best[frame, token] == -math.inf
                continue
            cosine = {n: float(unit[frame, token] @ unit[frame - 1, n]) for n in others}
            assert float(best[frame, token]) == pytest.approx(max(cosine.values()), abs=1e-6)
            assert int(parent[frame, token]) == 7 * (frame - 1) + max(cosine, key=cosine.get)


@pytest.mark.parametrize("frames", [1, 2, 9, 33])
def test_roots_are_found_by_climbing(frames):
    parent = torch.randint(4, (frames, 4), generator=torch.Generator().manual_seed(1))
    parent += 4 * (torch.arange(frames)[:, None] - 1)
    linked = noise(frames, 4) > -1.0
    linked[0] = False
    for start in range(4 * frames):
        at = start
        while linked.flatten()[at]:
            at = int(parent.flatten()[at])
        assert int(roots(parent, linked).flatten()[start]) == at


def test_shares_are_weights_of_tokens_that_went_into_one_each():
    values, members = noise(2, 9, 4), torch.randint(-1, 3, (2, 9), generator=torch.Generator().manual_seed(3))
    shares, keep = noise(2, 9, seed=7), torch.tensor([[0, 4, 8]]).expand(2, -1)
    weights = torch.where(members[:, None] == torch.arange(3)[:, None], shares[:, None], 0)
    merged = merge_alike(values, keep, members, shares=shares)
    torch.testing.assert_close(merged, merge_alike(values, keep, None, weights))


def test_the_best_of_each_group():
    score, group = noise(40), torch.randint(5, (40,), generator=torch.Generator().manual_seed(2))
    keep = torch.tensor([3, 0, 100, 1, 2])
    marked = top_of_each_group(score, group, keep)
    for number in range(5):
        mine = [i for i in range(40) if group[i] == number]
        best = sorted(mine, key=lambda i: -float(score[i]))[: int(keep[number])]
        assert sorted(best) == [i for i in mine if marked[i]]

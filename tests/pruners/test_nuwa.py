"""Stage 1 of Nüwa against slow, obvious implementations; its switches, grids, batches and option checks."""

import math
import random

import pytest
import torch
from helpers.golden_cases import noise, vision_context

from nuwa.pruners.nuwa import Nuwa
from nuwa.pruners.nuwa_release import NuwaRelease, release_weights
from nuwa.pruning.layout import coordinates
from nuwa.pruning.merging import aggregate, collector_weights
from nuwa.pruning.selection import candidates_per_region, regions, top_in_regions, top_quantile

GRIDS = [(24, 24), (5, 7), (1, 9), (7, 2), (17, 22)]


def slow_selection(salience, grid, size, per_region, keep):
    """Region by region with Python's own sort; ties to the lower index."""
    offered = []
    for top in range(0, grid[0], size):
        for left in range(0, grid[1], size):
            cells = [
                y * grid[1] + x
                for y in range(top, min(top + size, grid[0]))
                for x in range(left, min(left + size, grid[1]))
            ]
            offered += sorted(cells, key=lambda i: (-salience[i], i))[:per_region]
    return sorted(sorted(offered, key=lambda i: (-salience[i], i))[:keep])


def slow_weight(vectors, grid, i, j, d_thresh):
    """A_ij * P_ij in plain Python floats."""
    dot, norm_i, norm_j = (
        sum(a * b for a, b in zip(u, v, strict=True))
        for u, v in ((vectors[i], vectors[j]), (vectors[i], vectors[i]), (vectors[j], vectors[j]))
    )
    similarity = max(0.0, dot / math.sqrt(norm_i * norm_j))
    distance = math.hypot(i // grid[1] - j // grid[1], i % grid[1] - j % grid[1])
    return similarity * (1 - min(1.0, distance / math.sqrt(d_thresh)))


def slow_aggregate(features, grid, keep, pillars, d_thresh):
    vectors, out = features.tolist(), []
    for i, pillar in zip(keep, pillars, strict=True):
        weights = [slow_weight(vectors, grid, i, j, d_thresh) for j in range(len(vectors))]
        total = sum(weights)
        mixed = [sum(w * v[d] for w, v in zip(weights, vectors, strict=True)) / total for d in range(len(vectors[0]))]
        out.append(vectors[i] if pillar else mixed)
    return torch.tensor(out)


def image_context(grid, images=2, seed=0, width=6, release=False):
    count = grid[0] * grid[1]
    attention = noise(images, 3, count, seed=seed).softmax(-1)
    other = noise(images, count, 12, seed=seed + 1)
    taps = {"attention": attention, "states" if release else "keys": other}
    return vision_context(grid, noise(images, count, width, seed=seed + 2), taps)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_regions_selection_is_the_obvious_one(grid, size):
    count = grid[0] * grid[1]
    # Coarse values, so that there are many ties.
    salience = (noise(2, count, seed=size) * 4).round()
    region = regions(grid, size)
    for keep in {1, 2, count // 4 or 1, count // 2, count - 1, count}:
        per_region = candidates_per_region(region, keep)
        found = top_in_regions(salience, region, per_region, keep)
        for row in range(2):
            assert found[row].tolist() == slow_selection(salience[row].tolist(), grid, size, per_region, keep)


@pytest.mark.parametrize(("keep", "candidates"), [(1, 1), (112, 1), (144, 1), (145, 2), (224, 2), (336, 3), (576, 4)])
def test_candidates_on_llavas_grid(keep, candidates):
    assert candidates_per_region(regions((24, 24), 2), keep) == candidates


def test_regions_of_a_wide_grid():
    assert regions((3, 5), 2).view(3, 5).tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]


def test_candidates_grow_past_partial_regions():
    # 3x3 tokens in 2x2 regions: 4, 2, 2 and 1 cells; two each give 2 + 2 + 2 + 1 = 7.
    region = regions((3, 3), 2)
    assert region.tolist() == [0, 0, 1, 0, 0, 1, 2, 2, 3]
    assert [candidates_per_region(region, keep) for keep in (4, 5, 7, 8, 9)] == [1, 2, 2, 3, 4]


@pytest.mark.parametrize("grid", GRIDS[1:])
@pytest.mark.parametrize("d_thresh", [0.5, 2, 18.0, 280, 1e9])
def test_aggregation_is_the_obvious_one(grid, d_thresh):
    count = grid[0] * grid[1]
    features = noise(2, count, 5, seed=3)
    draw = random.Random(count)
    keep = torch.tensor([sorted(draw.sample(range(count), min(count, 6))) for _ in range(2)])
    pillar = torch.arange(keep.shape[1]).expand_as(keep) % 3 == 0
    found = aggregate(features, keep, pillar, collector_weights(features, keep, grid, d_thresh))
    for row in range(2):
        expected = slow_aggregate(features[row], grid, keep[row].tolist(), pillar[row].tolist(), d_thresh)
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(found[pillar], features.gather(1, keep[..., None].expand(-1, -1, 5))[pillar])


def test_aggregation_within_half_a_cell_is_the_identity():
    features, keep = noise(1, 35, 5), torch.tensor([[0, 7, 34]])
    weight = collector_weights(features, keep, (5, 7), 0.25)
    found = aggregate(features, keep, torch.zeros(1, 3, dtype=torch.bool), weight)
    torch.testing.assert_close(found, features[:, keep[0]])


def test_aggregation_of_empty_features_is_finite():
    features, keep = torch.zeros(1, 9, 4), torch.tensor([[0, 4]])
    weight = collector_weights(features, keep, (3, 3), 18)
    found = aggregate(features, keep, torch.zeros(1, 2, dtype=torch.bool), weight)
    assert torch.equal(found, torch.zeros(1, 2, 4))


def test_release_weights_are_the_obvious_ones():
    grid, similar, keep = (4, 5), noise(1, 20, 5), torch.tensor([[2, 11, 19]])
    weights = release_weights(similar, keep, torch.tensor([[False, True, False]]), grid, 18)[0]
    vectors = similar[0].tolist()
    for row, i in enumerate(keep[0].tolist()):
        expected = torch.tensor([slow_weight(vectors, grid, i, j, 18) for j in range(20)])
        expected /= expected.sum()
        expected = torch.zeros(20) if i == 11 else expected
        expected[i] = 1
        torch.testing.assert_close(weights[row], expected, atol=1e-6, rtol=1e-4)


def test_quantile_is_over_the_kept_tokens():
    score = torch.tensor([[9.0, 1, 8, 2, 3, 7, 4, 99]])
    keep = torch.tensor([[1, 3, 4, 6]])  # 1 2 3 4: the upper quartile starts at 3.25
    assert top_quantile(score, keep, 0.75).tolist() == [[False, False, False, True]]
    assert top_quantile(score, keep, 0).all()


@pytest.mark.parametrize("release", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
def test_batch_equals_images_alone(grid, release):
    pruner = NuwaRelease() if release else Nuwa()
    context = image_context(grid, images=3, release=release)
    keep = max(1, grid[0] * grid[1] // 3)
    together = pruner.prune_vision(context, keep)
    assert together.keep.shape == (3, keep)
    assert (together.keep.diff(dim=1) > 0).all()
    for i in range(3):
        taps = {tap: value[i : i + 1] for tap, value in context.taps.items()}
        alone = pruner.prune_vision(vision_context(grid, context.features[i : i + 1], taps), keep)
        assert torch.equal(together.keep[i], alone.keep[0])
        torch.testing.assert_close(together.features[i], alone.features[0], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("release", [False, True])
def test_switches(release):
    make = NuwaRelease if release else Nuwa
    context = image_context((6, 6), release=release)
    plain, anywhere, unprotected = (
        make(**options).prune_vision(context, 9) for options in ({}, {"region": False}, {"pillar": False})
    )
    best = plain.extras["salience"].topk(9).indices.sort().values
    assert torch.equal(anywhere.keep, best)
    # One token of every 2x2 region at most.
    assert all(len(set(regions((6, 6), 2)[row].tolist())) == 9 for row in plain.keep)
    assert plain.extras["pillar"].any()
    assert not unprotected.extras["pillar"].any()
    assert torch.equal(plain.keep, unprotected.keep)
    own = context.features.gather(1, plain.keep[..., None].expand(-1, -1, 6))
    unchanged = (plain.features == own).all(-1)
    assert torch.equal(unchanged, plain.extras["pillar"])
    assert not (unprotected.features == own).all(-1).any()


def test_half_precision_features_stay_half():
    context = image_context((5, 7))
    context.features = context.features.bfloat16()
    features = Nuwa().prune_vision(context, 8).features
    assert features.dtype == torch.bfloat16
    assert features.isfinite().all()


def test_far_tokens_do_not_matter():
    # A token's neighbours change it, a token further away than the threshold does not.
    context = image_context((8, 8), images=1)
    pruner = Nuwa(d_thresh=9, pillar=False)
    before = pruner.prune_vision(context, 16)
    distance = torch.cdist(coordinates((8, 8)), coordinates((8, 8)))
    moved = 27
    context.features = context.features.clone()
    context.features[0, moved] *= -3
    after_move = pruner.prune_vision(context, 16)
    changed = (before.features != after_move.features).any(-1)[0]
    assert changed.any()
    assert (distance[before.keep[0][changed], moved] < 3).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_thresh": 0}, r"pruner\.d_thresh must be a positive squared distance, not 0"),
        ({"d_thresh": -18.0}, r"pruner\.d_thresh must be a positive squared distance, not -18\.0"),
        ({"d_thresh": math.nan}, r"pruner\.d_thresh must be a positive squared distance, not nan"),
        ({"d_thresh": "abc"}, r"pruner\.d_thresh must be of type float, not 'abc'"),
        ({"d_thresh": True}, r"pruner\.d_thresh must be of type float, not True"),
        ({"region": "false"}, r"pruner\.region must be of type bool, not 'false'"),
        ({"pillar": 1}, r"pruner\.pillar must be of type bool, not 1"),
        ({"random": None}, r"pruner\.random must be of type bool, not None"),
        ({"region_size": 0}, r"pruner\.region_size must be 1 cell or more, not 0"),
        ({"region_size": 1.5}, r"pruner\.region_size must be of type int, not 1\.5"),
        ({"pillar_quantile": 1.1}, r"pruner\.pillar_quantile must be in \[0, 1\], not 1\.1"),
        ({"stage2_layer": 0.0}, r"pruner\.stage2_layer must be a fraction of the depth in \(0, 1\), not 0\.0"),
        ({"stage2_layer": 16}, r"pruner\.stage2_layer must be a fraction of the depth in \(0, 1\), not 16"),
        ({"seed": 0.5}, r"pruner\.seed must be of type int, not 0\.5"),
    ],
)
@pytest.mark.parametrize("make", [Nuwa, NuwaRelease])
def test_bad_values_name_the_key(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_bad_values_of_one_variant():
    with pytest.raises(ValueError, match=r"pruner\.stage2_ratio must be in \(0, 1\], not 0"):
        Nuwa(stage2_ratio=0)
    with pytest.raises(ValueError, match=r"pruner\.ablation_class must be of type bool, not 'no'"):
        NuwaRelease(ablation_class="no")

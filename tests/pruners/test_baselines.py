"""VisionZip, FastV, pooling, random and none: slow references, batches, grids, determinism."""

import pytest
import torch
from helpers.golden_cases import after, noise, prompt, vision_context

from nuwa.pruners import FastV, KeepAll, Pooling, RandomPruner, VisionZip
from nuwa.pruners.pooling import cell_centres, near_squares, pool, pooled_grid


def zip_context(grid, images=1, cls=True):
    count = grid[0] * grid[1]
    taps = {"attention": noise(images, 3, count, seed=1).softmax(-1), "keys": noise(images, count, 12, seed=2)}
    if cls:
        taps["cls"] = noise(images, 1, 5, seed=3)
    return vision_context(grid, noise(images, count, 5, seed=4), taps)


def slow_visionzip(features, attention, keys, cls, dominant, contextual, variant):
    """One image, step by step; returns indices (None for CLS) and features."""
    score = attention.sum(0).tolist()
    patches = dominant - (cls is not None)
    chosen = sorted(sorted(range(len(score)), key=lambda i: -score[i])[:patches])
    rest = [i for i in range(len(score)) if i not in chosen]
    step = max(1, len(rest) // contextual)
    targets = rest[::step][:contextual]
    metric = keys.view(len(score), 3, 4).double().mean(1)
    followers = {target: [] for target in targets}
    for i in set(rest) - set(targets):
        cosine = [float(torch.cosine_similarity(metric[i], metric[t], dim=0)) for t in targets]
        followers[targets[cosine.index(max(cosine))]].append(i)
    if variant == "release":
        merged = [features[t] + (features[f].mean(0) if f else 0) for t, f in followers.items()]
    else:
        merged = [features[[t, *f]].mean(0) for t, f in followers.items()]
    head = [] if cls is None else [(None, cls[0])]
    return head + [(i, features[i]) for i in chosen] + list(zip(targets, merged, strict=True))


@pytest.mark.parametrize("variant", ["paper", "release"])
@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize(("grid", "keep", "contextual"), [((5, 7), 12, 2), ((4, 4), 13, 2), ((3, 9), 26, 4)])
def test_visionzip_is_the_obvious_one(grid, keep, contextual, cls, variant):
    context = zip_context(grid, images=2, cls=cls)
    decision = VisionZip(variant=variant).prune_vision(context, keep)
    for i in range(2):
        cls_row = context.taps["cls"][i] if cls else None
        image = (context.features[i], context.taps["attention"][i], context.taps["keys"][i], cls_row)
        expected = slow_visionzip(*image, keep - contextual, contextual, variant)
        index = [place for place, _ in expected]
        if cls:
            # The CLS token takes the smallest index that nobody has.
            index[0] = min(set(range(grid[0] * grid[1])) - set(index[1:]))
        assert decision.keep[i].tolist() == index
        torch.testing.assert_close(decision.features[i], torch.stack([feature for _, feature in expected]))


@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize("keep", [1, 2, 15, 16])
def test_visionzip_extremes(keep, cls):
    decision = VisionZip().prune_vision(zip_context((4, 4), cls=cls), keep)
    assert decision.features.shape == (1, keep, 5)
    assert len(set(decision.keep[0].tolist())) == keep


def test_visionzip_without_merging():
    context = zip_context((4, 4), cls=False)
    decision = VisionZip(contextual=0.0).prune_vision(context, 6)
    best = context.taps["attention"].sum(1).topk(6).indices.sort().values
    assert torch.equal(decision.keep, best)
    assert torch.equal(decision.features, context.features[:, best[0]])


def test_fastv_reads_the_last_token_one_layer_before():
    rows = noise(1, 3, 20, seed=5).softmax(-1)
    context = after(prompt(2, 6, 3, 7, 2, ids=[["a", "b"]], rows=rows))
    kept = FastV().prune_llm(context, torch.tensor([[2, 4]]))[0]
    score = rows.mean(1)[0]
    first, second = 2 + score[2:8].topk(2).indices, 11 + score[11:18].topk(4).indices
    assert set(kept.nonzero()[:, 0].tolist()) == {*first.tolist(), *second.tolist()}


def test_random_depends_on_seed_and_id_only():
    grid, features = (5, 7), noise(3, 35, 4)
    together = RandomPruner().prune_vision(vision_context(grid, features, {}, ["a", "b", "c"]), 9)
    torch.manual_seed(99)
    shuffled = RandomPruner().prune_vision(vision_context(grid, features[:2], {}, ["c", "a"]), 9)
    other = RandomPruner(seed=1).prune_vision(vision_context(grid, features, {}, ["a", "b", "c"]), 9)
    assert together.features is None
    assert (together.keep.diff(dim=1) > 0).all()
    assert together.keep.shape == (3, 9)
    assert torch.equal(shuffled.keep, together.keep[[2, 0]])
    assert len({tuple(row) for row in [*together.keep.tolist(), *other.keep.tolist()]}) == 6


def test_random_is_uniform():
    names = [f"image{i}" for i in range(2000)]
    kept = RandomPruner().prune_vision(vision_context((2, 4), torch.zeros(2000, 8, 1), {}, names), 2).keep
    # 500 expected each; the standard deviation is 19.
    assert all(400 < count < 600 for count in kept.flatten().bincount(minlength=8).tolist())


def test_random_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    RandomPruner().prune_vision(vision_context((2, 4), torch.zeros(1, 8, 1), {}), 2)
    assert torch.rand(1) == expected


@pytest.mark.parametrize(
    ("count", "grid", "size"),
    [
        (192, (24, 24), (12, 16)),
        (128, (24, 24), (8, 16)),
        (64, (24, 24), (8, 8)),
        (192, (20, 30), (12, 16)),
        (192, (30, 20), (16, 12)),
        (12, (3, 20), (3, 4)),
        (35, (5, 7), (5, 7)),
        (10, (1, 10), (1, 10)),
    ],
)
def test_pooled_grid(count, grid, size):
    assert pooled_grid(count, grid) == size


@pytest.mark.parametrize(
    ("count", "grid", "size"),
    [
        (64, (2, 40), (2, 32)),
        (7, (4, 4), (2, 3)),
        (9, (1, 9), (1, 9)),
        (22, (8, 8), (4, 5)),  # 3x7 is nearer, and more than twice as wide
        (33, (8, 8), (4, 8)),  # twice as wide, the most that may be
    ],
)
def test_pooled_grid_of_nearly_as_many_cells(count, grid, size):
    assert pooled_grid(count, grid) == size


def test_near_squares_by_trial():
    for count in range(1, 400):
        pairs = [(h, w) for h in range(1, 400) for w in range(1, 400) if h * w == count]
        assert near_squares(count) == [(h, w) for h, w in pairs if max(h, w) <= 2 * min(h, w)]


@pytest.mark.parametrize(
    ("target", "counts"), [(64, [64]), (13, [12, 15]), (63.6, [64, 63]), (0.2, [1]), (19, [18, 20]), (22, [20, 24])]
)
def test_nearest_counts(target, counts):
    assert Pooling().reachable_counts(target, 576) == counts


@pytest.mark.parametrize(
    ("grid", "size"), [((24, 24), (8, 8)), ((5, 7), (2, 3)), ((17, 22), (9, 11)), ((4, 6), (4, 6))]
)
def test_pooling_is_the_mean_of_overlapping_cells(grid, size):
    features = noise(2, grid[0] * grid[1], 3)
    image = features.view(2, *grid, 3)
    found = pool(features, grid, size).view(2, *size, 3)
    centres = cell_centres(grid, size).view(size).tolist()
    for y in range(size[0]):
        for x in range(size[1]):
            top, bottom = y * grid[0] // size[0], -(-(y + 1) * grid[0] // size[0])
            left, right = x * grid[1] // size[1], -(-(x + 1) * grid[1] // size[1])
            torch.testing.assert_close(found[:, y, x], image[:, top:bottom, left:right].mean((1, 2)))
            centre = divmod(centres[y][x], grid[1])
            assert centre == (int((y + 0.5) * grid[0] / size[0]), int((x + 0.5) * grid[1] / size[1]))


def test_pooling_decision():
    features = noise(2, 35, 3).half()
    decision = Pooling().prune_vision(vision_context((5, 7), features, {}), 12)
    assert decision.features.shape == (2, 12, 3)
    assert decision.features.dtype == torch.float16
    # 12 tokens of 5x7 are 3x4.
    assert decision.keep[1].tolist() == [7 * y + x for y in (0, 2, 4) for x in (0, 2, 4, 6)]


def test_none_has_no_stage():
    assert not KeepAll().prunes_vision
    assert KeepAll().taps == {}
    assert RandomPruner().prunes_vision


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (VisionZip, {"contextual": 1.0}, r"pruner\.contextual must be a share of the tokens in \[0, 1\), not 1\.0"),
        (VisionZip, {"contextual": "x"}, r"pruner\.contextual must be of type float, not 'x'"),
        (FastV, {"layer": 2}, r"pruner\.layer must be a fraction of the depth in \(0, 1\), not 2"),
        (FastV, {"layer": 0}, r"pruner\.layer must be a fraction of the depth in \(0, 1\), not 0"),
        (RandomPruner, {"seed": "1"}, r"pruner\.seed must be of type int, not '1'"),
    ],
)
def test_bad_values_name_the_key(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)

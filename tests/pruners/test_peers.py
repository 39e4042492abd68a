"""What golden data does not pin of the peers: paper variants, odd grids, options, refusals."""

import math

import pytest
import torch
from helpers.golden_cases import after, noise, prompt, vision_context
from transformers import Qwen2_5_VLConfig

from nuwa.pruners import HiPrune, HoloV, PruMerge, PruMergePlus, SparseVLM
from nuwa.pruners.cdpruner import greedy_map
from nuwa.pruners.divprune import max_min
from nuwa.pruners.hiprune import neighbourhood
from nuwa.pruners.holov import crop_score, crops_of, quotas
from nuwa.pruners.prumerge import fixed_with_grid, merging_weights
from nuwa.pruners.sparsevlm import split_recycled
from nuwa.pruners.visionzip import merge_context, nearest_target
from nuwa.pruners.vispruner import thin_out
from nuwa.pruning.density import cluster_means, density_clusters


def reader_context(images=1, grid=(5, 6)):
    count = grid[0] * grid[1]
    taps = {
        "query": 3 * noise(images, 1, 8, seed=1),
        "keys": noise(images, 1 + count, 8, seed=2),
    }
    return vision_context(grid, noise(images, count, 4, seed=3), taps)


def test_prumerge_paper_variant_is_the_obvious_one():
    context = reader_context()
    decision = PruMerge(neighbours=3).prune_vision(context, 7)
    query, keys = (value[0].double() for value in context.taps.values())
    attention = (keys @ query[0] / math.sqrt(8)).softmax(0)[1:].tolist()
    kept = sorted(range(30), key=lambda i: -attention[i])[:7]
    assert decision.keep[0].tolist() == kept
    for place, i in enumerate(kept):
        dropped = [j for j in range(30) if j not in kept]
        cosine = {j: float(torch.cosine_similarity(keys[1 + i], keys[1 + j], dim=0)) for j in dropped}
        group = [i, *sorted(dropped, key=lambda j: -cosine[j])[:3]]
        mean = sum(attention[j] * context.features[0, j] for j in group) / sum(attention[j] for j in group)
        torch.testing.assert_close(decision.features[0, place], mean, atol=1e-5, rtol=1e-4)


def test_prumerge_adaptive_counts_differ_between_images():
    context = reader_context(images=3)
    pruner = PruMergePlus(adaptive=True)
    together = pruner.prune_vision(context, 30)
    assert len(set(together.counts.tolist())) > 1
    for i, count in enumerate(together.counts):
        taps = {tap: value[i : i + 1] for tap, value in context.taps.items()}
        alone = pruner.prune_vision(vision_context(context.grid, context.features[i : i + 1], taps), 30)
        assert together.keep[i, :count].tolist() == alone.keep[0].tolist()
        torch.testing.assert_close(together.features[i, :count], alone.features[0])


@pytest.mark.parametrize("total", [5, 12, 20, 29])
def test_prumerge_plus_meets_the_budget_with_a_sample_of_everywhere(total):
    kept = PruMergePlus().prune_vision(reader_context(), total).keep[0]
    assert len(kept) == len(kept.unique()) == total
    sample = range(0, 29, math.ceil(29 / math.floor(0.75 * total)))
    assert len(sample) <= 0.75 * total and set(sample) <= set(kept.tolist())


@pytest.mark.parametrize(("total", "attended"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2), (8, 2)])
def test_prumerge_plus_takes_three_quarters_at_most_from_the_sample(total, attended):
    """Attention falls from token 101 on, where no sample has a token."""
    attention = torch.zeros(576).index_fill(0, torch.tensor([101, 107, 109]), 1.0)
    kept = fixed_with_grid(attention[None], total)[0].tolist()
    assert len(set(kept)) == total and kept[:attended] == [101, 107, 109][:attended]


def test_prumerge_of_tokens_without_attention_leaves_them_as_they_are():
    """Attention underflows to zero where a query is far from most keys."""
    features, keys, attention = noise(12, 4), noise(12, 8, seed=1), torch.zeros(12)
    attention[0] = 1.0
    kept = torch.tensor([0, 5])
    merged = merging_weights(keys[None], attention[None], kept[None], 3, "paper") @ features
    torch.testing.assert_close(merged[0], features[kept])


def test_prumerge_needs_one_cls_token():
    with pytest.raises(ValueError, match=r"pruner\.tiles must be each, because stitched tiles have several CLS tokens"):
        PruMerge(tiles="stitched")


@pytest.mark.parametrize(
    ("anchor", "inside", "wrapped"),
    [
        (0, [0, 1, 4], [0, 1, 4]),
        (4, [0, 4, 5, 8], [0, 3, 4, 5, 8]),
        (7, [3, 6, 7, 11], [3, 6, 7, 8, 11]),
        (8, [4, 8, 9], [4, 7, 8, 9, 11]),
        (11, [7, 10, 11], [7, 10, 11]),
    ],
)
def test_hiprune_neighbours_of_a_3x4_grid(anchor, inside, wrapped):
    for wrap, places in ((False, inside), (True, wrapped)):
        assert neighbourhood(torch.tensor([[anchor]]), (3, 4), wrap)[0].nonzero()[:, 0].tolist() == places


def test_hiprune_neighbours_stay_inside_the_image():
    grid, pruner = (4, 5), HiPrune(anchor_share=1.0)
    shallow, deep = torch.zeros(1, 20), torch.linspace(0, 1, 20)[None]
    shallow[0, 9] = 1  # the right end of the second row: neighbours 8, 4, 14, not 10
    context = vision_context(grid, torch.zeros(1, 20, 2), dict(zip(pruner.taps, (shallow, deep), strict=True)))
    assert pruner.prune_vision(context, 5).keep.tolist() == [[4, 8, 9, 14, 19]]
    context.taps = dict(zip(pruner.taps, (shallow, deep), strict=True))
    pruner.variant = "release"
    assert pruner.prune_vision(context, 5).keep.tolist() == [[4, 8, 9, 10, 14]]


@pytest.mark.parametrize(("depth", "windows", "layer"), [(24, False, 8), (32, True, 15)])
def test_hiprune_looks_where_its_authors_do(depth, windows, layer):
    """methods.md 13: layer 9 of CLIP's 24, layer 16 of Qwen2.5-VL's 32, counted from 1."""
    shallow, deep = HiPrune().taps["shallow"], HiPrune().taps["deep"]
    assert shallow.layer_in(depth, -1, windows) == layer
    assert deep.layer_in(depth, -1, windows) == -1
    assert not windows or layer in Qwen2_5_VLConfig().vision_config.fullatt_block_indexes
    assert HiPrune(object_layer=0.25).taps["shallow"].layer_in(depth, -1, windows) == depth // 4 - 1


def test_visionzip_merges():
    features, targets, others = noise(1, 6, 3), torch.tensor([[0, 3]]), torch.tensor([[1, 2, 4, 5]])
    metric = torch.tensor([[[1.0, 0], [1, 0.1], [0.9, 0], [0, 1], [1, 0.2], [1, 0.3]]])
    nearest = nearest_target(metric, targets, others)
    released, averaged = (merge_context(features, targets, others, nearest, average)[0] for average in (False, True))
    torch.testing.assert_close(released[0], features[0, 0] + features[0, [1, 2, 4, 5]].mean(0))
    torch.testing.assert_close(averaged[0], features[0, [0, 1, 2, 4, 5]].mean(0))
    assert torch.equal(released[1], features[0, 3]) and torch.equal(averaged[1], features[0, 3])


def test_holov_crops():
    blocks = crops_of((8, 8), 16, spatial=True)
    assert [block.tolist() for block in blocks[:2]] == [[0, 1, 8, 9], [2, 3, 10, 11]]
    for grid in ((24, 24), (17, 22), (3, 3)):
        for spatial in (True, False):
            together = torch.cat(crops_of(grid, 16, spatial))
            assert sorted(together.tolist()) == list(range(grid[0] * grid[1]))


def test_holov_quotas_overflow_to_the_heaviest_with_room():
    assert quotas(torch.tensor([[8.0, 1.0, 1.0], [1.0, 1.0, 8.0]]), [4, 4, 4], 9).tolist() == [[4, 3, 2], [3, 2, 4]]
    assert quotas(torch.tensor([[1.0, 1.0, 1.0]]), [4, 4, 4], 5).tolist() == [[2, 2, 1]]


@pytest.mark.parametrize("keep", range(1, 31))
def test_holov_quotas_are_those_of_a_loop(keep):
    """Tokens that a crop has no room for go one by one, in turn, to the heaviest crops that have."""
    sizes, weights = [4, 9, 1, 6, 10], torch.tensor([0.5, 0.1, 0.2, 0.15, 0.05])
    heaviest = sorted(range(5), key=lambda crop: -float(weights[crop]))
    given = [int(weight / (weights.sum() + 1e-6) * keep) for weight in weights]
    for crop in heaviest[: keep - sum(given)]:
        given[crop] += 1
    given = [min(count, size) for count, size in zip(given, sizes, strict=True)]
    while sum(given) < keep:
        for crop in heaviest:
            given[crop] += given[crop] < sizes[crop] and sum(given) < keep
    assert quotas(weights[None], sizes, keep)[0].tolist() == given


def test_holov_weighs_a_crop_of_one_token_as_any_other():
    """5 x 5 tokens are crops of 4, 2 and 1: the last token is one by itself, and the most attended of all."""
    attention = torch.full((1, 1, 25), 0.0125)
    attention[..., 24] = 0.7
    context = vision_context((5, 5), noise(1, 25, 6), {"attention": attention})
    assert 24 in HoloV().prune_vision(context, 1).keep[0]
    scores = [crop_score(noise(1, n, 6), torch.full((1, n), 0.04), 0.0) for n in (1, 2, 4)]
    torch.testing.assert_close(torch.cat(scores), torch.full((3,), 40.0))


@pytest.mark.parametrize("alpha", [0.09, 2.0])
@pytest.mark.parametrize("n", [2, 9])
def test_holov_scores_are_the_obvious_ones(n, alpha):
    """A thousand times the attention, plus the spread of a token's cosines, scaled to the attention's size."""
    features, attention = noise(n, 6), noise(n, seed=1).softmax(0)
    spread = []
    for i in range(n):
        cosine = [float(torch.cosine_similarity(features[i], features[j], dim=0)) if i != j else 0.0 for j in range(n)]
        mean = sum(cosine) / (n - 1)
        spread.append(sum((c - mean) ** 2 for c in cosine) / (n - 1))
    size = sum(1000 * float(a) for a in attention) / n / (sum(spread) / n + 1e-6)
    expected = sum(1000 * float(a) + alpha * s * size for a, s in zip(attention, spread, strict=True)) / n
    assert float(crop_score(features[None], attention[None], alpha)) == pytest.approx(expected, rel=1e-5)


def test_holov_keeps_a_whole_crop_in_raster_order_and_a_part_by_attention():
    attention = torch.tensor([0.05, 0.2, 0.1, 0.3, 0.05, 0.1, 0.02, 0.1, 0.001, 0.003, 0.002, 0.004, *[0.001] * 4])
    context = vision_context((4, 4), noise(1, 16, 6), {"attention": attention[None, None]})
    kept = HoloV(crops=2, alpha=0.0, variant="release").prune_vision(context, 10).keep[0].tolist()
    assert kept == [0, 1, 2, 3, 4, 5, 6, 7, 11, 9]


@pytest.mark.parametrize("keep", [1, 20, 63])
@pytest.mark.parametrize("variant", ["paper", "release"])
def test_holov_keeps_as_many_as_asked(keep, variant):
    context = vision_context((8, 8), noise(2, 64, 6), {"attention": (3 * noise(2, 2, 64, seed=1)).softmax(-1)})
    kept = HoloV(variant=variant).prune_vision(context, keep).keep
    assert all(len(set(row.tolist())) == keep for row in kept)


def test_divprune_against_whole_distances():
    features = noise(40, 6).double()
    distance = 1 - torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=-1)
    others = distance + 9 * torch.eye(40)
    chosen = [int(others.amin(1).argmax())]
    while len(chosen) < 12:
        nearest = distance[:, chosen].amin(1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    assert max_min(features.float(), 12).tolist() == chosen


def test_dpp_picks_maximise_the_determinant():
    features, relevance = noise(12, 6), torch.rand(12, generator=torch.Generator().manual_seed(1)) + 0.1
    direction = torch.nn.functional.normalize(features.double(), dim=-1) * relevance[:, None]
    kernel = direction @ direction.T
    chosen = []
    for _ in range(5):
        free = [i for i in range(12) if i not in chosen]
        chosen.append(max(free, key=lambda i: float(torch.det(kernel[[*chosen, i]][:, [*chosen, i]]))))
    assert greedy_map(features, relevance, 5).tolist() == chosen


def test_dpp_beyond_the_rank_goes_on_by_relevance():
    features, relevance = noise(12, 3), torch.linspace(0.1, 1, 12)
    order = greedy_map(features, relevance, 12).tolist()
    assert sorted(order) == list(range(12))
    assert order[3:] == sorted(order[3:], reverse=True)


def test_clusters_of_equal_points_have_means():
    """The first centre attracts them all; every centre belongs to itself all the same."""
    points = torch.ones(7, 3)
    centres, member = (found[0] for found in density_clusters(points[None], [3]))
    assert member[centres].tolist() == [0, 1, 2]
    assert torch.equal(cluster_means(points, member, 3), torch.ones(3, 3))


def test_sparsevlm_puts_the_mean_of_a_cluster_at_its_centre():
    """Of 40 tokens 20 stay, 7 are recycled, and their one cluster sits at its centre; 12 and 3 clusters with fewer."""
    hidden = noise(1, 46, 8, seed=2)
    rows = noise(1, 2, 46, seed=3).softmax(-1)
    before = prompt(3, 40, 3, hidden=hidden, layer=2)
    before.attention = lambda query: rows[:, :, None].expand(-1, -1, len(query), -1)
    context = after(before, first=before)
    for total in (21, 9):
        decision = SparseVLM().prune_llm(context, torch.tensor([[total]]))
        changed = (decision.hidden != hidden).any(-1)[0].nonzero()[:, 0].tolist()
        stay, recycled = (part + 3 for part in split_recycled(rows.mean(1)[0, 3:43], total))
        centres, member = (found[0] for found in density_clusters(hidden[:, recycled], [total - len(stay)]))
        assert sorted(changed) == sorted(recycled[centres].tolist())
        for cluster, centre in enumerate(recycled[centres].tolist()):
            mean = hidden[0, recycled[member == cluster]].mean(0)
            assert recycled[member == cluster].eq(centre).any()
            torch.testing.assert_close(decision.hidden[0, centre], mean)


def test_thinning_out_odd_numbers():
    kept = thin_out(noise(2, 9, 4), torch.arange(9).expand(2, -1), 4)
    assert [len(set(row)) for row in kept.tolist()] == [4, 4]
    assert thin_out(noise(2, 9, 4), torch.arange(9).expand(2, -1), 0).tolist() == [[], []]

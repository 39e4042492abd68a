"""PruneSID: golden data of its authors' code, suppression and quotas by slow loops."""

import pytest
import torch
from helpers.golden_cases import Golden, golden_runs, noise, vision_context
from torch.nn import functional

import nuwa
from nuwa.pruners.prunesid import PruneSID, group_quotas, loadings, suppress


def decided(case, params):
    hidden = case.inputs["hidden"]
    random = case.inputs[f"noise_{params['components']}"].expand(len(hidden) if hidden.dim() == 3 else 1, -1, -1)
    if hidden.dim() == 2:
        context = vision_context((params["grid_h"], params["grid_w"]), hidden[None], {})
    else:
        taps = {"attention": case.inputs["cls_attention"], "cls": hidden[:, :1]}
        context = vision_context((params["grid_h"], params["grid_w"]), hidden[:, 1:], taps)
    return PruneSID().decide(context, params["keep"], random)


@pytest.mark.parametrize(("name", "run"), golden_runs("prunesid_llava", "prunesid_llava_b2"))
def test_golden_llava(name, run):
    case = Golden(name)
    decision = decided(case, case.params(run))
    case.check(run, groups=decision.extras["group"], kept=decision.keep[:, 1:].sort(1).values)
    case.check(run, features=decision.features)
    assert torch.equal(decision.keep[:, 1:] + 1, case.tensors[f"out.{run}.rows"][:, 1:])


@pytest.mark.parametrize(("name", "run"), golden_runs("prunesid_qwen"))
def test_golden_qwen(name, run):
    case = Golden(name)
    decision = decided(case, case.params(run))
    case.check(run, groups=decision.extras["group"][0], loading=decision.extras["salience"][0], kept=decision.keep[0])


def test_components_are_those_of_a_whole_decomposition():
    """As many components as there are: the low-rank product is exact, up to signs."""
    features = noise(1, 6, 9)
    found = loadings(features, noise(1, 6, 6, seed=1))
    matrix = features[0].sigmoid().T
    expected = torch.linalg.svd(matrix - matrix.mean(0), full_matrices=False).Vh.T.abs()
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("threshold", [-0.5, 0.1, 0.4, 2.0])
def test_suppression_against_a_slow_loop(threshold):
    direction = functional.normalize(noise(2, 30, 3), dim=-1)
    group, score = noise(2, 30, seed=1).gt(0).long(), noise(2, 30, seed=2)
    alive = suppress(direction, group, score, torch.full((2,), threshold))
    for image in range(2):
        left = set(range(30))
        for i in sorted(range(30), key=lambda i, image=image: -float(score[image, i])):
            if i in left:
                cosine = direction[image] @ direction[image, i]
                left -= {
                    j
                    for j in left
                    if j != i
                    and group[image, j] == group[image, i]
                    and cosine[j] > threshold
                    and score[image, j] < score[image, i]
                }
        assert alive[image].nonzero()[:, 0].tolist() == sorted(left)


@pytest.mark.parametrize(("keep", "spare"), [(1, 0), (5, 1), (17, 1), (29, 0), (30, 0)])
def test_quotas_give_what_is_asked(keep, spare):
    sizes, survivors = [10, 0, 12, 8], [3, 0, 1, 8]
    given = group_quotas(sizes, survivors, keep, spare)
    assert sum(given) >= keep
    assert all(count <= size for count, size in zip(given, sizes, strict=True))


@pytest.mark.parametrize("with_cls", [True, False])
@pytest.mark.parametrize("keep", [1, 2, 7, 40, 59])
def test_any_number_can_be_kept(with_cls, keep):
    taps = {"attention": noise(2, 3, 60, seed=1).softmax(-1)} | ({"cls": noise(2, 1, 8, seed=2)} if with_cls else {})
    context = vision_context((6, 10), noise(2, 60, 8), taps)
    decision = nuwa.load_pruner("prunesid").prune_vision(context, keep)
    assert decision.keep.shape == (2, keep)
    assert all(len(row.unique()) == keep for row in decision.keep)
    assert with_cls or torch.equal(decision.keep, decision.keep.sort(1).values)

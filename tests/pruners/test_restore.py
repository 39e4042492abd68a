"""RESTORE: golden data of its authors' code, and clusters by a slow loop."""

from statistics import median_low

import pytest
import torch
from helpers.families import FAMILIES
from helpers.golden_cases import Golden, golden_runs, noise, vision_context
from helpers.jobs import compose

import nuwa
from nuwa.config import run_key
from nuwa.engine.calibration import check_calibration
from nuwa.pruners.divprune import max_min
from nuwa.pruners.restore import find_anchors

LLAVA = FAMILIES["llava"]


def restored(features, keep, **options):
    return nuwa.load_pruner("restore", **options).prune_vision(
        vision_context((1, features.shape[1]), features, {}), keep
    )


@pytest.mark.parametrize(
    ("name", "run"),
    golden_runs("restore_n144", "restore_n576", only=lambda run: run.startswith("k") and "_" not in run),
)
def test_golden(name, run):
    case = Golden(name)
    params = case.params(run)
    decision = restored(case.inputs["features"][None], params["keep"], variant="release")
    start, end = params["visual_start"], params["visual_start"] + params["image_len"]
    text = [*range(start)], [*range(end, end + params["text_after"])]
    case.check(run, position_ids=torch.tensor([*text[0], *(decision.keep[0] + start).tolist(), *text[1]]))
    case.check(run, features=decision.projected[0], owner=decision.members[0], sizes=decision.members[0].bincount())


def slow(features, base, count, denser):
    """Clusters of original indices, the kept tokens as clusters of one, in raster order of their medians."""
    rest = [i for i in range(len(features)) if i not in base]
    direction = [features[i] / features[i].norm() for i in rest]
    cosine = [[float(torch.dot(a, b)) for b in direction] for a in direction]
    density = [sum(row) for row in cosine]
    score = []
    for i, row in enumerate(cosine):
        others = [row[j] for j in range(len(rest)) if (density[j] > density[i] if denser else density[j] < density[i])]
        score.append(density[i] * (1 - (max(others) if others else 0)))
    anchors = sorted(sorted(range(len(rest)), key=lambda i: -score[i])[:count])
    clusters = {a: [] for a in anchors}
    for i in range(len(rest)):
        clusters[i if i in anchors else max(anchors, key=lambda a, i=i: cosine[i][a])].append(rest[i])
    return sorted([[i] for i in base] + list(clusters.values()), key=median_low)


@pytest.mark.parametrize("variant", ["paper", "release"])
@pytest.mark.parametrize("keep", [1, 2, 9, 20])
def test_against_a_slow_loop(variant, keep):
    features = noise(2, 24, 5, seed=4) + 0.5
    decision = restored(features, keep, variant=variant)
    for number, (image, kept, states) in enumerate(zip(features, decision.keep, decision.projected, strict=True)):
        base = max_min(image, keep // 2).tolist() if keep > 1 else []
        clusters = slow(image, base, keep - keep // 2, variant == "paper")
        assert kept.tolist() == [median_low(members) for members in clusters]
        found = decision.members[number]
        assert [(found == slot).nonzero()[:, 0].tolist() for slot in range(keep)] == clusters
        expected = torch.stack([image[members].mean(0) for members in clusters])
        torch.testing.assert_close(states, expected)


def test_the_densest_token_is_an_anchor():
    """It has nothing denser to resemble; of the others one that is unlike it follows."""
    direction = torch.tensor([[[1.0, 0.0], [0.96, 0.28], [0.96, -0.28], [0.6, 0.8]]])
    assert find_anchors(direction, 1).tolist() == [[1]]
    assert find_anchors(direction, 2, denser=False).tolist() != find_anchors(direction, 2).tolist()


@pytest.mark.parametrize("base", ["vispruner", "holov"])
def test_the_base_can_be_another_method(base):
    features, taps = noise(1, 16, 6), {"attention": noise(1, 2, 16, seed=1).softmax(-1)}
    context = vision_context((4, 4), features, taps)
    kept = nuwa.load_pruner("restore", base=base).prune_vision(context, 8)
    assert set(nuwa.load_pruner(base).prune_vision(context, 4).keep[0].tolist()) <= set(kept.keep[0].tolist())


def test_an_unknown_base_is_refused():
    with pytest.raises(ValueError, match=r"pruner\.base=visionzip: must be 'divprune', 'vispruner' or 'holov'"):
        nuwa.load_pruner("restore", base="visionzip")


def test_native_ids_and_calibration_are_its_authors():
    """Named or not, they are one run; nothing else of other methods' runs is touched."""
    asked = [compose("pruner=restore", *more) for more in ([], ["position=median"], ["calibration=restore"])]
    assert len({run_key(cfg) for cfg in asked}) == 1
    assert run_key(compose("pruner=restore", "calibration=none")) != run_key(asked[0])
    assert run_key(compose("calibration=none")) == run_key(compose())
    model, inputs = LLAVA.model(), LLAVA.inputs("two")

    def logits(*more, **options):
        with torch.no_grad(), nuwa.prune(model, nuwa.load_pruner("restore", budget=20), *more, **options):
            return model(**inputs).logits[:, -1]

    assert torch.equal(logits(), logits("median", calibration="restore"))
    assert not torch.equal(logits(), logits("median", calibration="none"))
    assert not torch.equal(logits(), logits("perc", calibration="restore"))


def test_a_kernel_without_numbers_in_its_mask_is_refused_by_name():
    pruner = nuwa.load_pruner("restore", budget=20)
    with pytest.raises(ValueError, match=r"calibration\.kind=restore needs .* or calibration=none"):
        check_calibration(pruner.calibration_of(), pruner, "flash_attention_2")

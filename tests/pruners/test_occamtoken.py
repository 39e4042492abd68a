"""OccamToken: golden data (written from the paper), the register in a tower by hand, and what is refused."""

import json

import pytest
import torch
from helpers.families import FAMILIES
from helpers.golden_cases import Golden, golden_runs, noise, vision_context

import nuwa
from nuwa.analysis.register_neurons import find_neurons, most_active, outlier_activity, write_neurons
from nuwa.models import adapter_for
from nuwa.models.registers import shift_to_register
from nuwa.pruners.base import MisfitError
from nuwa.pruners.occamtoken import text_scores
from nuwa.pruning.budget import BudgetError

CASE = Golden("occamtoken")
LLAVA = FAMILIES["llava"]


def runs(start):
    return [run for _, run in golden_runs("occamtoken", only=lambda run: run.startswith(start))]


@pytest.mark.parametrize("run", runs("stage1"))
def test_golden_first_stage(run, tmp_path):
    if "received" in run:
        rows = CASE.inputs["attention"].mean(2)
        attention, register = rows[..., :-1], rows[..., -1:]
    else:
        rows = CASE.inputs["cls_row"]
        attention, register = rows[..., 1:-1], rows[..., -1:]
    features, feature = noise(1, attention.shape[-1], 3), noise(1, 1, 3, seed=1)
    taps = {"attention": attention, "register": register, "feature": feature}
    pruner = nuwa.load_pruner("occamtoken", adaptive=True, lambda1=CASE.params(run)["lambda1"])
    decision = pruner.prune_vision(vision_context((1, attention.shape[-1]), features, taps), attention.shape[-1])
    kept, count = decision.keep[0], int(decision.counts[0])
    CASE.check(run, kept=kept[: count - 1], score=decision.extras["salience"][0], register_score=register.mean(1)[0])
    assert int(kept[count - 1]) == min(set(range(len(features[0]))) - set(kept[: count - 1].tolist()))
    assert torch.equal(decision.features[0, count - 1], feature[0, 0])
    assert torch.equal(decision.features[0, : count - 1], features[0, kept[: count - 1]])


def second_stage(sample):
    visual, register = (CASE.inputs[f"text_to_{side}"][sample].mean(0) for side in ("visual", "register"))
    rows = torch.cat([visual, register[:, None]], 1)[None]
    mine = torch.ones_like(rows[:, 0], dtype=torch.bool)
    score, measure = text_scores(rows, torch.ones_like(rows[..., 0], dtype=torch.bool), mine, mine.sum(1) - 1)
    return score[0, :-1], measure[0]


@pytest.mark.parametrize("run", runs("stage2"))
def test_golden_second_stage(run):
    score, measure = second_stage(CASE.params(run)["sample"])
    kept = (score >= CASE.params(run)["lambda2"] * measure).nonzero()[:, 0]
    CASE.check(run, score=score, register_score=measure, kept=kept)


def test_golden_calibration_curve():
    stages = [second_stage(sample) for sample in range(10)]
    lambdas = CASE.params("calibration_curve")["lambdas"]
    counts = torch.tensor([[int((score >= x * measure).sum()) for score, measure in stages] for x in lambdas])
    CASE.check("calibration_curve", counts=counts)


def test_golden_register():
    """(register_shift_code is the rule of the other paper's code: one number for all channels.)"""
    params = CASE.params("register_shift")
    CASE.check("register_shift", mlp=shift_to_register(CASE.inputs["mlp"][None], params["channels"], cls=True)[0])


def test_golden_neurons():
    params = CASE.params("register_neurons")
    images = zip(CASE.inputs["calib_act"], CASE.inputs["calib_out"], strict=True)
    found = [outlier_activity(*image, params["norm_threshold"]) for image in images]
    activity = [activity for activity in found if activity is not None]
    assert len(activity) < len(found)
    neurons = most_active(activity, params["top"], params["last_layer"])
    CASE.check("register_neurons", neurons=torch.tensor(neurons), score=torch.stack(activity).mean(0))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Neurons of the toy tower: three channels in two layers."""
    tower = adapter_for(LLAVA.model()).tower
    path = tmp_path_factory.mktemp("neurons") / "neurons.json"
    content = {"tower": tower.kind, "sizes": dict(tower.sizes), "neurons": [[0, 3], [1, 7], [0, 20]]}
    write_neurons(path, content)
    return path


def by_hand(pixels, neurons):
    """CLIP with a register, layer by layer: CLS attention (H, N + 2) and states (N + 2, D) of the last but one."""
    vision = LLAVA.model().model.vision_tower
    states = vision.pre_layrnorm(vision.embeddings(pixels[None]))
    states = torch.cat([states, torch.zeros_like(states[:, :1])], 1)
    for number, layer in enumerate(vision.encoder.layers[:-1]):
        normed, attention = layer.layer_norm1(states), layer.self_attn
        q, k, v = (
            part(normed)[0].unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        weights = (q @ k.mT * attention.head_dim**-0.5).softmax(-1)
        states = states + attention.out_proj((weights @ v).transpose(0, 1).flatten(1))[None]
        active = layer.mlp.activation_fn(layer.mlp.fc1(layer.layer_norm2(states)))
        for channel in [c for at, c in neurons if at == number]:
            active[0, -1, channel] = active[0, 1:-1, channel].max()
            active[0, 1:-1, channel] = 0
        states = states + layer.mlp.fc2(active)
    return weights[:, 0], states[0]


@torch.no_grad()
def test_the_tower_runs_with_a_register(file):
    """Layer after layer by hand: which patches stay, and what enters the LLM."""
    model, seen = LLAVA.model(), []
    neurons = json.loads(file.read_text())["neurons"]
    pruner = nuwa.load_pruner("occamtoken", budget=20, register=str(file))
    with nuwa.prune(model, pruner) as session:
        hook = model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
        model(**LLAVA.inputs("two"))
        hook.remove()
    for pixels, image in zip(LLAVA.pictures(1, 2)["pixel_values"], session.report().images, strict=True):
        row, states = by_hand(pixels, neurons)
        kept, entering = image.stages[0][1], pruner.schedule(64, 6).vision
        best = sorted(row.mean(0)[1:-1].argsort(descending=True)[: entering - 1].tolist())
        assert kept == [*best, min(set(range(64)) - set(best))]
        expected = model.model.multi_modal_projector(torch.cat([states[1:-1][best], states[-1:]]))
        distance = torch.cdist(expected, seen[0][0], compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        torch.testing.assert_close(distance, torch.zeros_like(distance), atol=1e-5, rtol=0)
        assert len(image.stages) == 2 and kept[-1] in image.stages[1][1]  # the register survives both


@torch.no_grad()
def test_an_idle_tower_has_no_register(file):
    """Outside a session, and with methods that do not ask for one, features are as ever."""
    model, pixels = LLAVA.model(), LLAVA.pictures(0)["pixel_values"]
    before = model.model.get_image_features(pixel_values=pixels).pooler_output[0]
    with nuwa.prune(model, nuwa.load_pruner("occamtoken", budget=20, register=str(file))):
        model(**LLAVA.inputs("middle"))
    assert torch.equal(model.model.get_image_features(pixel_values=pixels).pooler_output[0], before)


@torch.no_grad()
@pytest.mark.parametrize("register", [True, False])
def test_images_decide_alike_alone_and_in_a_batch(register, file):
    options = {"register": str(file), "lambda1": 0.9} if register else {"lambda1": 1.0, "lambda2": 1.1}
    model, pruner = LLAVA.model(), nuwa.load_pruner("occamtoken", adaptive=True, **options)
    with nuwa.prune(model, pruner) as session:
        together = model(**LLAVA.inputs("middle", "two", numbered=True)).logits
        counts = [image.per_layer for image in session.report().images]
        alone = model(**LLAVA.inputs("two", numbered=True)).logits
        assert [image.per_layer for image in session.report().images] == counts[1:]
    torch.testing.assert_close(together[1, -alone.shape[1] :], alone[0], atol=2e-6, rtol=0)
    assert len({tuple(count) for count in counts}) > 1 and max(count[0] for count in counts) < 64


class Loaded:
    """The toy model as `LoadedModel` is asked."""

    model = LLAVA.model()

    def encode(self, samples):
        return LLAVA.pictures(*samples)


def test_a_tower_without_outliers_is_refused_by_name():
    with pytest.raises(ValueError, match=r"none of 2 images has a patch with a norm above --threshold 1e\+06 .* is \d"):
        find_neurons(Loaded(), [0, 1], threshold=1e6)
    found = find_neurons(Loaded(), [0, 1], threshold=0.0, top=4, depth=0.5)
    assert len(found["neurons"]) == 4 and all(layer < 2 for layer, _ in found["neurons"])
    assert found["images_with_outliers"] == 2


def test_what_does_not_fit_is_refused_by_name(file, tmp_path):
    for family in ("llava_next", "qwen2_5_vl"):
        with pytest.raises(MisfitError, match=r"a register takes a CLIP tower .*; use pruner\.register=none"):
            nuwa.prune(FAMILIES[family].model(), nuwa.load_pruner("occamtoken", register=str(file)))
    content = json.loads(file.read_text())
    write_neurons(tmp_path / "other.json", content | {"sizes": {"hidden_size": 1}})
    with pytest.raises(MisfitError, match=r"pruner\.register=.*other\.json is about a clip_vision_model"):
        nuwa.prune(LLAVA.model(), nuwa.load_pruner("occamtoken", register=str(tmp_path / "other.json")))
    (tmp_path / "broken.json").write_text("[1]")
    for name in ("broken.json", "missing.json"):
        with pytest.raises(ValueError, match=rf"pruner\.register=.*{name} is no file of neurons"):
            nuwa.prune(LLAVA.model(), nuwa.load_pruner("occamtoken", register=str(tmp_path / name)))
    with pytest.raises(BudgetError, match="the image decides"):
        nuwa.load_pruner("occamtoken", budget=64, adaptive=True).schedule(576, 32)

"""Every method of conf/pruner through the engine: batches, beams, several images; and against plain decoding."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.families import FAMILIES, PLAIN, PROMPTS
from helpers.methods import CASES, METHODS, UNSUITED, pruner_for
from helpers.support import plain_attention, plain_decode, positions_of, tapped, tapped_features

import nuwa
from nuwa.models import adapter_for
from nuwa.pruners.base import MisfitError, VisionContext
from nuwa.pruning.budget import Budget

REORDER = ("composed", "dart", "flashvid", "nuwa", "nuwa_release", "prumerge", "sparsevlm", "visionzip")
REORDER += ("holitom", "prunesid", "prunevid", "restore", "tofu", "vlm_pruner")
"""Methods that merge tokens or change their order."""
CHAOTIC = ("tofu", "vlm_pruner")
"""Methods of which every choice depends on all before it: one that falls otherwise moves many that follow."""
BATCH = ("middle", "two", "last")
"""Three prompts of different lengths with 1, 2 and 1 images."""
LLAVA = FAMILIES["llava"]
LATER = {("llava_onevision", method) for method in METHODS if method not in ("nuwa", "visionzip", "fastv", "sparsevlm")}
"""Cases that differ from LLaVA-NeXT's in what is read off the tower only."""

pytestmark = pytest.mark.filterwarnings("ignore:llava_onevision interpolates")


def every(leave_out=()):
    """A test of every method, ``leave_out`` apart, on every family that suits it."""
    cases = [case for case in CASES if case[1] not in leave_out]
    cases = [pytest.param(*case, marks=pytest.mark.slow) if case in LATER else case for case in cases]
    return pytest.mark.parametrize(("family", "name"), cases, indirect=["family"])


@pytest.fixture(scope="module")
def model():
    return LLAVA.model()


@pytest.fixture
def family(request):
    return FAMILIES[request.param]


def inputs_for(*rows: int, numbered: bool = False):
    return LLAVA.inputs(*(BATCH[row] for row in rows), numbered=numbered)


ROUNDING = {name: 2e-6 for name in FAMILIES} | {"qwen3_5": 5e-6}
"""Of logits up to 0.6. Qwen3.5's linear layers sum in chunks: with AVX2 rows of the unpruned model differ by 8e-7 from
rows alone (LLaVA's by 1e-7), and after the stages of PyramidDrop by 3e-6."""


@every()
def test_a_batch_equals_its_rows_alone(family, name):
    """Positions do not depend on the method (test_session.py has all): native and RPME take turns."""
    turn = METHODS.index(name) + list(FAMILIES).index(family.name)
    model, pruner, position = family.model(), pruner_for(name, family), ("native", "rpme")[turn % 2]
    with torch.no_grad(), nuwa.prune(model, pruner, position):
        # DART looks at rotated keys, which depend on where the count of positions begins
        together = model(**family.inputs(*BATCH, numbered=True)).logits
        for row, prompt in enumerate(BATCH):
            alone = model(**family.inputs(prompt, numbered=True)).logits
            torch.testing.assert_close(together[row, -alone.shape[1] :], alone[0], atol=ROUNDING[family.name], rtol=0)


def generate(family, name, **options):
    """A batch generates what its second row does alone, and the same without a cache."""
    model, options = family.model(), {"max_new_tokens": 3, "do_sample": False, **options}
    with torch.no_grad(), nuwa.prune(model, pruner_for(name, family)):
        together = model.generate(**family.inputs(*BATCH), **options)
        uncached = model.generate(**family.inputs(*BATCH), use_cache=False, **options)
        assert torch.equal(model.generate(**family.inputs("two"), **options)[0, -3:], together[1, -3:])
    assert torch.equal(uncached, together)


@every()
def test_generation_equals_rows_alone_and_no_cache(family, name):
    generate(family, name)


@every(leave_out=set(METHODS) - set(REORDER))
def test_beams_equal_rows_alone_and_no_cache(family, name):
    generate(family, name, num_beams=3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("family", "name"),
    [("llava", name) for name in METHODS] + [(f, m) for f in FAMILIES if f != "llava" for m in ("nuwa", "sparsevlm")],
    indirect=["family"],
)
def test_half_precision_keeps_about_the_same_tokens(family, name, dtype):
    """Real checkpoints run in it: no type may be mixed, no score may overflow; ties of few bits may fall otherwise."""
    half, inputs, stages = family.model("sdpa", dtype), family.inputs(*BATCH), []
    for model in (half, copy.deepcopy(half).float()):
        pixels = inputs["pixel_values"].to(dtype).to(model.dtype)
        with torch.no_grad(), nuwa.prune(model, pruner_for(name, family), "rpme") as session:
            logits = model(**inputs | {"pixel_values": pixels}).logits[:, -1]
        assert logits.dtype == model.dtype
        assert logits.isfinite().all()
        stages.append([kept for image in session.report().images for _, kept, _ in image.stages])
    for kept, expected in zip(*stages, strict=True):
        assert len(kept) == len(expected) or family is not LLAVA  # newlines stay with the rows
        shared = len(set(kept) & set(expected))
        assert shared >= 0.6 * len(expected) or family is not LLAVA or name in CHAOTIC


@pytest.mark.parametrize(("family", "name"), [(f, m) for m in UNSUITED for f in UNSUITED[m]], indirect=["family"])
def test_methods_that_do_not_fit_are_refused_before_the_first_call(family, name):
    needed = "one fixed image size" if name == "downsample" else "CLS token"
    for method in (nuwa.load_pruner(name), nuwa.load_pruner("composed", vision=name)):
        with pytest.raises(MisfitError, match=f"pruner {name} .*{needed}"):
            nuwa.prune(family.model(), method)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_measured_tokens_meet_the_budget(model, name):
    pruner = pruner_for(name, LLAVA)
    with torch.no_grad(), nuwa.prune(model, pruner) as session:
        model(**inputs_for(0, 1))
    report = session.report()
    shape = adapter_for(model).shape
    assert report.images_seen == 3
    assert report.tokens_per_layer == pruner.schedule(64, shape.layers).per_layer(shape.layers)
    assert abs(report.average_entering - 20) <= 0.5


@every(leave_out=["none"])
def test_patches_meet_the_budget_at_any_image_size(family, name):
    """Newlines are not counted; pooled grids come as close as their shapes can, the release counts by tiles."""
    model, pruner = family.model(), pruner_for(name, family)
    with torch.no_grad(), nuwa.prune(model, pruner) as session:
        model(**family.inputs(*BATCH))
    pictures = [number for prompt in BATCH for number in PROMPTS[prompt][1]]
    for number, image in zip(pictures, session.report().images, strict=True):
        patches = {token for view in family.patches(number) for token in view}
        counts = [0] * 6
        for layer, kept, _ in image.stages:
            counts[layer:] = [len(patches & set(kept))] * (6 - layer)
        planned = pruner.schedule_on(len(patches), session.adapter.shape).per_layer(6)
        slack = 4 if name in ("pooling", "grid", "nuwa_release") and family is not LLAVA else 0
        assert max(abs(a - b) for a, b in zip(counts, planned, strict=True)) <= slack


MAKES_FEATURES = {"visionzip", "composed", "nuwa", "nuwa_release", "nuwa_release_qwen"}  # even when nothing is dropped


@every(leave_out=MAKES_FEATURES)
def test_keeping_everything_is_bit_equal_to_the_unpruned_model(family, name):
    model, inputs = family.model(), family.inputs("middle", "two", numbered=True)
    position = "native" if family.name in PLAIN else "pesp"  # one shared rank, PERC, renumbers tokens on three axes
    with torch.no_grad():
        expected = model(**inputs).logits
        with nuwa.prune(model, nuwa.load_pruner(name), position):
            assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
@pytest.mark.parametrize("options", [{"vision": "divprune", "llm": "sparsevlm"}, {"vision": "nuwa", "llm": "dart"}])
def test_other_compositions(family, options):
    """Tokens that a vision stage reordered or made, and an LLM stage merges or drops."""
    model, pruner = family.model(), nuwa.load_pruner("composed", budget=Budget(ratio=0.32), **options)
    with torch.no_grad(), nuwa.prune(model, pruner) as session:
        together = model.generate(**family.inputs(*BATCH), max_new_tokens=3, do_sample=False)
        uncached = model.generate(**family.inputs(*BATCH), max_new_tokens=3, do_sample=False, use_cache=False)
    assert torch.equal(together, uncached)
    if family is LLAVA:
        assert session.report().tokens_per_layer == pruner.schedule(64, 6).per_layer(6)


@pytest.mark.parametrize("name", ["prumerge", "sparsevlm"])
def test_methods_that_let_images_decide(model, name):
    with torch.no_grad(), nuwa.prune(model, nuwa.load_pruner(name, adaptive=True)) as session:
        together = model.generate(**inputs_for(0, 1, 2), max_new_tokens=3, do_sample=False)
        counts = [image.per_layer[-1] for image in session.report().images]
        assert torch.equal(model.generate(**inputs_for(1), max_new_tokens=3, do_sample=False)[0, -3:], together[1, -3:])
    assert len(set(counts)) > 1
    assert max(counts) < 30


def features_of(model, images):
    with torch.no_grad():
        return model.model.get_image_features(pixel_values=images).pooler_output


@pytest.mark.parametrize("position", ["perc", "pesp", "rpme"])
def test_fastv_against_whole_attention_maps(model, position):
    """Scores from the full map of the layer before, by a sequence walked without hooks."""
    ids, images = LLAVA.ids("two"), LLAVA.pictures(1, 2)
    pruner = nuwa.load_pruner("fastv", budget=40, layer=1 / 3)
    keep = dict(pruner.schedule(64, 6).llm)
    before: dict[str, torch.Tensor] = {}

    def observe(hidden, entries):
        before.update(hidden=hidden)
        return list(range(len(entries)))

    def choose(hidden, entries):
        lm = model.model.language_model
        position_ids = torch.tensor(positions_of(position, entries, [64, 64]))
        row = plain_attention(lm, lm.layers[1], before["hidden"], position_ids)[:, -1].mean(0)
        return _best(row, entries, keep[2])

    everything = [list(range(64))] * 2
    tokens, logits = plain_decode(model, ids, images, everything, {1: observe, 2: choose}, position, 6)
    _check(model, pruner, position, ids, images, tokens, logits)


@pytest.mark.parametrize("position", ["perc", "pesp", "rpme"])
def test_nuwa_against_plain_decoding(model, position):
    """Stage 1 from a direct call of the method, everything else by hand; stage 2 by a cosine loop."""
    ids, images = LLAVA.ids("two"), LLAVA.pictures(1, 2)
    pruner = nuwa.load_pruner("nuwa", budget=20)
    schedule = pruner.schedule(64, 6)
    adapter = adapter_for(model)
    with torch.no_grad(), adapter.record(list(pruner.taps.values()), images) as recording:
        features = list(model.model.get_image_features(**images).pooler_output)
        taps = {name: tapped(recording, tap, 2) for name, tap in pruner.taps.items()}
        context = VisionContext((8, 8), tapped_features(recording, 2), taps, "ab", None)
        decision = pruner.prune_vision(context, schedule.vision)
        for i in range(2):
            features[i] = features[i].clone()
            features[i][decision.keep[i]] = model.model.multi_modal_projector(decision.features[i])

    def choose(hidden, entries):
        first = next(i for i, entry in enumerate(entries) if entry[1] >= 0)
        text = [hidden[i] for i, entry in enumerate(entries) if entry[1] < 0 and i > first]
        mean = torch.stack(text).mean(0)
        score = torch.stack([torch.dot(h, mean) / (h.norm() * mean.norm()) for h in hidden])
        return _best(score, entries, dict(schedule.llm)[3])

    tokens, logits = plain_decode(
        model, ids, images, decision.keep.tolist(), {3: choose}, position, 6, features=features
    )
    _check(model, pruner, position, ids, images, tokens, logits)


@pytest.mark.parametrize("position", ["perc", "rpme"])
def test_downsampling_against_the_tower_on_small_images(model, position):
    ids, images = LLAVA.ids("two"), LLAVA.pictures(1, 2)
    small = torch.nn.functional.interpolate(images["pixel_values"], (16, 20), mode="bicubic", antialias=True)
    with torch.no_grad():
        tower = model.model.vision_tower(small, interpolate_pos_encoding=True, output_hidden_states=True)
        projected = model.model.multi_modal_projector(tower.hidden_states[-2][:, 1:])
    # 4 x 5 cells of the 8 x 8 grid
    places = [8 * row + column for row in (1, 3, 5, 7) for column in (0, 2, 4, 5, 7)]
    features = [torch.zeros(64, 48).index_copy(0, torch.tensor(places), image) for image in projected]
    tokens, logits = plain_decode(model, ids, images, [places] * 2, {}, position, 6, features=features)
    _check(model, nuwa.load_pruner("downsample", budget=20), position, ids, images, tokens, logits)


def _best(score, entries, keep):
    stay = [i for i, entry in enumerate(entries) if entry[1] < 0]
    for image in {entry[1] for entry in entries} - {-1}:
        mine = sorted((i for i, e in enumerate(entries) if e[1] == image), key=lambda i: -float(score[i]))
        stay += mine[:keep]
    return sorted(stay)


def _check(model, pruner, position, ids, images, tokens, logits):
    with torch.no_grad(), nuwa.prune(model, pruner, position):
        out = model.generate(
            **LLAVA.inputs("two"),
            max_new_tokens=6,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    torch.testing.assert_close(torch.cat(out.logits), logits, atol=2e-6, rtol=0)
    assert out.sequences[0, len(ids) :].tolist() == tokens


def test_tokens_reach_the_llm_in_the_order_of_the_method(model):
    """VisionZip emits CLS, dominant, merged tokens; under PERC their ids count up in that order."""
    pruner = nuwa.load_pruner("visionzip", budget=20)
    with torch.no_grad(), nuwa.prune(model, pruner) as session:
        model(**inputs_for(0))
    (layer, kept, positions) = session.report().images[0].stages[0]
    assert (layer, len(kept), len(set(kept))) == (0, 20, 20)
    assert kept != sorted(kept)
    start = LLAVA.ids("middle").index(4)
    assert positions == list(range(start, start + 20))


@pytest.mark.parametrize("name", ["random", "nuwa"])
def test_randomness_comes_from_the_image_and_the_seed(model, name):
    options = {"random": True} if name == "nuwa" else {}

    def kept(seed, ids):
        pruner = nuwa.load_pruner(name, budget=20, seed=seed, **options)
        with torch.no_grad(), nuwa.prune(model, pruner) as session, session.about(ids):
            model(**inputs_for(0))
        return session.report().images[0].stages

    assert kept(0, ["a"]) == kept(0, ["a"]) == kept(0, ["a"])
    assert kept(0, ["a"]) != kept(1, ["a"])
    assert kept(0, ["a"]) != kept(0, ["b"])
    assert kept(0, None) == kept(0, None)

"""Calibration and median ids in the engine: against a hand loop with whole attention maps, and batch against rows."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from helpers.families import FAMILIES
from helpers.family import PROMPTS, run
from helpers.support import plain_decode

import nuwa
from nuwa.engine.arguments import cache_of
from nuwa.engine.calibration import check_calibration
from nuwa.engine.calls import read_prompt_once
from nuwa.engine.conversation import conversation_of
from nuwa.pruners.base import LLMDecision, MisfitError
from nuwa.pruning.budget import Budget

pytestmark = pytest.mark.filterwarnings("ignore:llava_onevision interpolates")

LLAVA, STEPS = FAMILIES["llava"], 4
CALIBRATED = [name for name in FAMILIES if name != "qwen3_5"]
"""All whose every layer has attention to calibrate; test_linear_layers.py has the refusal."""
BUDGETS = {"visionzip": 16, "nuwa": 20, "pooling": 20, "prumerge": 16, "sparsevlm": 32, "restore": 16, "composed": 24}
"""Methods that merge before the LLM and inside it, with equal shares or weights of their own, and their budgets."""


def method(name, family=LLAVA):
    """A method of `BUDGETS`; composed is a merging one before the LLM and another one inside it."""
    parts = {"vision": "visionzip", "llm": "sparsevlm"} if name == "composed" else {}
    return nuwa.load_pruner(name, Budget(BUDGETS[name]) if family is LLAVA else Budget(ratio=0.4), **parts)


class ByHand:
    """One prompt of LLaVA's as a session decided about it: sizes and members token by token, from its decisions."""

    def __init__(self, name, prompt, position, kind):
        self.ids, self.kind, self.position = LLAVA.ids(prompt), kind, position
        self.images, self.model = LLAVA.pictures(*PROMPTS[prompt][1]), LLAVA.model()
        self.vision, self.llm, pruner = [], [], method(name)
        for stage, seen in (("prune_vision", self.vision), ("prune_llm", self.llm)):
            setattr(pruner, stage, self.spy(getattr(pruner, stage), seen))
        options = {"max_new_tokens": STEPS, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        with torch.no_grad(), nuwa.prune(self.model, pruner, position, calibration=kind) as session:
            out = self.model.generate(**LLAVA.inputs(prompt), **options)
        self.report, self.found = session.report(), torch.cat(out.logits)
        self.starts = [i for i, (a, b) in enumerate(zip([0, *self.ids], self.ids, strict=False)) if b == 4 != a]
        self.groups = {0: {s + t: (1.0, [s + t]) for s in self.starts for t in range(64)}}

    @staticmethod
    def spy(decide, seen):
        def decided(context, keep):
            seen.append((context, decide(context, keep)))
            return seen[-1][1]

        return decided

    def before(self):
        """Kept tokens and features of each image, from the decisions of the vision stage."""
        keep, features = [list(range(64)) for _ in self.starts], self.model.model.get_image_features(**self.images)
        features = [image.clone() for image in features.pooler_output]
        for _, decision in self.vision:
            projected = decision.projected
            if decision.features is not None:
                projected = self.model.model.multi_modal_projector(decision.features)
            for image, start in enumerate(self.starts):
                keep[image] = decision.keep[image].tolist()
                members = decision.members[image].tolist()
                for slot, token in enumerate(keep[image]):
                    features[image][token] = projected[image, slot]
                    mine = [start + cell for cell, into in enumerate(members) if into == slot]
                    size = max(1, len(mine)) if decision.sizes is None else float(decision.sizes[image, slot])
                    self.groups[0][start + token] = size, mine
        return keep, features

    def stage(self, context, decision):
        """A stage of the LLM as `plain_decode` takes it, which notes what became of sizes and members."""
        decision = decision if isinstance(decision, LLMDecision) else LLMDecision(decision)

        def choose(hidden, entries):
            places, groups = [entry[0] for entry in entries], dict(self.at(context.layer))
            if decision.members is not None:
                into = decision.members[0].tolist()
                for slot in {column for column in into if column >= 0}:
                    whole = [groups[places[column]] for column, other in enumerate(into) if other == slot]
                    groups[places[slot]] = sum(size for size, _ in whole), [m for _, mine in whole for m in mine]
            self.groups[context.layer] = groups
            stay = [i for i, entry in enumerate(entries) if entry[1] < 0 or decision.keep[0, i]]
            if decision.order is not None:
                stay.sort(key=lambda i: int(decision.order[0, i]))
            return stay, {} if decision.hidden is None else {i: decision.hidden[0, i] for i in stay}

        return choose

    def at(self, layer):
        return self.groups[max(start for start in self.groups if start <= layer)]

    def ids_of(self, layer, entries):
        mine = [self.at(layer)[place][1] if image >= 0 else [] for place, image, _ in entries]
        if self.position == "pesp":
            return [place for place, _, _ in entries]
        return [statistics.median_low(m) if m else place for m, (place, _, _) in zip(mine, entries, strict=True)]

    def bias(self, layer, entries, positions):
        images = [image for _, image, _ in entries]
        size = [self.at(layer)[place][0] if image >= 0 else 1 for place, image, _ in entries]
        if self.kind == "restore" and layer == 0:
            size = [1 if image < 0 else 64 / images.count(image) for image in images]
        added = torch.tensor([[math.log(s) for s in size]] * len(entries))
        if self.kind != "restore":
            return added
        theta = self.model.model.language_model.config.rope_parameters["rope_theta"]
        for i, (place, _, _) in enumerate(entries):
            for j in range(i + 1 if place < len(self.ids) else 0):  # where the prompt is read
                angles = [(positions[i] - positions[j]) * theta ** (-k / 8) for k in range(8)]
                added[i, j] += math.log(2 - statistics.fmean(map(math.cos, angles)))
        return added

    def logits(self):
        keep, features = self.before()
        stages = {context.layer: self.stage(context, decision) for context, decision in self.llm}
        bias = None if self.kind == "none" else self.bias
        args = self.model, self.ids, self.images, keep, stages, self.ids_of, STEPS, features, bias
        return plain_decode(*args)[1]


@torch.no_grad()
@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize(("position", "kind"), [("median", "none"), ("pesp", "size"), ("median", "restore")])
def test_against_a_hand_loop(name, position, kind):
    hand = ByHand(name, "two", position, kind)
    torch.testing.assert_close(hand.found, hand.logits(), atol=5e-6, rtol=0)
    assert any(size != 1 for groups in hand.groups.values() for size, _ in groups.values())
    assert (hand.report.mask_bytes > 0) == (kind != "none")


@pytest.mark.parametrize("family", CALIBRATED)
@pytest.mark.parametrize("name", ["nuwa", "composed"])
@pytest.mark.parametrize(("position", "kind"), [("median", "size"), ("pesp", "restore")])
def test_a_batch_equals_its_rows_alone_cached_or_not(family, name, position, kind):
    """Beams and several images of a prompt, an LLM stage that merges, and what a second forward recalls of it."""
    family, names, options = FAMILIES[family], ("middle", "two", "last"), {"max_new_tokens": 3, "do_sample": False}
    model = family.model()
    with torch.no_grad(), nuwa.prune(model, method(name, family), position, share=True, calibration=kind):
        logits = model(**family.inputs(*names, numbered=True)).logits
        for row, prompt in enumerate(names):
            alone = model(**family.inputs(prompt, numbered=True)).logits[0]
            torch.testing.assert_close(logits[row, -len(alone) :], alone, atol=5e-6, rtol=0)
        together = model.generate(**family.inputs(*names), num_beams=2, **options)
        assert torch.equal(model.generate(**family.inputs(*names), num_beams=2, use_cache=False, **options), together)
        assert torch.equal(model.generate(**family.inputs("two"), num_beams=2, **options)[0, -3:], together[1, -3:])


@torch.no_grad()
@pytest.mark.parametrize("family", CALIBRATED)
def test_eager_attention_and_half_precision(family):
    family, seen = FAMILIES[family], {}
    for attention, dtype in (("sdpa", torch.float32), ("eager", torch.float32), ("sdpa", torch.bfloat16)):
        model = family.model(attention, dtype)
        inputs = family.inputs("middle", "two")
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        with nuwa.prune(model, method("visionzip", family), "median", calibration="restore"):
            seen[attention, dtype] = model(**inputs).logits[:, -1]
        with nuwa.prune(model, method("visionzip", family), "median"):
            assert (model(**inputs).logits[:, -1] - seen[attention, dtype]).abs().max() > 1e-3
    torch.testing.assert_close(*list(seen.values())[:2], atol=5e-6, rtol=0)
    assert seen["sdpa", torch.bfloat16].isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("family", CALIBRATED)
def test_median_ids_on_every_axis(family):
    """A merged token's ids are the lower medians of its members' on every axis; text and followers keep theirs."""
    family = FAMILIES[family]
    with nuwa.prune(family.model(), method("visionzip", family), "median") as session:
        state = conversation_of(cache_of(read_prompt_once(session, family.inputs("middle", "two"))))
    segment, whole, moved = state.tables[0], state.prompt.whole, 0
    for row, plans in enumerate(state.prompt.rows):
        for column in segment.valid[row].nonzero()[:, 0].tolist():
            place, image = int(segment.index[row, column]), int(segment.image[row, column])
            members = [place]
            if image >= 0:
                token, start = int(segment.token[row, column]), place - int(segment.token[row, column])
                members = [
                    start + t for t, into in enumerate(plans[image].members.tolist()) if into == token
                ] or members
            for axis in range(len(segment.ids)):
                expected = statistics.median_low(whole.original[axis, row, members].tolist())
                assert segment.ids[axis, row, column] == expected
            moved += len(members) > 1
    assert moved >= 3


def test_what_merges_nothing_is_refused():
    for pruner in (nuwa.load_pruner("divprune", 20), nuwa.load_pruner("composed", 24, vision="divprune", llm="fastv")):
        with pytest.raises(MisfitError, match=rf"calibration\.kind=size is for .* which pruner {pruner.name} does not"):
            nuwa.prune(LLAVA.model(), pruner, calibration="size")
        with pytest.raises(MisfitError, match=rf"position\.strategy=median is for .* {pruner.name} does not"):
            nuwa.prune(LLAVA.model(), pruner, "median")


def test_kernels_without_masks_of_numbers_are_refused():
    with pytest.raises(ValueError, match=r"calibration\.kind=restore needs .* model\.attention=flash_attention_2 does"):
        check_calibration("restore", method("nuwa"), "flash_attention_2")
    check_calibration("none", method("nuwa"), "flash_attention_2")
    with pytest.raises(ValueError, match=r"calibration\.kind=sizes: expected one of native, none, size, restore"):
        nuwa.prune(LLAVA.model(), method("nuwa"), calibration="sizes")


@torch.no_grad()
def test_nothing_merged_weighs_nothing():
    """Every token kept: the mask of numbers holds zeros. RESTORE's layer 0 has a mask of its own."""
    model, inputs = LLAVA.model(), LLAVA.inputs("middle", "two")
    expected, real = run(model, inputs), inputs["attention_mask"].bool()
    for kind, masks in (("size", 1), ("restore", 2)):
        with nuwa.prune(model, nuwa.load_pruner("pooling"), calibration=kind) as session:
            found = model(**inputs).logits
        assert session.report().mask_bytes == masks * real.numel() * real.shape[1] * 4
        assert torch.allclose(found[real], expected[real], atol=2e-6) == (kind == "size")

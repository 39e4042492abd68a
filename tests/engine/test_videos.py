"""Videos: images with a time axis, alone, beside pictures and in batches; what closes them always stays."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from helpers.family import generate, run
from helpers.methods import pruner_for
from helpers.support import Fixed
from helpers.video_prompts import NAMES, VIDEO, Clips
from torch.nn.functional import interpolate

import nuwa
from nuwa.engine.guards import SessionError
from nuwa.models import adapter_for
from nuwa.pruners.base import LLMDecision, Tap, VisionDecision
from nuwa.pruning.budget import Budget
from nuwa.pruning.entering import read_prompt
from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.schedules import Schedule
from nuwa.pruning.segments import ImagePlan

BATCHES = [("video",), ("picture first",), ("two", "video first", "video")]


@pytest.fixture(params=NAMES)
def clips(request):
    return Clips(request.param)


def kept(clips, pruner, given, position="pesp", ids=None):
    """Logits of the last token, and the report about each image."""
    with torch.no_grad(), nuwa.prune(clips.model(), pruner, position) as session, session.about(ids):
        logits = clips.model()(**given).logits[:, -1]
    return logits, session.report().images


class TestKeepAll:
    @pytest.mark.parametrize("kernel", ["sdpa", "eager"])
    @pytest.mark.parametrize("prompts", BATCHES, ids=" + ".join)
    def test_logits_are_the_unpruned_models(self, clips, kernel, prompts):
        given, model = clips.inputs(*prompts), clips.model(kernel)
        real = given["attention_mask"].bool()
        assert torch.equal(run(model, given)[real], run(model, given, nuwa.load_pruner("none"))[real])

    @pytest.mark.parametrize("beams", [1, 2])
    def test_generated_tokens_are_the_unpruned_models(self, clips, beams):
        given = clips.inputs("two", "video first", "video")
        found, expected = (
            generate(clips.model(), given, one, num_beams=beams) for one in (nuwa.load_pruner("none"), None)
        )
        assert torch.equal(found, expected)


class TestOrder:
    def test_plans_stand_as_in_the_prompt(self, clips):
        """Names go to pictures first, then to videos; the report is in the order of the prompt."""
        names = ["picture", "another", "film", "clip", "end"]
        given = clips.inputs("picture first", "video first", "video")
        _, images = kept(clips, nuwa.load_pruner("none"), given, ids=names)
        assert [(image.row, image.id) for image in images] == [
            (0, "picture"), (0, "film"), (1, "clip"), (1, "another"), (2, "end")]  # fmt: skip
        assert images[1].n_tokens == clips.tokens

    @pytest.mark.parametrize("copies", [1, 2])
    def test_visuals_of_two_kinds(self, copies):
        row = [1, 0, 2, 2, 0, 1, 1, 2, 2]
        kinds = torch.tensor([row, row[::-1]]).repeat_interleave(copies, 0)
        layouts = {"image": ImageLayout.single((1, 1)), "video": ImageLayout.single((1, 1), 2)}
        plans = {
            kind: [ImagePlan(f"{kind} {n}", layout, Schedule(1)) for n in range(6 if kind == "image" else 4)]
            for kind, layout in layouts.items()
        }
        valid, ids = torch.ones_like(kinds, dtype=torch.bool), torch.arange(9).expand(1, len(kinds), 9)
        prompt = read_prompt({"image": kinds == 1, "video": kinds == 2}, valid, ids, plans)
        found = [[plan.id for plan in row] for row in prompt.rows[::copies]]
        assert found == [["image 0", "video 0", "image 1", "image 2", "video 1"],
                         ["video 2", "image 3", "image 4", "video 3", "image 5"]]  # fmt: skip
        assert prompt.expanded == copies and prompt.rows[0] == prompt.rows[copies - 1]

    def test_videos_without_their_placeholders_are_refused(self, clips):
        given = clips.inputs("picture first")
        given["input_ids"] = given["input_ids"].masked_fill(given["input_ids"] == VIDEO, 9)
        with pytest.raises((ValueError, SessionError), match=r"[Vv]ideo"):
            run(clips.model(), given, Fixed(2))

    def test_placeholders_without_videos_are_refused(self, clips):
        given = {name: x for name, x in clips.inputs("picture first").items() if "video" not in name}
        given.pop("second_per_grid_ts", None)
        given.pop("mm_token_type_ids", None)
        with pytest.raises((ValueError, SessionError), match="video placeholders"):
            run(clips.model(), given, Fixed(2))
        alone = {"input_ids": torch.tensor([[1, VIDEO, VIDEO]])}
        with pytest.raises(SessionError, match="placeholders without"):
            run(clips.model(), alone, Fixed(2))

    def test_names_are_for_all_visuals(self, clips):
        with pytest.raises(SessionError, match="about 3 images, but this call has 2"):
            kept(clips, Fixed(2), clips.inputs("picture first"), ids=["a", "b", "c"])


@pytest.mark.parametrize("name", ["visionzip", "nuwa", "fastv", "divprune", "sparsevlm", "pyramiddrop"])
def test_rows_equal_rows_alone(clips, name):
    prompts = ("two", "video first", "picture first")
    pruner = pruner_for(name, clips.family)
    pruner.budget = Budget(ratio=0.5)
    names = ["picture", "another", "a", "b", "c", "d"]
    mine = (["a", "b"], ["picture", "c"], ["another", "d"])
    together, images = kept(clips, pruner, clips.inputs(*prompts), ids=names)
    for row, (prompt, ids) in enumerate(zip(prompts, mine, strict=True)):
        given = clips.inputs(prompt, seed=(0, 2, 3)[row])
        if "second_per_grid_ts" in given:
            given["second_per_grid_ts"] = torch.tensor([[2.0, 3.0], [4.0], [5.0]][row])
        logits, alone = kept(clips, pruner, given, ids=ids)
        stays = [[[kept for _, kept, _ in image.stages] for image in some] for some in (images, alone)]
        assert [one for one, image in zip(stays[0], images, strict=True) if image.row == row] == stays[1]
        torch.testing.assert_close(together[row], logits[0], atol=3e-6, rtol=0)


@pytest.mark.parametrize("name", ["visionzip", "grid", "random"])
def test_methods_for_pictures_see_frame_by_frame(clips, name):
    """A video's first frame keeps what it keeps alone; every frame keeps the same number."""
    cells, pruner = clips.grid[0] * clips.grid[1], nuwa.load_pruner(name, budget=Budget(ratio=0.5))
    alone, three = (
        kept(one, pruner, one.inputs("video"), ids=["same"])[1][0] for one in (Clips(clips.family.name, 1), clips)
    )
    first = [token for token in alone.stages[0][1] if token < cells]
    every = [token for token in three.stages[0][1] if token < cells * clips.frames]
    assert every[: len(first)] == first
    assert [token // cells for token in every] == sorted(list(range(clips.frames)) * len(first))


class TestTaps:
    KINDS = ("cls_attention", "received_attention", "keys", "hidden_mean", "states")

    def test_frames_of_onevision_are_pooled_as_features(self):
        clips = Clips("llava_onevision")
        model, given = clips.model("eager"), clips.videos(0, 1)
        taps = [Tap(kind, 0.5) if kind == "hidden_mean" else Tap(kind) for kind in self.KINDS]
        family = adapter_for(model).kinds["video"]
        with torch.no_grad(), family.record(taps, given) as recording:
            videos = model.model.get_video_features(**given).pooler_output
        layout = family.layouts(list(videos), given)[1]
        with torch.no_grad():
            tower = model.model.vision_tower
            eager = tower(given["pixel_values_videos"][1], output_attentions=True, output_hidden_states=True)
        received, layer = eager.attentions[-1].mean(2), tower.encoder.layers[-1]
        expected = {
            "cls_attention": received.mT,
            "received_attention": received.mean(1)[..., None],
            "keys": layer.self_attn.k_proj(layer.layer_norm1(eager.hidden_states[-2])),
            "hidden_mean": torch.stack(eager.hidden_states[2:]).mean(0),
            "states": eager.hidden_states[-1],
        }
        assert [view.grid for view in layout.views] == [(2, 2)] * 3
        for (frame, view), tap in itertools.product(enumerate(layout.views), taps):
            square = expected[tap.kind][frame].mT.unflatten(1, (4, 4))[None]
            pooled = interpolate(square, (2, 2), mode="bilinear")[0].flatten(1).T
            got = recording.view(tap, 1, layout.source[view.tokens])
            got = got.T if tap.kind == "cls_attention" else got.view(4, -1)
            torch.testing.assert_close(got, pooled, atol=1e-5, rtol=0)
            features = recording.features(1, layout.source[view.tokens])
            torch.testing.assert_close(features, videos[1][view.tokens], atol=1e-6, rtol=0)
        at_once = recording.features(1, torch.arange(12))
        torch.testing.assert_close(at_once, videos[1][:12], atol=1e-6, rtol=0)

    @pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen2_vl"])
    def test_frames_of_qwen_are_pictures(self, name):
        """Frames are independent in the tower: each gives what it gives as a picture."""
        clips = Clips(name)
        model, given = clips.model(), {k: v for k, v in clips.videos(0).items() if k != "second_per_grid_ts"}
        taps = [Tap(kind) for kind in ("received_attention", "keys", "states")]
        kinds = adapter_for(model).kinds
        with torch.no_grad(), kinds["video"].record(taps, given) as recording:
            model.model.get_video_features(**given)
        grids = torch.tensor([[1, 6, 4]] * 3)
        pictures = {"pixel_values": given["pixel_values_videos"], "image_grid_thw": grids}
        with torch.no_grad(), kinds["image"].record(taps, pictures) as alone:
            model.model.get_image_features(**pictures)
        for frame, tap in itertools.product(range(3), taps):
            got = recording.view(tap, 0, torch.arange(6) + 6 * frame)
            expected = alone.view(tap, frame, torch.arange(6))
            # of the queries of the whole video, only a frame's own ask
            torch.testing.assert_close(got * (3 if tap.kind == "received_attention" else 1), expected)


@dataclass
class Backwards(Fixed):
    """Keeps every second token of a frame, last first, and drops all from layer 3 on."""

    name: ClassVar[str] = "backwards"

    def schedule(self, n_tokens, layers):
        return Schedule(n_tokens // 2, ((3, 0),))

    def prune_vision(self, context, keep):
        cells = torch.arange(context.features.shape[1]).flip(0)[:keep]
        return VisionDecision(cells.expand(len(context.ids), -1))

    def prune_llm(self, context, keep):
        length = context.image.shape[1]
        return LLMDecision(torch.zeros_like(context.valid), order=torch.arange(length).flip(0).expand_as(context.image))


def test_the_newline_of_a_video_always_stays():
    """Behind all patches, whatever their order, and when the last of them has left."""
    clips = Clips("llava_onevision")
    _, (image,) = kept(clips, Backwards(1), clips.inputs("video"))
    assert image.stages[0][1] == [3, 2, 7, 6, 11, 10, 12]
    assert image.stages[1][1] == [12]
    assert image.per_layer == [7, 7, 7, 1, 1, 1]

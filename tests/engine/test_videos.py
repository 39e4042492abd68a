"""Videos: images with a time axis, alone, beside pictures and in batches; what closes them always stays."""

from __future__ import annotations

import copy
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
from nuwa.engine.arguments import cache_of
from nuwa.engine.feature_cache import FeatureCache
from nuwa.engine.guards import SessionError
from nuwa.models import adapter_for
from nuwa.pruners.base import LLMDecision, Tap, VisionDecision
from nuwa.pruning.budget import Budget
from nuwa.pruning.entering import read_prompt
from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.prompt import ImagePlan
from nuwa.pruning.schedules import Schedule

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
        if clips.packed:
            given["mm_token_type_ids"] = (given["mm_token_type_ids"] == 1).long()
        with pytest.raises((ValueError, SessionError), match="video placeholders"):
            run(clips.model(), given, Fixed(2))
        alone = {"input_ids": torch.tensor([[1, VIDEO, VIDEO]])}
        with pytest.raises(SessionError, match="placeholders without"):
            run(clips.model(), alone, Fixed(2))

    def test_names_are_for_all_visuals(self, clips):
        with pytest.raises(SessionError, match="about 3 images, but this call has 2"):
            kept(clips, Fixed(2), clips.inputs("picture first"), ids=["a", "b", "c"])


@pytest.mark.parametrize(
    "name",
    [
        "visionzip",
        "nuwa",
        "fastv",
        "divprune",
        "sparsevlm",
        "pyramiddrop",
        "dycoke",
        "fastvid",
        "flashvid",
        "holitom",
        "prunevid",
        "temporal_pool",
        "vidcom2",
    ],
)
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

    def test_frames_of_next_video_are_pooled_before_the_projector(self):
        clips = Clips("llava_next_video")
        model, given = clips.model("eager"), clips.videos(0, 1)
        kinds = (*self.KINDS, "reader_keys", "cls_feature")
        taps = {kind: Tap(kind, 0.5) if kind == "hidden_mean" else Tap(kind) for kind in kinds}
        family = adapter_for(model).kinds["video"]
        with torch.no_grad(), family.record(list(taps.values()), given) as recording:
            videos = model.model.get_video_features(**given).pooler_output
        with torch.no_grad():
            tower = model.model.vision_tower
            eager = tower(given["pixel_values_videos"][1], output_attentions=True, output_hidden_states=True)
        layer, reader = tower.encoder.layers[-2], tower.encoder.layers[-1]
        expected = {
            "cls_attention": eager.attentions[-2][:, :, 0, 1:].mT,
            "received_attention": eager.attentions[-2].mean((1, 2))[:, 1:, None],
            "keys": layer.self_attn.k_proj(layer.layer_norm1(eager.hidden_states[-3]))[:, 1:],
            "hidden_mean": torch.stack(eager.hidden_states[2:]).mean(0)[:, 1:],
            "states": eager.hidden_states[-2][:, 1:],
        }
        keys = reader.self_attn.k_proj(reader.layer_norm1(eager.hidden_states[-2]))

        def pooled(values):
            return values.unflatten(0, (2, 2, 2, 2)).mean((1, 3)).flatten(0, 1)

        for frame in range(3):
            rows = torch.arange(4) + 4 * frame
            for kind, values in expected.items():
                got = recording.view(taps[kind], 1, rows)
                got = got.T if kind == "cls_attention" else got.view(4, -1)
                torch.testing.assert_close(got, pooled(values[frame]), atol=1e-5, rtol=0)
            features = recording.features(1, rows)
            torch.testing.assert_close(features, pooled(eager.hidden_states[-2][frame, 1:]), atol=1e-5, rtol=0)
            torch.testing.assert_close(family.project(features), videos[1][rows], atol=1e-5, rtol=0)
            got = recording.view(taps["reader_keys"], 1, rows)
            torch.testing.assert_close(got, torch.cat([keys[frame, :1], pooled(keys[frame, 1:])]), atol=1e-5, rtol=0)
            got = recording.view(taps["cls_feature"], 1, rows)
            torch.testing.assert_close(got, eager.hidden_states[-2][frame, :1], atol=1e-5, rtol=0)
        assert recording.view(taps["reader_keys"], 1, torch.arange(12)) is None

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


GREEDY = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}


def assert_same(ours, fresh, length):
    assert torch.equal(ours.sequences[:, length:], fresh.sequences[:, length:])
    torch.testing.assert_close(torch.cat(ours.logits), torch.cat(fresh.logits), atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("strategy", ["perc", "pesp", "rpme"])
def test_a_chat_whose_second_turn_shows_a_video(clips, strategy):
    """A video, a text, a picture with a video, a text: as one prompt in which the same tokens stay.

    Qwen's `generate` cannot count visuals behind a cache that holds others, with or without pruning.
    """
    model, one, two = clips.model(), clips.inputs("video"), clips.inputs("picture first", seed=1)
    if "second_per_grid_ts" in two:
        two["second_per_grid_ts"] = one["second_per_grid_ts"] + 1
    both = clips.videos(0, 1) | clips.family.pictures(0)
    turn = torch.tensor([[9, 11, 13, 17]])

    def say(given, ids, cache=None):
        asked = clips.finish({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        return model.generate(**given | asked, **GREEDY, past_key_values=cache)

    with nuwa.prune(model, Fixed(2, (2, 4)), strategy):
        first = say(one, one["input_ids"])
        ids = torch.cat([first.sequences, turn], 1)
        assert_same(say({}, ids, copy.deepcopy(cache_of(first))), say(one, ids), ids.shape[1])
        if clips.packed:
            return
        ids = torch.cat([first.sequences, two["input_ids"][:, 1:], turn], 1)
        second = say(two, ids, cache_of(first))
        assert_same(second, say(both, ids), ids.shape[1])
        ids = torch.cat([second.sequences, turn], 1)
        assert_same(say({}, ids, cache_of(second)), say(both, ids), ids.shape[1])


class TestSharing:
    """Several questions about one video: it goes through the tower once, and its tokens through the LLM."""

    @staticmethod
    def two_questions(clips):
        given = clips.inputs("video")
        twice = {name: x if "pixel" in name or "grid" in name else x.repeat(2, 1) for name, x in given.items()}
        twice["input_ids"][1, -3:] = torch.tensor([12, 21, 33])
        copies = clips.videos(0, 0)
        if "second_per_grid_ts" in copies:
            copies["second_per_grid_ts"] = torch.tensor([2.0, 2.0])
        return twice | copies

    @torch.no_grad()
    @pytest.mark.parametrize("name", ["visionzip", "fastv"])
    def test_rows_share_their_video(self, clips, name):
        pruner, given, seen = nuwa.load_pruner(name, budget=Budget(ratio=0.5)), self.two_questions(clips), []
        layer, tower = clips.model().model.language_model.layers[0], adapter_for(clips.model()).tower_layers[0]
        handles = [
            layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[0])),
            tower.register_forward_pre_hook(lambda module, args: seen.append(args[0].numel())),
        ]
        logits, counts = [], []
        for share in (False, True):
            seen.clear()
            with nuwa.prune(clips.model(), pruner, share=share):
                logits.append(clips.model()(**given).logits[:, -1])
            counts.append(seen.copy())
        begin = [1] if clips.family.shares_beginnings else []
        assert counts[1] == [counts[0][0] // 2, *begin, 2]  # half the tower; the prefix once, then what differs
        for handle in handles:
            handle.remove()
        torch.testing.assert_close(logits[1], logits[0], atol=5e-6, rtol=0)

    @torch.no_grad()
    def test_a_feature_cache_holds_videos_apart_from_pictures(self, clips, tmp_path):
        model, given = clips.model(), clips.inputs("picture first")
        pruner, logits = nuwa.load_pruner("visionzip", budget=Budget(ratio=0.5)), []
        cache = FeatureCache(tmp_path, "here", 10**9)
        for kept in (None, cache, cache):
            with nuwa.prune(model, pruner, cache=kept):
                logits.append(model(**given).logits)
        assert cache.hits == cache.misses >= 4  # features and decisions of each
        assert torch.equal(logits[0], logits[1]) and torch.equal(logits[1], logits[2])

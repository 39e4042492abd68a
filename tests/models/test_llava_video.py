"""LLaVA-Video's layouts in OneVision's class: pooled and laid out by hand, and pruned with their newlines."""

import copy

import pytest
import torch
from helpers.families_toy import toy
from hydra.errors import InstantiationException
from models.test_video_processors import picture, sample, video
from torch.nn.functional import interpolate

import nuwa
from nuwa.models import adapter_for
from nuwa.models.llava_video import put_newlines
from nuwa.models.loading import load_model
from nuwa.pruning.budget import Budget
from nuwa.pruning.layout import NEWLINES, ImageLayout

SIDE = {"average": 2, "bilinear": 3}
"""Rows and columns of a frame of 5 x 5 patches."""


def model_of(pool, newline):
    return toy("llava_onevision", image_size=70, video_pool=pool, video_newline=newline)


@torch.no_grad()
def by_hand(model, frames, pool, newline):
    """Features of a video's frames (F, 3, 70, 70) by the definition."""
    inner, out = model.model.model, []
    patches = inner.multi_modal_projector(inner.vision_tower(frames, output_hidden_states=True).hidden_states[-1])
    line = inner.image_newline
    for frame in patches.unflatten(1, (5, 5)):
        if pool == "average":  # the fifth row and column have no partner
            grid = frame[:4, :4].unflatten(0, (2, 2)).unflatten(2, (2, 2)).mean((1, 3))
        else:
            grid = interpolate(frame.permute(2, 0, 1)[None], (3, 3), mode="bilinear")[0].permute(1, 2, 0)
        for row in grid:
            out += [*row, line] if newline == "grid" else [*row]
        out += [line] if newline == "frame" else []
    return torch.stack(out + ([line] if newline == "one" else []))


@pytest.mark.parametrize("newline", NEWLINES)
@pytest.mark.parametrize("pool", SIDE)
@torch.no_grad()
def test_features_are_laid_out_as_defined(pool, newline):
    model, film = model_of(pool, newline), video(3)
    model.model.model.image_newline.normal_()
    batch = model.encode([sample("a", "what?", film), sample("b", "why is it so?", film)])
    found = model.model.model.get_video_features(pixel_values_videos=batch["pixel_values_videos"]).pooler_output
    expected = by_hand(model, batch["pixel_values_videos"][0], pool, newline)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-4)
    count = int((batch["input_ids"][0] == model.model.config.video_token_id).sum())
    cells = SIDE[pool] ** 2
    assert count == len(expected) == 3 * cells + {"one": 1, "frame": 3, "grid": 3 * SIDE[pool], "none": 0}[newline]
    twin = copy.deepcopy(model.model)
    twin.model.image_newline.add_(1)
    other = twin.model.get_video_features(pixel_values_videos=batch["pixel_values_videos"]).pooler_output
    assert torch.equal(other[0], found[0]) == (newline == "none")  # a copy has weights of its own


@pytest.mark.parametrize("newline", NEWLINES)
@torch.no_grad()
def test_pruned_videos_keep_the_newlines_of_what_stays(newline):
    model = model_of("average", newline)
    batch = model.encode([sample("a", "what?", video(3), images=[picture()]), sample("b", "why?", video(3))])
    expected = model.model(**batch).logits[batch["attention_mask"].bool()]
    with nuwa.prune(model.model, nuwa.load_pruner("none")):
        assert torch.equal(model.model(**batch).logits[batch["attention_mask"].bool()], expected)
    with nuwa.prune(model.model, nuwa.load_pruner("visionzip", budget=Budget(ratio=0.25))) as session:
        model.model(**batch)
    (_, kept, _), *_ = session.report().images[1].stages
    layout = adapter_for(model.model).kinds["video"].layouts([None], batch)[0]
    patches = [token for token in kept if layout.source[token] >= 0]
    assert len(patches) == 3 and [int(layout.source[token]) // 4 for token in patches] == [0, 1, 2]
    behind = {
        "none": [],
        "one": [12],
        "frame": [5 * frame + 4 for frame in range(3)],
        "grid": [token // 3 * 3 + 2 for token in patches],
    }
    assert sorted(set(kept) - set(patches)) == behind[newline]


def test_counts_of_the_real_size():
    """27 x 27 patches: 182 tokens a frame as the authors run it, 170 as FlashVID does."""
    counts = [ImageLayout.filmed((13, 13), 64, newline).n_tokens for newline in ("grid", "frame", "none", "one")]
    assert counts == [64 * 182, 64 * 170, 64 * 169, 64 * 169 + 1]
    assert ImageLayout.filmed((14, 14), 32).n_tokens == 6273
    layout = ImageLayout.filmed((2, 2), 2, "grid")
    assert [view.tokens.tolist() for view in layout.views] == [[0, 1, 3, 4], [6, 7, 9, 10]]
    lines = put_newlines(torch.arange(8.0)[:, None], torch.tensor([9.0]), layout).flatten().tolist()
    assert lines == [0, 1, 9, 2, 3, 9, 4, 5, 9, 6, 7, 9]


def test_the_files_of_llava_video():
    loaded = toy("llava_video", image_size=58)
    assert loaded.model.config.video_newline == "grid" and loaded.family == "llava_onevision"
    with pytest.raises(InstantiationException, match=r"model\.video_newline=grid: qwen2_vl models have no such option"):
        toy("qwen2_vl", video_newline="grid")
    with pytest.raises(
        InstantiationException, match=r"model\.video_pool=max is unknown; choose one of bilinear, average"
    ):
        toy("llava_onevision", video_pool="max")


@torch.no_grad()
def test_a_converted_folder_answers_as_the_model_it_was_made_of(tmp_path):
    """A conversion gives OneVision's class and config; the options of `conf/model` say how frames are laid out."""
    made = model_of("average", "grid")
    plain = toy("llava_onevision", image_size=70)
    converted = copy.deepcopy(plain.model)
    converted.load_state_dict(made.model.state_dict())
    for part in (converted, plain.tokenizer, plain.pictures.pil):
        part.save_pretrained(tmp_path)
    layout = {"family": "llava_onevision", "video_pool": "average", "video_newline": "grid"}
    loaded = load_model(path=str(tmp_path), prompt=made.prompt.template, image=made.prompt.image, **layout)
    batch = loaded.encode([sample("a", "what?", video(3))])
    expected = made.encode([sample("a", "what?", video(3))])
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
    assert torch.equal(loaded.model(**batch).logits, made.model(**expected).logits)

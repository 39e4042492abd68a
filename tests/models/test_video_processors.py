"""Videos of samples: frames as transformers' picture processors make them, places in prompts, refusals."""

import numpy as np
import pytest
import torch
from helpers.families_toy import NAMES, toy
from hydra.errors import InstantiationException
from PIL import Image
from transformers import CLIPImageProcessorPil, Qwen2VLImageProcessorPil, SiglipImageProcessorPil

import nuwa
from nuwa.models import family_class
from nuwa.models.prompts import PromptError
from nuwa.models.video_processors import FrameProcessor, frame_step
from nuwa.samples import Sample, SampleError, Video, visual_ids

WRAPPED = ("llava_next_video", "llava_onevision", "qwen2_5_vl", "qwen2_vl")
"""Families that put around a video what they put around a picture."""
FAMILIES = (*WRAPPED, "qwen3_vl", "qwen3_5")
SMALL = {"video_min_pixels": 784, "video_max_pixels": 784 * 16}


def picture(seed=0, width=80, height=60):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def video(count=4, seconds=0.5, seed=0, **size):
    frames = tuple(picture(seed + number, **size) for number in range(count))
    return Video(frames, tuple(seconds * number for number in range(count)))


def sample(name, text, *videos, images=()):
    return Sample(name, "vqa", tuple(images), text, None, videos=videos)


def loaded(family):
    return toy(family, **(SMALL if "qwen" in family else {}))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_placeholders_are_as_many_as_the_models_features(family):
    model = loaded(family)
    films = [video(5, width=90), video(5, seed=9)]
    batch = model.encode([sample("a", "what?", films[0]), sample("b", "what?", films[1])])
    known = {name: batch[name] for name in ("pixel_values_videos", "video_grid_thw") if name in batch}
    features = model.model.model.get_video_features(**known).pooler_output
    token = model.model.config.video_token_id
    assert [int((row == token).sum()) for row in batch["input_ids"]] == [len(one) for one in features]


@pytest.mark.parametrize("family", WRAPPED)
def test_pictures_come_first_unless_the_text_places_them(family):
    model, film = loaded(family), video(2)
    texts = {
        "why?": "{I}{join}{V}{join}{V}{end}why?",
        "<video> then <video>?": "{I}{end}{V} then {V}?",
        "<video>, <image>, <video>": "{V}, {I}, {V}",
    }
    rows = [sample("a", text, film, film, images=[picture()]) for text in texts]
    batch = model.encode(rows)
    image, film_token = model.placeholders
    wrap = ("<|vision_start|>", "<|vision_end|>") if "qwen" in family else ("", "")
    slots = {"join": model.prompt.image_joiner, "end": model.prompt.image_end}
    slots |= {"I": image.join(wrap), "V": film_token.join(wrap)}
    for ids, mask, expected in zip(batch["input_ids"], batch["attention_mask"], texts.values(), strict=True):
        whole = model.tokenizer.decode(ids[mask == 1])
        for token in (image, film_token):  # one stands for all of a visual
            while 2 * token in whole:
                whole = whole.replace(2 * token, token)
        assert expected.format(**slots) in whole
    if "qwen" in family:
        kinds = torch.stack([batch["input_ids"] == number for number in model.placeholders.values()])
        assert torch.equal(batch["mm_token_type_ids"], kinds[0].long() + 2 * kinds[1])
    assert model.remark(rows[2]) == "<image> places 1 picture(s); <video> places 2 video(s)"


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_5"])
@torch.no_grad()
def test_qwen3_reads_the_time_of_every_pair_of_frames(family):
    model, end = loaded(family), "<|vision_end|>"
    film = Video(video(5, width=64, height=64).frames, (0.0, 0.5, 1.0, 2.0, 7.25))
    batch = model.encode([sample("a", "<video> why?", film)])
    cells = 4  # of 32 x 32 pixels
    frame = "<|vision_start|>" + cells * "<|video_pad|>" + end
    times = ("0.2", "1.5", "7.2")  # a quarter of a second is rounded to even
    whole = "".join(f"<{time} seconds>{frame}" for time in times)
    assert f"user\n{whole} why?" in model.tokenizer.decode(batch["input_ids"][0])
    with nuwa.prune(model.model, nuwa.load_pruner("none")) as session:
        found = model.model(**batch).logits
    assert session.report().images[0].n_tokens == 3 * cells
    assert torch.equal(found, model.model(**batch).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_control_token_beside_a_video_is_text(family):
    model, film = loaded(family), video(2)
    end = model.tokenizer.eos_token
    rows = [sample("a", f"is it {word} ?", film, images=[picture()]) for word in (end, "qqq")]
    one, two = (model.tokenizer.decode(model.encode([row])["input_ids"][0]) for row in rows)
    assert one == two.replace("qqq", end)


def test_names_and_questions_go_to_pictures_first():
    rows = [sample("a", "a?", video(), images=[picture()]), sample("b", "b?", video()), sample("c", "c?")]
    assert visual_ids(rows) == ["a#0", "a#1", "b"] and visual_ids(rows[2:]) is None
    assert loaded("qwen2_vl").questions(rows) == ["a?", "a?", "b?"]
    assert visual_ids(rows[1::-1]) == ["a#0", "b", "a#1"]


class TestPixels:
    def test_of_onevision(self):
        """All of a frame, squashed, as SigLIP's processor does it."""
        model, film = loaded("llava_onevision"), video(3)
        found = model.encode([sample("a", "?", film)])["pixel_values_videos"]
        own = SiglipImageProcessorPil(size={"height": 58, "width": 58})
        pil = model.pictures.pil
        settings = {name: getattr(pil, name) for name in ("image_mean", "image_std", "resample")}
        expected = own(list(film.frames), return_tensors="pt", **settings)["pixel_values"]
        torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)

    def test_of_a_cropped_centre(self):
        model, film = loaded("llava_next"), video(2, width=81, height=67)
        found = FrameProcessor(model.pictures, "<video>", 56, lambda frames: None, crop=True).pixels(film)
        own = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
        expected = own(list(film.frames), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("size", [(80, 60), (300, 101), (30, 20)])
    def test_of_qwen(self, size):
        """A frame that is shown twice is a picture."""
        model = loaded("qwen2_5_vl")
        frames = tuple(picture(seed, *size) for seed in (0, 0, 1, 1))
        batch = model.encode([sample("a", "?", Video(frames, (0.0, 1.0, 2.0, 3.0)))])
        own = Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": 784 * 16})
        expected = own([frames[0], frames[2]], return_tensors="pt")
        torch.testing.assert_close(batch["pixel_values_videos"], expected["pixel_values"], atol=1e-5, rtol=0)
        rows, columns = expected["image_grid_thw"][0, 1:].tolist()
        assert batch["video_grid_thw"].tolist() == [[2, rows, columns]]

    def test_two_frames_of_qwen_are_interleaved_in_a_patch(self):
        model, film = loaded("qwen2_5_vl"), video(3)
        shown = model.videos.encode([film])["pixel_values_videos"].view(-1, 3, 2, 196)
        twice = [model.videos.encode([Video((one, one), (0.0, 1.0))])["pixel_values_videos"] for one in film.frames]
        alone = torch.stack(twice).view(3, -1, 3, 2, 196)
        expected = torch.stack([alone[0, :, :, 0], alone[1, :, :, 0], alone[2, :, :, 0], alone[2, :, :, 0]])
        first, second = expected.unflatten(0, (2, 2)).unbind(1)
        assert torch.equal(shown[:, :, 0], first.flatten(0, 1)) and torch.equal(shown[:, :, 1], second.flatten(0, 1))

    def test_the_time_of_qwen2_5_is_that_of_the_frames(self):
        films = [video(4, seconds=0.25), video(4, seconds=2.0), video(1), Video(video(3).frames, (0.0, 1.0, 4.0))]
        batch = loaded("qwen2_5_vl").encode([sample("a", "?", film) for film in films])
        assert batch["second_per_grid_ts"].tolist() == [0.5, 4.0, 1.0, 4.0]
        assert batch["video_grid_thw"][:, 0].tolist() == [2, 2, 1, 2]
        assert "second_per_grid_ts" not in loaded("qwen2_vl").encode([sample("a", "?", films[0])])
        assert frame_step(films[1]) == 2.0


class TestRefused:
    @pytest.mark.parametrize("family", sorted({*NAMES} - {*FAMILIES}))
    def test_by_families_that_read_none(self, family):
        if family_class(family).video_placeholder is not None:
            pytest.fail("this family reads videos: add it to the tests above")
        with pytest.raises(SampleError, match=rf"sample a: {family} models take no videos"):
            toy(family).encode([sample("a", "?", video())])

    @pytest.mark.parametrize(
        ("film", "said"),
        [
            (Video((), ()), "one size, in pixels, but these have: none"),
            (Video((picture(), picture(0, 40, 60)), (0.0, 1.0)), "40 x 60, 80 x 60"),
            (Video((picture(), picture()), (0.0,)), "2 frames has 1 times"),
            (Video((Image.new("RGB", (0, 4)),), (0.0,)), "0 x 4"),
        ],
        ids=["no frame", "two sizes", "a time is missing", "no pixels"],
    )
    def test_videos_that_are_none(self, film, said):
        with pytest.raises(SampleError, match=f"sample a: .*{said}"):
            loaded("llava_onevision").encode([sample("a", "?", film)])

    def test_strips(self):
        with pytest.raises(SampleError, match=r"sample a: .*1000 x 2 pixels"):
            loaded("qwen2_vl").encode([sample("a", "?", video(2, width=1000, height=2))])

    def test_videos_of_different_lengths_in_a_batch_of_llavas(self):
        rows = [sample(str(count), "?", video(count)) for count in (2, 4)]
        with pytest.raises(SampleError, match=r"videos of 2 and 4 frames .* one batch"):
            loaded("llava_onevision").encode(rows)
        assert loaded("qwen2_vl").encode(rows)["video_grid_thw"][:, 0].tolist() == [1, 2]

    def test_another_number_of_placeholders(self):
        with pytest.raises(PromptError, match=r"sample a: .*2 <video> placeholders for 1 video"):
            loaded("qwen2_vl").encode([sample("a", "<video> or <video>?", video(2))])

    def test_impossible_areas_and_options_of_others(self):
        with pytest.raises(InstantiationException, match=r"model\.video_min_pixels=784 .* model\.video_max_pixels=100"):
            toy("qwen2_vl", video_min_pixels=784, video_max_pixels=100)
        with pytest.raises(
            InstantiationException, match=r"model\.video_max_pixels=784: llava_next models have no such"
        ):
            toy("llava_next", video_max_pixels=784)


def test_a_video_of_several_questions_is_prepared_once(monkeypatch):
    model, film, seen = loaded("llava_onevision"), video(2), []
    pixels = model.videos.pixels
    monkeypatch.setattr(model.videos, "pixels", lambda one: seen.append(one) or pixels(one))
    batch = model.encode([sample("a", "what?", film), sample("b", "why?", film)])
    assert seen == [film] and torch.equal(*batch["pixel_values_videos"])


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_text_after_a_video_as_the_original_numbers_it(family):
    """One behind the largest id of what came before, recomputed token by token; generation goes on from there."""
    model, stock = (toy(family, **SMALL, text_after_video=kind) for kind in ("original", "transformers"))
    film = video(24, seconds=1.5, width=30, height=30)
    rows = [sample("a", "<video>, why <image> or <video> is ?", film, film, images=[picture()]), sample("b", "?", film)]
    batch = model.encode(rows)
    grids = {name: iter(batch[f"{name}_grid_thw"].tolist()) for name in ("image", "video")}
    step = 4 * 3 if family == "qwen2_5_vl" else 1  # four a second, and pairs of frames are 3 seconds apart
    for row, mask in enumerate(batch["attention_mask"]):
        kinds, following, expected = batch["mm_token_type_ids"][row][mask == 1].tolist(), 0, []
        while len(expected) < len(kinds):
            kind = kinds[len(expected)]
            if not kind:
                expected.append([following] * 3)
            else:
                frames, high, wide = next(grids["image" if kind == 1 else "video"])
                pace = step if kind == 2 else 1
                cells = [(pace * t, y, x) for t in range(frames) for y in range(high // 2) for x in range(wide // 2)]
                expected += [[following + axis for axis in cell] for cell in cells]
            following = max(map(max, expected)) + 1
        assert batch["position_ids"][:, row, mask == 1].T.tolist() == expected
    usual = stock.encode(rows)
    assert "position_ids" not in usual and "position_ids" not in model.encode([sample("a", "?", images=[picture()])])
    options = {"max_new_tokens": 3, "do_sample": False}
    with nuwa.prune(model.model, nuwa.load_pruner("none")):
        found = model.model.generate(**batch, **options)
    assert torch.equal(found, model.model.generate(**batch, **options))
    with pytest.raises(
        InstantiationException, match=r"model\.text_after_video=original: llava_next models have no such"
    ):
        toy("llava_next", text_after_video="original")

"""Unusual pictures and prompts of every family through `LoadedModel.encode`: a sensible result, or a named sample."""

import io

import numpy as np
import pytest
import torch
from helpers.families_toy import FAMILIES, tokens, toy
from PIL import Image

import nuwa
from nuwa.models.processors import bounded
from nuwa.models.prompts import PromptError
from nuwa.pruning.budget import Budget
from nuwa.samples import Sample, SampleError

ALL = ("llava", *FAMILIES)


def sample(*images, text="what is it?", name="row-7"):
    return Sample(name, "vqa", images, text, ("yes",))


def picture(width=80, height=60):
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def animated():
    """A GIF whose later frames are of one colour."""
    buffer, first = io.BytesIO(), picture().quantize(64)
    first.save(buffer, "GIF", save_all=True, append_images=[Image.new("RGB", first.size, "red")] * 2)
    return Image.open(buffer)


def sixteen_bit():
    return Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257)


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (lambda: picture().convert("L"), lambda: picture().convert("L").convert("RGB")),
        (lambda: picture().convert("RGBA"), picture),
        (lambda: picture().convert("CMYK"), lambda: picture().convert("CMYK").convert("RGB")),
        (sixteen_bit, lambda: picture().convert("L").convert("RGB")),
        (animated, lambda: picture().quantize(64).convert("RGB")),
    ],
    ids=["grey", "RGBA", "CMYK", "16 bit", "animated"],
)
def test_other_modes_are_their_rgb_pictures(family, given, plain):
    loaded, image = toy(family), given()
    assert image.mode != "RGB"
    batch, expected = loaded.encode([sample(image)]), loaded.encode([sample(plain())])
    assert batch.keys() == expected.keys()
    for key, values in expected.items():
        torch.testing.assert_close(batch[key], values, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("size", [(1, 1), (10000, 20), (20, 3000), (900, 1)])
def test_extreme_sizes_run_pruned_or_name_the_sample(family, size):
    loaded, row = toy(family), sample(picture(*size))
    if family == "qwen2_5_vl" and size[0] / size[1] > 200:
        with pytest.raises(SampleError, match=r"sample row-7: a picture of \d+ x (20|1) pixels .* ratio"):
            loaded.encode([row])
        return
    batch = loaded.encode([row, sample(picture(), text="and this?")])
    assert bool(batch["pixel_values"].isfinite().all())
    with torch.no_grad():
        plain = loaded.model(**batch).logits
        assert bool(plain.isfinite().all())
        with nuwa.prune(loaded.model, nuwa.load_pruner("nuwa", budget=Budget(ratio=0.5))):
            pruned = loaded.model(**batch).logits[:, -1]
        assert bool(pruned.isfinite().all()) and not torch.equal(pruned, plain[:, -1])


def test_a_strip_is_shrunk_before_it_is_padded_to_a_square():
    assert bounded(picture(10000, 20), 8192).size == (8192, 16)
    assert bounded(picture(30, 20000), 8192).size == (12, 8192)
    assert bounded(picture(3, 20000), 8192).size == (1, 8192)
    image = picture(300, 200)
    assert bounded(image, 8192) is image


@pytest.mark.parametrize("family", ALL)
def test_a_picture_without_pixels_is_named(family):
    with pytest.raises(SampleError, match="sample row-7: a picture has no pixels"):
        toy(family).encode([sample(Image.new("RGB", (0, 5)))])


@pytest.mark.parametrize("family", ALL)
class TestPrompts:
    def placeholders(self, loaded, batch):
        return int((batch["input_ids"] == loaded.model.config.image_token_id).sum())

    def test_pictures_go_first_where_the_text_does_not_place_them(self, family):
        loaded, images = toy(family), (picture(), picture(30, 90))
        batch = loaded.encode([sample(*images, text="one <image> two <image>"), sample(*images, text="one two")])
        assert self.placeholders(loaded, batch) == 2 * sum(tokens(loaded, *images))
        ids = [row[mask == 1].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
        first = [row.index(loaded.model.config.image_token_id) for row in ids]
        assert first[1] < first[0]

    def test_an_empty_text_is_a_prompt(self, family):
        loaded = toy(family)
        batch = loaded.encode([sample(picture(), text=""), sample(text="")])
        assert self.placeholders(loaded, batch) == sum(tokens(loaded, picture()))
        with torch.no_grad():
            ids = loaded.model.generate(**batch, max_new_tokens=2, do_sample=False)
        assert len(loaded.decode(ids, batch["input_ids"].shape[1])) == 2

    @pytest.mark.parametrize(("images", "text"), [(1, "<image> <image>"), (0, "what is <image>?"), (2, "<image>")])
    def test_too_many_or_too_few_placeholders_name_the_sample(self, family, images, text):
        with pytest.raises(
            PromptError, match=rf"sample row-7: the text holds {text.count('<image>')} .* {images} image"
        ):
            toy(family).encode([sample(name="fine"), sample(*[picture()] * images, text=text)])


@pytest.mark.parametrize(("images", "found"), [(1, 2), (0, 1)])
def test_a_models_own_placeholder_in_a_text_names_the_sample(images, found):
    row = sample(*[picture()] * images, text="what does <|image_pad|> mean?")
    with pytest.raises(PromptError, match=rf"sample row-7: the prompt holds {found} \S+ placeholder\(s\) for {images}"):
        toy("qwen2_5_vl").encode([row])

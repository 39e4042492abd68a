"""Pictures of every family: the right number of placeholders, the same inputs as Hugging Face's own processors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.families_toy import FAMILIES, TOY, tokens, toy
from PIL import Image
from transformers import AutoConfig, LlavaNextProcessor, Qwen2VLImageProcessorPil

from nuwa.models import family_class
from nuwa.models.boxes import to_unit_boxes
from nuwa.models.checkpoint import ModelError
from nuwa.models.loading import load_model
from nuwa.models.processors import PictureOptions, recompress
from nuwa.models.qwen2_5_vl import Qwen2_5_VL
from nuwa.models.random_vlm import load_random
from nuwa.samples import Sample

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/scoring/nuwa_qwen_refcoco.json"
SIZES = [(80, 60), (60, 80), (64, 64), (200, 40), (40, 200), (31, 57), (300, 101), (15, 14), (1, 1)]


def picture(width=80, height=60, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def sample(text, *images, **more):
    return Sample("a", "vg", images, text, None, **more)


@pytest.mark.parametrize("family", FAMILIES)
def test_placeholders_are_as_many_as_the_models_features(family):
    loaded = toy(family)
    images = [picture(*size) for size in SIZES]
    inputs = loaded.pictures.encode(images)
    with torch.no_grad():
        features = loaded.model.model.get_image_features(**inputs).pooler_output
    assert tokens(loaded, *images) == [len(image) for image in features]


def test_a_tower_of_many_tiles_shrinks_its_grid():
    # the whole picture in 4 x 4 tokens, rows closed by newlines; 6 x 6 tiles of 4 x 4 tokens, but nine at most
    assert tokens(toy("llava_onevision"), picture(320, 320), picture(58, 58)) == [16 + 12 * 13, 16 + 4 * 5]


def test_tiles_agree_with_hugging_faces_processor():
    loaded = toy("llava_next")
    processor = LlavaNextProcessor(loaded.pictures.pil, loaded.tokenizer, 14, "default", num_additional_image_tokens=1)
    rows = [sample("one", picture()), sample("two, longer", picture(31, 57), picture(200, 40))]
    prompts = [loaded.tokenizer.bos_token + loaded.prompt.render(row.text, len(row.images)) for row in rows]
    images = [list(row.images) for row in rows]
    expected = processor(text=prompts, images=images, return_tensors="pt", padding=True, add_special_tokens=False)
    batch = loaded.encode(rows)
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values", "image_sizes"}
    assert all(torch.equal(batch[key], expected[key]) for key in batch)


def test_qwens_prompt_is_its_chat_template_with_wrapped_placeholders():
    loaded = toy("qwen2_5_vl")
    rows = [sample("one", picture()), sample("<image> or <image>?", picture(31, 57), picture(200, 40)), sample("none")]
    batch = loaded.encode(rows)
    assert batch["image_grid_thw"].tolist() == [[1, 4, 6], [1, 6, 4], [1, 2, 14]]
    wrapped = ["<|vision_start|>" + count * "<|image_pad|>" + "<|vision_end|>" for count in (6, 6, 7)]
    turns = [wrapped[0] + "one", f"{wrapped[1]} or {wrapped[2]}?", "none"]
    placeholder = loaded.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    for turn, ids, mask, kind in zip(
        turns, batch["input_ids"], batch["attention_mask"], batch["mm_token_type_ids"], strict=True
    ):
        text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        assert loaded.tokenizer.decode(ids[mask == 1]) == f"{text}{turn}<|im_end|>\n<|im_start|>assistant\n"
        assert torch.equal(kind == 1, ids == placeholder) and not bool(mask[: -int(mask.sum())].any())
    positions, _ = loaded.model.model.get_rope_index(**{k: v for k, v in batch.items() if k != "pixel_values"})
    assert not torch.equal(positions[1], positions[2])


def test_only_pictures_make_image_inputs():
    for family in FAMILIES:
        assert set(toy(family).encode([sample("none")])) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_of_every_family_loads(family, tmp_path):
    small = toy(family)
    for part in (small.model, small.tokenizer, small.pictures.pil):
        part.save_pretrained(tmp_path)
    prompt = small.prompt
    loaded = load_model(
        path=str(tmp_path), prompt=prompt.template, family=family, image=prompt.image, image_joiner=prompt.image_joiner,
        image_end=prompt.image_end, box_frame=small.boxes.box_frame, device="cpu",
    )  # fmt: skip
    row = [sample("what?", picture(90, 44))]
    expected, batch = small.encode(row), loaded.encode(row)
    assert expected.keys() == batch.keys() and all(torch.equal(batch[key], expected[key]) for key in expected)
    with torch.no_grad():
        assert torch.equal(loaded.model(**batch).logits, small.model(**expected).logits)


HUB = {
    "qwen2_5_vl": {
        "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
    },
    "llava_next": {
        "aspect_ratio_setting": "anyres", "crop_size": {"height": 336, "width": 336}, "do_center_crop": True,
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "LlavaNextImageProcessor", "processor_class": "LlavaNextProcessor", "resample": 3,
        "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 336},
    },
}  # fmt: skip
"""preprocessor_config.json as published checkpoints have it."""


@pytest.mark.parametrize(
    ("family", "size", "expected"),
    [("qwen2_5_vl", (640, 480), 391), ("qwen2_5_vl", (4000, 3000), 15301), ("llava_next", (640, 480), 576 + 36 * 49),
     ("llava_next", (1000, 330), 576 + 24 * 73), ("llava_next", (672, 672), 2928)],
)  # fmt: skip
def test_published_processor_files_give_the_published_token_counts(family, size, expected, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HUB[family]))
    config = AutoConfig.for_model(family)
    pictures = family_class(family).pictures(config, tmp_path, PictureOptions())
    (text,) = pictures.texts(pictures.encode([Image.new("1", size)]), 1)
    assert text == family_class(family).placeholder * expected


# Qwen2.5-VL's sizes, boxes and JPEGs


def test_resized_pictures_are_qwens():
    loaded, limits = toy("qwen2_5_vl"), PictureOptions(min_pixels=784, max_pixels=784 * 1280)
    pictures, authors = loaded.pictures, Qwen2_5_VL.pictures(loaded.model.config, {}, limits)
    for case in json.loads(GOLDEN.read_text(encoding="utf-8"))["smart_resize"]:
        blank = Image.new("1", (case["width"], case["height"]))
        assert list(authors.resized(blank)) == case["resized_w_h"]
    for size in SIZES:
        image = picture(*size)
        width, height = pictures.resized(image)
        _, high, wide = pictures.encode([image])["image_grid_thw"][0].tolist()
        assert (wide * 14, high * 14) == (width, height)


def areas(pictures):
    """Tokens of a tiny and of a large picture."""
    grids = pictures.encode([picture(1, 1), picture(999, 999)])["image_grid_thw"]
    return (grids.prod(1) // 4).tolist()


def test_area_limits_come_from_the_config_or_the_folder(tmp_path):
    vision = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    config = AutoConfig.for_model("qwen2_5_vl", vision_config=vision)
    Qwen2VLImageProcessorPil(min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 16).save_pretrained(tmp_path)
    plain = Qwen2_5_VL.pictures(config, tmp_path, PictureOptions())
    assert areas(plain) == [4, 16]
    chosen = Qwen2_5_VL.pictures(config, tmp_path, PictureOptions(min_pixels=28 * 28 * 9, max_pixels=28 * 28 * 25))
    assert areas(chosen) == [9, 25]
    assert chosen.encode([picture(999, 999)])["image_grid_thw"].tolist() == [[1, 10, 10]]
    with pytest.raises(ModelError, match=r"model\.min_pixels=50176 .* at most model\.max_pixels=12544"):
        Qwen2_5_VL.pictures(config, tmp_path, PictureOptions(min_pixels=28 * 28 * 64))
    with pytest.raises(ModelError, match=r"model\.jpeg_quality=101"):
        Qwen2_5_VL.pictures(config, tmp_path, PictureOptions(jpeg_quality=101))


def test_jpeg_changes_pixels_as_pils_own_does():
    loaded, image = toy("qwen2_5_vl"), picture(84, 56)
    words = {"prompt": loaded.prompt.template, "image": loaded.prompt.image}
    rough = load_random(**words, family="qwen2_5_vl", jpeg_quality=75, **TOY)
    expected = loaded.pictures.encode([recompress(image, 75)])["pixel_values"]
    assert torch.equal(rough.pictures.encode([image])["pixel_values"], expected)
    assert not torch.equal(loaded.pictures.encode([image])["pixel_values"], expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('```json\n[{"bbox_2d": [20, 10, 100, 50], "label": "cup"}]\n```',
         '```json\n[{"bbox_2d": [0.10000,0.10000,0.50000,0.50000], "label": "cup"}]\n```'),
        ("[0,0,200,100] and [ 1 , 1 , 2 , 2 ]",
         "[0.00000,0.00000,1.00000,1.00000] and [0.00500,0.01000,0.01000,0.02000]"),
        ("[-20, 0, 400, 100]", "[-0.10000,0.00000,2.00000,1.00000]"),
        ("[0.1, 0.2, 0.3, 0.4] or [0, 0, 1, 1] or [-0.1, 0, 1.05, 1]",
         "[0.1, 0.2, 0.3, 0.4] or [0, 0, 1, 1] or [-0.1, 0, 1.05, 1]"),
        ("[20.5, 10, 100.0, 50]", "[0.10250,0.10000,0.50000,0.50000]"),
        ("[1, 2, 3] or [1, 2, 3, 4, 5] or nothing", "[1, 2, 3] or [1, 2, 3, 4, 5] or nothing"),
    ],
)  # fmt: skip
def test_pixel_boxes_become_fractions(text, expected):
    assert to_unit_boxes(text, (200, 100)) == expected


@pytest.mark.parametrize("text", ["(250,500),(1000, 750)", '{"bbox_2d": [250, 500, 1000, 750]}'])
def test_thousandths_become_fractions_whatever_the_picture(text):
    found = toy("qwen2_vl").in_unit_frame(text, picture(62, 56))
    assert "[0.25000,0.50000,1.00000,0.75000]" in found


def test_a_box_prompt_replaces_the_benchmarks_words_where_there_is_an_expression():
    loaded = toy("qwen2_5_vl", box_prompt="Locate {expression}, please.")
    asked = [sample("Where is it?", expression="the {red} cup"), sample("Where is it?")]
    assert [loaded.question(one) for one in asked] == ["Locate the {red} cup, please.", "Where is it?"]
    assert "Locate the {red} cup, please." in loaded.tokenizer.decode(loaded.encode(asked)["input_ids"][0])
    assert toy("qwen2_5_vl").question(asked[0]) == "Where is it?"
    wide = picture(62, 56)  # resized to 56 x 56
    assert loaded.in_unit_frame("[28, 14, 56, 56]", wide) == "[0.50000,0.25000,1.00000,1.00000]"
    assert toy("llava_next").in_unit_frame("[28, 14, 56, 56]", wide) == "[28, 14, 56, 56]"

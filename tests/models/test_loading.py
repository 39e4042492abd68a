"""Loading: weights are those of the checkpoint, the picture path is LLaVA's, batches are right."""

import copy
import io
import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.checkpoints import PROMPT, SMALL
from helpers.jobs import compose
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaProcessor

from nuwa.models import adapter_for, family_names
from nuwa.models.checkpoint import ModelError
from nuwa.models.llava import Llava
from nuwa.models.loading import load_model
from nuwa.models.processors import PictureOptions
from nuwa.models.random_vlm import load_random
from nuwa.samples import Sample, to_rgb

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared/data/real"
GOLDEN = json.loads((ROOT / "tests/golden/scoring/image_preprocess.json").read_text(encoding="utf-8"))["samples"]

pytestmark = pytest.mark.usefixtures("offline")


def picture(width=80, height=60, seed=0):
    """A random but not featureless RGB picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def load_image_processor(folder, frame, size):
    """LLaVA-1.5's picture processor for a tower of one size."""
    config = SimpleNamespace(
        vision_config=SimpleNamespace(image_size=size, patch_size=14), vision_feature_select_strategy="default"
    )
    return Llava.pictures(config, folder, PictureOptions(image_frame=frame)).pil


def sample(text="is there a dog?", *images):
    return Sample("a", "vqa", images, text, ("yes",))


def test_saved_model_loads_bit_equal(small, saved):
    loaded = load_model(path=str(saved), prompt=PROMPT)
    assert loaded.family == "llava" and loaded.device.type == "cpu" and not loaded.model.training
    batch = loaded.encode([sample("a", picture())])
    expected = small.encode([sample("a", picture())])
    assert all(torch.equal(batch[key], expected[key]) for key in expected)
    with torch.no_grad():
        assert torch.equal(loaded.model(**batch).logits, small.model(**batch).logits)
    assert adapter_for(loaded.model).model_type == loaded.family


def test_half_precision_checkpoint_is_float32_on_a_cpu(small, checkpoint):
    copy.deepcopy(small.model).to(torch.bfloat16).save_pretrained(checkpoint)
    assert load_model(path=str(checkpoint), prompt=PROMPT, device="cpu").model.dtype == torch.float32
    loaded = load_model(path=str(checkpoint), prompt=PROMPT, device="cpu", dtype="bfloat16", attention="eager")
    assert loaded.model.dtype == torch.bfloat16 and loaded.model.config._attn_implementation == "eager"
    assert loaded.encode([sample("a", picture())])["pixel_values"].dtype == torch.bfloat16


def test_sharded_checkpoint_loads(small, checkpoint):
    (checkpoint / "model.safetensors").unlink()
    small.model.save_pretrained(checkpoint, max_shard_size="50KB")
    shards = sorted(checkpoint.glob("model-*.safetensors"))
    assert len(shards) > 1
    load_model(path=str(checkpoint), prompt=PROMPT)
    shards[1].unlink()
    with pytest.raises(ModelError, match=rf"model\.path=.* lacks {shards[1].name}"):
        load_model(path=str(checkpoint), prompt=PROMPT)


def test_checkpoint_in_the_form_of_the_hubs_llava(small, checkpoint):
    """Published LLaVA-1.5 has older tensor names, a CLIP processor's config that crops, and a Llama tokenizer class."""
    weights = load_file(checkpoint / "model.safetensors")
    renamed = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in weights.items()}
    assert "language_model.model.embed_tokens.weight" in renamed and renamed.keys() != weights.keys()
    save_file(renamed, checkpoint / "model.safetensors", metadata={"format": "pt"})
    clip = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": True, "size": {"shortest_edge": 56}}
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(clip))
    (checkpoint / "processor_config.json").write_text(json.dumps({"patch_size": 14, "image_token": "<image>"}))
    names = json.loads((checkpoint / "tokenizer_config.json").read_text())
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(names | {"tokenizer_class": "LlamaTokenizer"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_model(path=str(checkpoint), prompt=PROMPT)
    batch, expected = (model.encode([sample("is it é?", picture())]) for model in (loaded, small))
    assert all(torch.equal(batch[key], expected[key]) for key in expected)
    with torch.no_grad():
        assert torch.equal(loaded.model(**batch).logits, small.model(**batch).logits)


def test_batch_is_left_padded_and_holds_every_picture(small):
    rows = [sample("one", picture()), sample("two, longer", picture(), picture(30, 90)), sample("none")]
    batch = small.encode(rows)
    assert batch["pixel_values"].shape == (3, 3, 56, 56)
    for row, ids, mask in zip(rows, batch["input_ids"], batch["attention_mask"], strict=True):
        alone = small.encode([row])["input_ids"][0]
        assert mask.sum() == len(alone) and bool(mask[-len(alone) :].all())
        assert torch.equal(ids[-len(alone) :], alone)
        assert alone[0] == small.tokenizer.bos_token_id and (alone == alone[0]).sum() == 1
        assert (ids == small.model.config.image_token_id).sum() == 16 * len(row.images)
    assert "pixel_values" not in small.encode(rows[2:])


def test_encoding_agrees_with_hugging_faces_processor(small):
    processor = LlavaProcessor(small.pictures.pil, small.tokenizer, 14, "default", num_additional_image_tokens=1)
    rows = [sample("one", picture()), sample("two, longer", picture(), picture(30, 90))]
    prompts = [small.tokenizer.bos_token + small.prompt.render(row.text, len(row.images)) for row in rows]
    pictures = [list(row.images) for row in rows]
    expected = processor(text=prompts, images=pictures, return_tensors="pt", padding=True, add_special_tokens=False)
    batch = small.encode(rows)
    assert all(torch.equal(batch[key], expected[key]) for key in ("input_ids", "attention_mask", "pixel_values"))


def test_decode_cuts_the_prompt_off(small):
    batch = small.encode([sample("what?"), sample("what is this?")])
    answers = small.tokenizer([" yes", " no é"], add_special_tokens=False)["input_ids"]
    width = max(map(len, answers))
    tail = torch.tensor([[*ids, *[2] * (width - len(ids))] for ids in answers])
    ids = torch.cat([batch["input_ids"], tail], 1)
    assert small.decode(ids, batch["input_ids"].shape[1]) == ["yes", "no é"]


def test_every_shipped_model_config_names_its_function():
    for file in (ROOT / "conf/model").glob("*.yaml"):
        config = OmegaConf.load(file)
        assert "_target_" in config or "defaults" in config, file.name


PINNED = {"revision", "dtype", "attention", "device", "device_map", "prompt", "image_joiner", "image_end"}


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "conf/model").glob("*.yaml")))
def test_every_checkpoint_config_names_its_revision_kernel_device_and_prompt(name):
    options = compose(f"model={name}").model
    if options._target_.endswith("load_model"):
        assert set(options) >= PINNED
        assert options.path.startswith("package:") or options.path.count("/") == 1
    assert options.name == name and options.family in family_names()


def test_random_llava_has_llavas_shapes_and_needs_no_checkpoint():
    loaded = instantiate(OmegaConf.load(ROOT / "conf/model/llava_1_5_random.yaml"))
    question = "Is there a dog in the image?\nAnswer the question using a single word or phrase."
    batch = loaded.encode([sample(question, picture(640, 480))])
    assert (batch["input_ids"] == loaded.model.config.image_token_id).sum() == 576
    assert batch["pixel_values"].shape == (1, 3, 336, 336)
    assert 576 + 40 < batch["input_ids"].shape[1] < 576 + 80  # about as long as with LLaVA's tokenizer
    ids = batch["input_ids"][0]
    text = loaded.tokenizer.decode(ids[ids != loaded.model.config.image_token_id][1:])
    assert text == loaded.prompt.render(question, 1).replace("<image>", "")


def test_random_weights_follow_the_seed_and_leave_torchs_own_alone():
    state = torch.get_rng_state()
    models = (load_random(prompt=PROMPT, **SMALL, seed=seed).model for seed in (0, 0, 1))
    first, second, other = (model.lm_head.weight for model in models)
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "key"),
    [({"heads": 3}, "hidden_size"), ({"image_size": 50}, "image_size"), ({"vocab_size": 10}, "vocab_size"),
     ({"vision_layers": 1}, "vision_layers")],
)  # fmt: skip
def test_impossible_sizes_are_named(change, key):
    with pytest.raises(ModelError, match=rf"model\.{key}"):
        load_random(prompt=PROMPT, **SMALL | change)


# pictures


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (50, 50), (61, 44), (300, 7)])
def test_padding_is_bit_identical_to_llavas(saved, size):
    image = picture(*size)
    processor = load_image_processor(saved, "pad", 56)
    side, mean, std = max(size), processor.image_mean, processor.image_std
    square = Image.new("RGB", (side, side), tuple(int(255 * value) for value in mean))
    square.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    reference = load_image_processor(saved, "crop", 56)(square, return_tensors="pt")["pixel_values"]
    assert torch.equal(processor(image, return_tensors="pt")["pixel_values"], reference)
    plain = np.asarray(square.resize((56, 56), Image.Resampling.BICUBIC)) / 255
    plain = torch.from_numpy((plain - np.array(mean)) / np.array(std)).permute(2, 0, 1)
    assert torch.allclose(reference[0].double(), plain, atol=1e-6)


def test_frames_differ_and_the_folders_own_is_kept(saved, checkpoint):
    image = picture(80, 40)
    pad, crop = (load_image_processor(saved, frame, 56)(image)["pixel_values"][0] for frame in ("pad", "crop"))
    assert not np.array_equal(pad, crop)
    load_image_processor(saved, "crop", 56).save_pretrained(checkpoint)
    own = load_image_processor(checkpoint, "folder", 56)(image)["pixel_values"][0]
    assert np.array_equal(own, crop)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real photographs in {REAL}")
@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: Path(golden["file"]).stem)
def test_real_photographs_match_the_golden_pixels(saved, golden):
    image = Image.open(REAL / golden["file"])
    pixels = load_image_processor(saved, "pad", 336)(to_rgb(image), return_tensors="pt")["pixel_values"][0]
    assert pixels.mean((1, 2)).tolist() == pytest.approx(golden["llava_pad"]["channel_mean"], abs=1e-5)
    assert pixels.std((1, 2)).tolist() == pytest.approx(golden["llava_pad"]["channel_std"], abs=1e-4)
    for place, values in golden["llava_pad"]["points_yx"].items():
        y, x = map(int, place.split(","))
        assert pixels[:, y, x].tolist() == pytest.approx(values, abs=1e-6)
    crop = load_image_processor(saved, "crop", 336)(to_rgb(image), return_tensors="pt")["pixel_values"][0]
    assert crop.mean((1, 2)).tolist() == pytest.approx(golden["hf_center_crop"]["channel_mean"], abs=1e-5)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16", "I", "YCbCr", "F"])
def test_any_image_mode_becomes_rgb(small, mode):
    grey = picture().convert("L")
    if mode in ("I;16", "I"):
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        image = image if mode == "I;16" else image.convert("I")
    else:
        image = (grey if mode in ("1", "F") else picture()).convert(mode)
    assert image.mode == mode
    converted = to_rgb(image)
    assert converted.mode == "RGB"
    if mode in ("I;16", "I", "F"):
        assert np.array_equal(np.asarray(converted)[..., 0], np.asarray(grey))
    assert small.encode([sample("a", image)])["pixel_values"].shape == (1, 3, 56, 56)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_colour_that_a_png_calls_transparent_is_a_colour(small, mode):
    """Whatever transformers makes of it: pixels are those of the same picture without that note."""
    image, buffer = picture().convert(mode), io.BytesIO()
    plain = small.encode([sample("a", image)])["pixel_values"]
    at = image.getpixel((0, 0))
    image.save(buffer, "PNG", transparency=at)
    noted = Image.open(buffer)
    assert noted.mode == mode and noted.info["transparency"] == at
    assert torch.equal(small.encode([sample("a", noted)])["pixel_values"], plain)
    assert noted.info["transparency"] == at  # the caller's own picture is as it was


@pytest.mark.parametrize("watched", [True, False])
def test_the_bar_of_loading_leaves_nothing_on_the_terminal(watched, monkeypatch):
    """On a terminal it comes and goes; elsewhere nobody would see it."""
    screen = io.StringIO()
    screen.isatty = lambda: watched
    monkeypatch.setattr("sys.stderr", screen)
    instantiate(compose("model=tiny_llava").model)
    written = screen.getvalue()
    assert ("Loading weights" in written) == watched and "\n" not in written
    assert not written.split("\r")[-1].strip()

"""Loading: the picture path is LLaVA's, batches are right, and a broken checkpoint is refused by name."""

import copy
import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from jobs import compose
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaProcessor

from nuwa.benchmarks.base import Sample, to_rgb
from nuwa.models import adapter_for
from nuwa.models.checkpoint import ModelError
from nuwa.models.families import FAMILIES, PictureOptions, square
from nuwa.models.loading import load_model
from nuwa.models.random_configs import Sizes
from nuwa.models.random_vlm import build_tokenizer, load_random, random_vlm

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared/data/real"
GOLDEN = json.loads((ROOT / "tests/golden/scoring/image_preprocess.json").read_text(encoding="utf-8"))["samples"]
PROMPT = "USER: {images}{text} ASSISTANT:"
SMALL = {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 2, "vocab_size": 300} | {
    "vision_hidden_size": 32, "vision_layers": 2, "vision_heads": 2, "image_size": 56}  # fmt: skip


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test of this file may ask the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def small():
    return load_random(PROMPT, **SMALL)


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory):
    """A whole checkpoint folder as Hugging Face saves it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    small.model.save_pretrained(folder)
    small.tokenizer.save_pretrained(folder)
    small.pictures.pil.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path):
    """A copy of the checkpoint that a test may break."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


def picture(width=80, height=60, seed=0):
    """A random but not featureless RGB picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def load_image_processor(folder, frame, size):
    """LLaVA-1.5's picture processor for a tower of one size."""
    config = SimpleNamespace(
        vision_config=SimpleNamespace(image_size=size, patch_size=14), vision_feature_select_strategy="default"
    )
    return square(folder, config, PictureOptions(frame)).pil


def sample(text="is there a dog?", *images):
    return Sample("a", "vqa", images, text, ("yes",))


# what comes out of a good checkpoint


def test_saved_model_loads_bit_equal(small, saved):
    loaded = load_model(str(saved), PROMPT)
    assert loaded.family == "llava" and loaded.device.type == "cpu" and not loaded.model.training
    batch = loaded.encode([sample("a", picture())])
    expected = small.encode([sample("a", picture())])
    assert all(torch.equal(batch[key], expected[key]) for key in expected)
    with torch.no_grad():
        assert torch.equal(loaded.model(**batch).logits, small.model(**batch).logits)
    assert adapter_for(loaded.model).model_type == loaded.family


def test_half_precision_checkpoint_is_float32_on_a_cpu(small, checkpoint):
    copy.deepcopy(small.model).to(torch.bfloat16).save_pretrained(checkpoint)
    assert load_model(str(checkpoint), PROMPT, device="cpu").model.dtype == torch.float32
    loaded = load_model(str(checkpoint), PROMPT, device="cpu", dtype="bfloat16", attention="eager")
    assert loaded.model.dtype == torch.bfloat16 and loaded.model.config._attn_implementation == "eager"
    assert loaded.encode([sample("a", picture())])["pixel_values"].dtype == torch.bfloat16


def test_sharded_checkpoint_loads(small, checkpoint):
    (checkpoint / "model.safetensors").unlink()
    small.model.save_pretrained(checkpoint, max_shard_size="50KB")
    shards = sorted(checkpoint.glob("model-*.safetensors"))
    assert len(shards) > 1
    load_model(str(checkpoint), PROMPT)
    shards[1].unlink()
    with pytest.raises(ModelError, match=rf"model\.path=.* lacks {shards[1].name}"):
        load_model(str(checkpoint), PROMPT)


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
        loaded = load_model(str(checkpoint), PROMPT)
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
    assert options.name == name and options.family in FAMILIES


def test_random_llava_has_llavas_shapes_and_needs_no_checkpoint():
    loaded = instantiate(OmegaConf.load(ROOT / "conf/model/llava_1_5_random.yaml"))
    question = "Is there a dog in the image?\nAnswer the question using a single word or phrase."
    batch = loaded.encode([sample(question, picture(640, 480))])
    assert loaded.pictures.count == 576 and batch["pixel_values"].shape == (1, 3, 336, 336)
    assert 576 + 40 < batch["input_ids"].shape[1] < 576 + 80  # about as long as with LLaVA's tokenizer
    ids = batch["input_ids"][0]
    text = loaded.tokenizer.decode(ids[ids != loaded.model.config.image_token_id][1:])
    assert text == loaded.prompt.render(question, 1).replace("<image>", "")


def test_random_weights_follow_the_seed_and_leave_torchs_own_alone():
    tokenizer, sizes = build_tokenizer("llava", SMALL["vocab_size"]), Sizes(**SMALL)
    state = torch.get_rng_state()
    first, second, other = (random_vlm("llava", tokenizer, sizes, seed=seed).lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "key"),
    [({"heads": 3}, "hidden_size"), ({"image_size": 50}, "image_size"), ({"vocab_size": 10}, "vocab_size"),
     ({"vision_layers": 1}, "vision_layers")],
)  # fmt: skip
def test_impossible_sizes_are_named(change, key):
    with pytest.raises(ModelError, match=rf"model\.{key}"):
        load_random(PROMPT, **SMALL | change)


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


# what is refused


@pytest.mark.parametrize("path", ["no/such/folder", "./missing", "/no/such/place", "missing"])
def test_missing_folder(path):
    with pytest.raises(ModelError, match=r"model\.path=.*does not exist"):
        load_model(path, PROMPT)


def test_package_folder_that_does_not_exist():
    with pytest.raises(ModelError, match=r"model\.path=package:tiny/nothing.*does not exist"):
        load_model("package:tiny/nothing", PROMPT)


def test_hub_id_that_cannot_be_fetched():
    with pytest.raises(ModelError, match=r"no such folder here, and the Hugging Face id"):
        load_model("nuwa-test/not-there", PROMPT)


def test_path_to_a_file(checkpoint):
    with pytest.raises(ModelError, match="is a file"):
        load_model(str(checkpoint / "config.json"), PROMPT)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "preprocessor_config.json"])
def test_missing_file_is_named(checkpoint, name):
    (checkpoint / name).unlink()
    with pytest.raises(ModelError, match=rf"model\.path=.* lacks {name}"):
        load_model(str(checkpoint), PROMPT)


def test_pickled_weights_are_not_loaded(checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is pickled"):
        load_model(str(checkpoint), PROMPT)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_truncated_weights(checkpoint, size):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"model\.safetensors \(\d+ bytes\) is truncated"):
        load_model(str(checkpoint), PROMPT)


def test_text_in_place_of_weights(checkpoint):
    (checkpoint / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_model(str(checkpoint), PROMPT)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_broken_json(checkpoint, name):
    (checkpoint / name).write_text('{"model_type": ')
    with pytest.raises(ModelError, match=rf"{name} is not valid JSON"):
        load_model(str(checkpoint), PROMPT)


def test_checkpoint_that_lacks_tensors_is_not_filled_with_random_ones(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    lost = next(name for name in weights if "layers.1.self_attn.q_proj" in name)
    save_file({name: value for name, value in weights.items() if name != lost}, checkpoint / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 tensors are missing, e\.g\. .*q_proj"):
        load_model(str(checkpoint), PROMPT)


def test_checkpoint_of_another_model(checkpoint):
    save_file({"some.other.weight": torch.zeros(3)}, checkpoint / "model.safetensors")
    with pytest.raises(ModelError, match="weights do not fit"):
        load_model(str(checkpoint), PROMPT)


def test_tensors_of_another_size(checkpoint):
    edit_config(checkpoint, lambda config: config["text_config"].update(intermediate_size=48))
    with pytest.raises(ModelError, match=r"model\.path=.*could not be loaded"):
        load_model(str(checkpoint), PROMPT)


def test_tensors_that_nobody_uses_are_warned_about(checkpoint):
    edit_config(checkpoint, lambda config: config["text_config"].update(num_hidden_layers=1))
    with pytest.warns(UserWarning, match="are not used"):
        load_model(str(checkpoint), PROMPT)


def test_unsupported_architecture_is_named_with_the_supported_ones(checkpoint):
    edit_config(checkpoint, lambda config: config.update(model_type="blip", architectures=["BlipModel"]))
    with pytest.raises(ModelError, match=r"BlipModel.*supported: llava, llava_next, llava_onevision, qwen2_5_vl$"):
        load_model(str(checkpoint), PROMPT)


def test_a_folder_of_another_family_is_named(checkpoint):
    with pytest.raises(ModelError, match=r"model\.family=qwen2_5_vl, but the config\.json .* says llava"):
        load_model(str(checkpoint), PROMPT, family="qwen2_5_vl", image="<|image_pad|>")


def test_options_of_other_families_are_refused(checkpoint):
    with pytest.raises(ModelError, match=r"model\.max_pixels=9: llava models have no such option"):
        load_model(str(checkpoint), PROMPT, max_pixels=9)
    with pytest.raises(ModelError, match=r"model\.box_frame=pixel"):
        load_model(str(checkpoint), PROMPT, box_frame="pixel")
    with pytest.raises(ModelError, match=r"model\.image must contain <image> once"):
        load_model(str(checkpoint), PROMPT, image="<picture>")


def test_tokenizer_of_another_model(checkpoint):
    edit_config(checkpoint, lambda config: config.update(image_token_index=7))
    with pytest.raises(ModelError, match=r"<image> is token 4 in tokenizer\.json, 7 in config\.json"):
        load_model(str(checkpoint), PROMPT)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"dtype": "float8"}, r"model\.dtype=float8 is unknown; choose one of auto, float32"),
        ({"attention": "magic"}, r"model\.attention=magic is unknown"),
        ({"attention": "flash_attention_2", "device": "cpu"}, r"model\.attention=flash_attention_2 needs"),
        ({"device": "tpu9000"}, r"model\.device=tpu9000 is not a device"),
        ({"device": "cuda:99"}, r"model\.device=cuda:99, but this machine has"),
        ({"image_frame": "stretch"}, r"model\.image_frame=stretch is unknown"),
        ({"family": "flamingo"}, r"model\.family=flamingo is unknown; choose one of llava, llava_next"),
        ({"box_frame": "thousandths"}, r"model\.box_frame=thousandths is unknown"),
        ({"box_prompt": "where?"}, r"model\.box_prompt='where\?' lacks the slot \{expression\}"),
    ],
)
def test_unknown_choices_are_refused_before_any_file_is_read(choice, message):
    with pytest.raises(ModelError, match=message):
        load_model("/no/such/folder", PROMPT, **choice)


def edit_config(folder, change):
    """Change the checkpoint's config.json."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))

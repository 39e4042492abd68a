"""A broken checkpoint, and a choice that it cannot serve, are refused by name."""

import pytest
import torch
from helpers.checkpoints import PROMPT, edit_config
from safetensors.torch import load_file, save_file

from nuwa.models import family_names
from nuwa.models.checkpoint import ModelError
from nuwa.models.loading import load_model

pytestmark = pytest.mark.usefixtures("offline")


@pytest.mark.parametrize("path", ["no/such/folder", "./missing", "/no/such/place", "missing"])
def test_missing_folder(path):
    with pytest.raises(ModelError, match=r"model\.path=.*does not exist"):
        load_model(path=path, prompt=PROMPT)


def test_package_folder_that_does_not_exist():
    with pytest.raises(ModelError, match=r"model\.path=package:tiny/nothing.*does not exist"):
        load_model(path="package:tiny/nothing", prompt=PROMPT)


def test_hub_id_that_cannot_be_fetched():
    with pytest.raises(ModelError, match=r"no such folder here, and the Hugging Face id"):
        load_model(path="nuwa-test/not-there", prompt=PROMPT)


def test_path_to_a_file(checkpoint):
    with pytest.raises(ModelError, match="is a file"):
        load_model(path=str(checkpoint / "config.json"), prompt=PROMPT)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "preprocessor_config.json"])
def test_missing_file_is_named(checkpoint, name):
    (checkpoint / name).unlink()
    with pytest.raises(ModelError, match=rf"model\.path=.* lacks {name}"):
        load_model(path=str(checkpoint), prompt=PROMPT)


def test_pickled_weights_are_not_loaded(checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is pickled"):
        load_model(path=str(checkpoint), prompt=PROMPT)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_truncated_weights(checkpoint, size):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"model\.safetensors \(\d+ bytes\) is truncated"):
        load_model(path=str(checkpoint), prompt=PROMPT)


def test_text_in_place_of_weights(checkpoint):
    (checkpoint / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_model(path=str(checkpoint), prompt=PROMPT)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_broken_json(checkpoint, name):
    (checkpoint / name).write_text('{"model_type": ')
    with pytest.raises(ModelError, match=rf"{name} is not valid JSON"):
        load_model(path=str(checkpoint), prompt=PROMPT)


def test_checkpoint_that_lacks_tensors_is_not_filled_with_random_ones(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    lost = next(name for name in weights if "layers.1.self_attn.q_proj" in name)
    save_file({name: value for name, value in weights.items() if name != lost}, checkpoint / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 tensors are missing, e\.g\. .*q_proj"):
        load_model(path=str(checkpoint), prompt=PROMPT)


def test_checkpoint_of_another_model(checkpoint):
    save_file({"some.other.weight": torch.zeros(3)}, checkpoint / "model.safetensors")
    with pytest.raises(ModelError, match="weights do not fit"):
        load_model(path=str(checkpoint), prompt=PROMPT)


def test_tensors_of_another_size(checkpoint):
    edit_config(checkpoint, lambda config: config["text_config"].update(intermediate_size=48))
    with pytest.raises(ModelError, match=r"model\.path=.* 6 tensors are of another shape, e\.g\. .*mlp\.down_proj"):
        load_model(path=str(checkpoint), prompt=PROMPT)


def test_layers_that_the_config_does_not_know(checkpoint):
    edit_config(checkpoint, lambda config: config["text_config"].update(num_hidden_layers=1))
    with pytest.raises(ModelError, match=r"9 tensors of the language model are left over, e\.g\. .*layers\.1\."):
        load_model(path=str(checkpoint), prompt=PROMPT)


def test_tensors_that_nobody_uses_are_warned_about(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    save_file(
        weights | {"vision_tower.head.weight": torch.zeros(3)}, checkpoint / "model.safetensors", {"format": "pt"}
    )
    with pytest.warns(UserWarning, match="are not used"):
        load_model(path=str(checkpoint), prompt=PROMPT)


def test_unsupported_architecture_is_named_with_the_supported_ones(checkpoint):
    edit_config(checkpoint, lambda config: config.update(model_type="blip", architectures=["BlipModel"]))
    with pytest.raises(ModelError, match=rf"BlipModel.*supported: {', '.join(family_names())}$"):
        load_model(path=str(checkpoint), prompt=PROMPT)


def test_a_folder_of_another_family_is_named(checkpoint):
    with pytest.raises(ModelError, match=r"model\.family=qwen2_5_vl, but the config\.json .* says llava"):
        load_model(path=str(checkpoint), prompt=PROMPT, family="qwen2_5_vl", image="<|image_pad|>")


def test_options_of_other_families_are_refused(checkpoint):
    with pytest.raises(ModelError, match=r"model\.max_pixels=9: llava models have no such option"):
        load_model(path=str(checkpoint), prompt=PROMPT, max_pixels=9)
    with pytest.raises(ModelError, match=r"model\.box_frame=pixel"):
        load_model(path=str(checkpoint), prompt=PROMPT, box_frame="pixel")
    with pytest.raises(ModelError, match=r"model\.image must contain <image> once"):
        load_model(path=str(checkpoint), prompt=PROMPT, image="<picture>")


def test_tokenizer_of_another_model(checkpoint):
    edit_config(checkpoint, lambda config: config.update(image_token_index=7))
    with pytest.raises(ModelError, match=r"<image> is token 4 in tokenizer\.json, 7 in config\.json"):
        load_model(path=str(checkpoint), prompt=PROMPT)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"dtype": "float8"}, r"model\.dtype=float8 is unknown; choose one of auto, float32"),
        ({"attention": "magic"}, r"model\.attention=magic is unknown"),
        ({"attention": "flash_attention_2", "device": "cpu"}, r"model\.attention=flash_attention_2 needs"),
        ({"device": "tpu9000"}, r"model\.device=tpu9000 is not a device"),
        ({"device": "cuda:99"}, r"model\.device=cuda:99, but this machine has"),
        ({"image_frame": "stretch"}, r"model\.image_frame=stretch is unknown"),
        ({"family": "flamingo"}, r"model\.family=flamingo is unknown; choose one of .*llava, llava_next"),
        ({"box_frame": "hundredths"}, r"model\.box_frame=hundredths is unknown"),
        ({"box_prompt": "where?"}, r"model\.box_prompt='where\?' lacks the slot \{expression\}"),
    ],
)
def test_unknown_choices_are_refused_before_any_file_is_read(choice, message):
    with pytest.raises(ModelError, match=message):
        load_model(path="/no/such/folder", prompt=PROMPT, **choice)

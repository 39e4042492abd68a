"""InternVL with the LLMs and towers that its checkpoints have; those that it cannot work with are refused."""

import copy
import re

import pytest
import torch
from helpers.conformity import conformity
from helpers.families_toy import toy
from helpers.published import picture
from hydra.errors import InstantiationException
from transformers import GptOssConfig, InternVLProcessor, LlamaConfig, Qwen3Config, Qwen3MoeConfig

import nuwa
from nuwa.models import family_of
from nuwa.models.checkpoint import ModelError
from nuwa.models.loading import load_model
from nuwa.samples import Sample

IMAGES = tuple(picture(seed).resize(size) for seed, size in enumerate(((200, 60), (56, 56), (90, 170))))


def rows():
    return [Sample("a", "vqa", IMAGES[:1], "one", None), Sample("b", "vqa", IMAGES[1:], "<image> or <image>?", None)]


def changed(loaded, text=None, vision=None):
    """The toy with another LLM or tower."""
    config = copy.deepcopy(loaded.model.config)
    if text is not None:
        own = config.text_config
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
        config.text_config = text(**{name: getattr(own, name) for name in names}, num_hidden_layers=2, head_dim=16)
    for name, value in (vision or {}).items():
        setattr(config.vision_config, name, value)
    torch.manual_seed(0)
    model = type(loaded.model)(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if re.search(r"[qk]_norm", name):
                weight.uniform_(1, 4)
            elif weight.dim() == 2 and "language_model.layers" in name:
                weight.mul_(3)
    loaded = copy.copy(loaded)
    loaded.model = model
    return loaded


@pytest.mark.parametrize(
    ("text", "vision"),
    [(Qwen3Config, {}), (LlamaConfig, {}), (None, {"use_qk_norm": True, "norm_type": "rms_norm"})],
    ids=["InternVL3.5", "InternVL2.5", "InternViT-6B"],
)
def test_other_members_conform(text, vision):
    conformity(changed(toy("internvl"), text, vision))


@pytest.mark.parametrize(("text", "name"), [(GptOssConfig, "gpt_oss"), (Qwen3MoeConfig, "qwen3_moe")])
def test_an_llm_that_cannot_be_pruned_is_named(text, name):
    config = copy.deepcopy(toy("internvl").model.config)
    config.text_config = text()
    with pytest.raises(
        ValueError, match=f"internvl with the LLM {name} is not supported; supported: llama, qwen2, qwen3"
    ):
        family_of(config)


@pytest.mark.parametrize(("name", "value"), [("vision_feature_layer", -2), ("vision_feature_select_strategy", "full")])
def test_features_that_are_not_the_towers_last_are_refused(name, value):
    config = copy.deepcopy(toy("internvl").model.config)
    setattr(config, name, value)
    with pytest.raises(ValueError, match=f"internvl models need .*{re.escape(repr(value))}"):
        family_of(config)


def test_inputs_are_those_of_hugging_faces_processor():
    loaded = toy("internvl")
    tokens = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    for name, token in tokens.items():
        setattr(loaded.tokenizer, name, token)
        setattr(loaded.tokenizer, f"{name}_id", loaded.tokenizer.convert_tokens_to_ids(token))
    processor = object.__new__(InternVLProcessor)
    parts = {"image_processor": loaded.pictures.pil, "tokenizer": loaded.tokenizer, "video_processor": None}
    vars(processor).update(parts, video_token="<video>", image_seq_length=4, chat_template=None)
    vars(processor).update(image_token="<IMG_CONTEXT>", start_image_token="<img>", end_image_token="</img>")
    vars(processor).update(multimodal_pattern=re.compile("(?P<image><IMG_CONTEXT>)|(?P<video><video>)"))
    expected = processor(
        text=["<|im_start|>user\n<IMG_CONTEXT>\none<|im_end|>\n<|im_start|>assistant\n",
              "<|im_start|>user\n<IMG_CONTEXT> or <IMG_CONTEXT>?<|im_end|>\n<|im_start|>assistant\n"],
        images=[list(row.images) for row in rows()], return_tensors="pt", padding=True,
    )  # fmt: skip
    batch = loaded.encode(rows())
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values"}
    assert all(torch.equal(batch[key], expected[key]) for key in batch)


def test_a_checkpoint_and_its_limit_of_tiles(tmp_path):
    loaded = toy("internvl")
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    loaded.pictures.pil.save_pretrained(tmp_path)
    options = {"path": str(tmp_path), "family": "internvl", "prompt": "{images}{text}", "image": "<IMG_CONTEXT>"}
    for limit, tiles in ((None, 4), (2 * 56**2, 3), (2 * 56**2 - 1, 1)):
        again = load_model(**options, max_pixels=limit)
        assert len(again.encode(rows()[:1])["pixel_values"]) == tiles
    assert torch.equal(again.model.lm_head.weight, loaded.model.lm_head.weight)
    with pytest.raises(ModelError, match=r"model\.max_pixels=3135 must be at least a tile's 3136"):
        load_model(**options, max_pixels=56**2 - 1)
    with pytest.raises(ModelError, match=r"model\.image_frame=pad: internvl models have no such option"):
        load_model(**options, image_frame="pad")


def test_a_side_that_is_no_whole_number_of_tokens():
    with pytest.raises(InstantiationException, match=r"model\.image_size=70 must be a multiple of 28"):
        toy("internvl", image_size=70)


def test_a_budget_is_a_pictures_across_its_tiles():
    loaded = toy("internvl", image_size=112)
    with torch.no_grad(), nuwa.prune(loaded.model, nuwa.load_pruner("nuwa", budget=10)) as session:
        loaded.model(**loaded.encode(rows()))
    report = session.report()
    assert [image.n_tokens for image in report.images] == [64, 16, 48]
    assert all(abs(sum(image.per_layer) / 2 - 10) <= 0.5 for image in report.images)

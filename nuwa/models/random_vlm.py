"""Real architectures of any size with random weights and a tokenizer of their own: nothing to download.

Tiles, windows, grids, prompts and token counts are the real models'. The answers mean nothing; run times are real at
the sizes given (``conf/model/*_random.yaml`` names those of the 7B models).
"""

from __future__ import annotations

from dataclasses import fields

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nuwa.models.checkpoint import ModelError
from nuwa.models.families import FAMILIES, ImageFrame, PictureOptions
from nuwa.models.loaded import LoadedModel
from nuwa.models.loading import (
    Attention,
    BoxFrame,
    Dtype,
    choose,
    resolve_attention,
    resolve_device,
    resolve_dtype,
)
from nuwa.models.prompts import IMAGE, PromptFormat
from nuwa.models.random_configs import PATCH, RANDOM_FAMILIES, Sizes

BOOSTED = ("language_model.layers", "projector", "self_attn", "visual.blocks", "visual.merger")
"""Whose matrices ``weights_boost`` multiplies: the LLM's, the projector's and the tower's attention."""
TEXTS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: ASSISTANT: Answer the question using a single word or phrase. "
    "Is there a dog in the image? What color is the car on the left? How many people are there? yes no",
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1. Please provide the bounding box coordinate of the "
    "region this sentence describes: [0.12, 0.34, 0.56, 1.0]",
)
"""What the tokenizer learns its merges from, so that a prompt is about as long as under the real tokenizers."""


def build_tokenizer(family: str, vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE learnt from `TEXTS`: at most ``vocab_size`` tokens, and every text round-trips.

    Raises:
        ModelError: the vocabulary cannot hold all bytes and the family's special tokens.
    """
    known = RANDOM_FAMILIES[family]
    smallest = 256 + len(known.special)
    if vocab_size < smallest:
        raise ModelError(f"model.vocab_size={vocab_size} must be at least {smallest}")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in known.special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([*TEXTS, *([known.words] if known.words else [])], trainer)
    named = (known.pad, known.start, known.end)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=known.pad,
        bos_token=known.start,
        eos_token=known.end,
        extra_special_tokens=[token for token in known.special if token not in named],
        padding_side="left",
    )


def random_vlm(
    family: str,
    tokenizer: PreTrainedTokenizerFast,
    sizes: Sizes,
    *,
    seed: int = 0,
    weights_boost: float = 3.0,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """Build the model, its weights a function of ``seed`` (and of the kind of device).

    ``weights_boost`` multiplies the matrices named in `BOOSTED`: at Hugging Face's initial scale attention is all but
    uniform, and no pruning decision could be told from another.

    Raises:
        ModelError: the sizes do not fit the family.
    """
    known = RANDOM_FAMILIES[family]
    if known.whole_patches and sizes.image_size % PATCH:
        raise ModelError(f"model.image_size={sizes.image_size} must be a multiple of {PATCH}")
    place = torch.device(device)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), place:
        torch.manual_seed(seed)
        model = FAMILIES[family].architecture._from_config(
            known.config(tokenizer, sizes), dtype=dtype, attn_implementation=attention
        )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and any(part in name for part in BOOSTED):
                weight.mul_(weights_boost)
    return model.eval()


def load_random(
    prompt: str,
    family: str = "llava",
    name: str = "random",
    dtype: Dtype = "auto",
    attention: Attention = "sdpa",
    device: str = "auto",
    image_frame: ImageFrame = "auto",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    jpeg_quality: int | None = None,
    image: str = IMAGE,
    image_joiner: str = " ",
    image_end: str = "\n",
    box_frame: BoxFrame = "unit",
    box_prompt: str | None = None,
    seed: int = 0,
    weights_boost: float = 3.0,
    hidden_size: int = Sizes.hidden_size,
    intermediate_size: int = Sizes.intermediate_size,
    layers: int = Sizes.layers,
    heads: int = Sizes.heads,
    kv_heads: int | None = Sizes.kv_heads,
    vocab_size: int = Sizes.vocab_size,
    vision_hidden_size: int = Sizes.vision_hidden_size,
    vision_intermediate_size: int | None = Sizes.vision_intermediate_size,
    vision_layers: int = Sizes.vision_layers,
    vision_heads: int = Sizes.vision_heads,
    image_size: int = Sizes.image_size,
) -> LoadedModel:
    """A `random_vlm` with tokenizer, pictures and prompt, as `nuwa.models.loading.load_model` gives a real one.

    ``dtype="auto"`` is float32 on a CPU and the half precision of the family's checkpoints elsewhere.

    Raises:
        ModelError: a size or a choice is impossible.
    """
    given = locals()
    choose("model.family", family, tuple(FAMILIES))
    sizes = Sizes(**{option.name: given[option.name] for option in fields(Sizes)})
    place = resolve_device(device)
    precision, kernel = resolve_dtype(dtype, place), resolve_attention(attention, dtype, place)
    tokenizer = build_tokenizer(family, vocab_size)
    model = random_vlm(
        family,
        tokenizer,
        sizes,
        seed=seed,
        weights_boost=weights_boost,
        dtype=RANDOM_FAMILIES[family].half if precision == "auto" else precision,
        attention=kernel,
        device=place,
    )
    known = FAMILIES[family]
    pictures = known.processor({}, model.config, PictureOptions(image_frame, min_pixels, max_pixels, jpeg_quality))
    prompt_format = PromptFormat(prompt, image_joiner, image_end, image)
    return LoadedModel(
        model, tokenizer, pictures, prompt_format, known.placeholder, family, name, box_frame, box_prompt
    )

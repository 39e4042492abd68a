"""A LLaVA-1.5 of any size with random weights and a tokenizer of its own: the real architecture without a download.

The picture path is LLaVA-1.5's (336 px, CLIP with a CLS token, 24 x 24 patches, penultimate layer, two-layer projector,
Llama). Its answers mean nothing; its shapes, token counts and run times are real at the sizes given. For LLaVA-1.5-7B:
``model.hidden_size=4096 model.intermediate_size=11008 model.layers=32 model.heads=32 model.vocab_size=32064
model.vision_hidden_size=1024 model.vision_layers=24 model.vision_heads=16``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from nuwa.models.checkpoint import ModelError
from nuwa.models.families import FAMILIES, PictureOptions
from nuwa.models.loaded import LoadedModel
from nuwa.models.loading import Attention, Dtype, choose, resolve_attention, resolve_device, resolve_dtype
from nuwa.models.prompts import IMAGE, PromptFormat

PATCH = 14
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", IMAGE)
SMALLEST_VOCABULARY = 256 + len(SPECIAL)
TEXTS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: ASSISTANT: Answer the question using a single word or phrase. "
    "Is there a dog in the image? What color is the car on the left? How many people are there? yes no",
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1. Please provide the bounding box coordinate of the "
    "region this sentence describes: [0.12, 0.34, 0.56, 1.0]",
)
"""What the tokenizer learns its merges from, so that a prompt is about as long as under LLaVA's own tokenizer."""


def build_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE learnt from `TEXTS`: at most ``vocab_size`` tokens, and every text round-trips."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        unk_token=SPECIAL[3],
        extra_special_tokens=[IMAGE],
        padding_side="left",
    )


@dataclass(frozen=True)
class LlavaShape:
    """Sizes of a LLaVA-1.5; patches are 14 px, so that 336 px give its 24 x 24 grid.

    Raises:
        ModelError: the sizes do not fit each other.
    """

    hidden_size: int = 128
    intermediate_size: int = 344
    layers: int = 16
    heads: int = 4
    vocab_size: int = 500
    vision_hidden_size: int = 128
    vision_layers: int = 6
    vision_heads: int = 4
    image_size: int = 336

    def __post_init__(self) -> None:
        for size, heads in (("hidden_size", "heads"), ("vision_hidden_size", "vision_heads")):
            if getattr(self, size) % getattr(self, heads):
                raise ModelError(f"model.{size}={getattr(self, size)} must be a multiple of model.{heads}")
        if self.image_size < PATCH or self.image_size % PATCH:
            raise ModelError(f"model.image_size={self.image_size} must be a multiple of {PATCH}")
        if self.vocab_size < SMALLEST_VOCABULARY:
            raise ModelError(f"model.vocab_size={self.vocab_size} must be at least {SMALLEST_VOCABULARY}")
        if self.vision_layers < 2 or self.layers < 1:
            raise ModelError("model.vision_layers must be at least 2 and model.layers at least 1")


def random_llava(
    tokenizer: PreTrainedTokenizerFast,
    shape: LlavaShape,
    *,
    seed: int = 0,
    weights_boost: float = 3.0,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    device: torch.device | str = "cpu",
) -> LlavaForConditionalGeneration:
    """Build the model, its weights a function of ``seed`` (and of the kind of device).

    ``weights_boost`` multiplies the matrices of the LLM, the projector and the tower's attention: at Hugging Face's
    initial scale attention is all but uniform, and no pruning decision could be told from another.
    """
    place = torch.device(device)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), place:
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration._from_config(
            _config(tokenizer, shape), dtype=dtype, attn_implementation=attention
        )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and ("language_model.layers" in name or "projector" in name or "self_attn" in name):
                weight.mul_(weights_boost)
    return model.eval()


def load_random_llava(
    prompt: str,
    family: str = "llava",
    name: str = "llava_1_5_random",
    dtype: Dtype = "auto",
    attention: Attention = "sdpa",
    device: str = "auto",
    image_frame: Literal["pad", "crop"] = "pad",
    image_joiner: str = " ",
    image_end: str = "\n",
    seed: int = 0,
    weights_boost: float = 3.0,
    hidden_size: int = LlavaShape.hidden_size,
    intermediate_size: int = LlavaShape.intermediate_size,
    layers: int = LlavaShape.layers,
    heads: int = LlavaShape.heads,
    vocab_size: int = LlavaShape.vocab_size,
    vision_hidden_size: int = LlavaShape.vision_hidden_size,
    vision_layers: int = LlavaShape.vision_layers,
    vision_heads: int = LlavaShape.vision_heads,
    image_size: int = LlavaShape.image_size,
) -> LoadedModel:
    """A `random_llava` with tokenizer, processor and prompt, as `nuwa.models.loading.load_model` gives a real one.

    ``dtype="auto"`` is float32 on a CPU and float16, LLaVA-1.5's own, elsewhere.

    Raises:
        ModelError: a size or a choice is impossible.
    """
    shape = LlavaShape(
        hidden_size, intermediate_size, layers, heads, vocab_size, vision_hidden_size, vision_layers, vision_heads,
        image_size,
    )  # fmt: skip
    choose("model.image_frame", image_frame, ("pad", "crop"))
    place = resolve_device(device)
    precision, kernel = resolve_dtype(dtype, place), resolve_attention(attention, dtype, place)
    tokenizer = build_tokenizer(vocab_size)
    model = random_llava(
        tokenizer,
        shape,
        seed=seed,
        weights_boost=weights_boost,
        dtype=torch.float16 if precision == "auto" else precision,
        attention=kernel,
        device=place,
    )
    known = FAMILIES[family]
    pictures = known.processor({}, model.config, PictureOptions(image_frame))
    prompt_format = PromptFormat(prompt, image_joiner, image_end)
    return LoadedModel(model, tokenizer, pictures, prompt_format, known.placeholder, family, name)


def _config(tokenizer: PreTrainedTokenizerFast, shape: LlavaShape) -> LlavaConfig:
    """LLaVA-1.5's config at the given sizes."""
    text = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=shape.vision_hidden_size,
        intermediate_size=4 * shape.vision_hidden_size,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=shape.image_size,
        patch_size=PATCH,
        projection_dim=shape.vision_hidden_size,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(shape.image_size // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )

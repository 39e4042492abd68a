"""Real architectures of any size with random weights and a tokenizer of their own: nothing to download.

Tiles, windows, grids, prompts and token counts are the real models'. The answers mean nothing; run times are real at
the sizes given (``conf/model/*_random.yaml`` names those of the 7B models).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nuwa.models import family_class
from nuwa.models.checkpoint import ModelError
from nuwa.models.loaded import LoadedModel
from nuwa.models.loading import ModelOptions, flat
from nuwa.models.random_configs import Sizes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOOSTED = (
    "language_model.layers",
    "text_model.layers",
    "projector",
    "self_attn",
    ".attention.",
    "visual.blocks",
    "visual.merger",
)
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
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = family_class(family).special
    smallest = 256 + len(special.tokens)
    if vocab_size < smallest:
        raise ModelError(f"model.vocab_size={vocab_size} must be at least {smallest}")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in special.tokens],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([*TEXTS, *([special.words] if special.words else [])], trainer)
    named = (special.pad, special.start, special.end)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=special.pad,
        bos_token=special.start,
        eos_token=special.end,
        extra_special_tokens=[token for token in special.tokens if token not in named],
        padding_side="left",
    )


@dataclass(frozen=True, kw_only=True)
class RandomModel(ModelOptions, Sizes):
    """A model whose weights are a function of ``seed`` (and the kind of device), with tokenizer, pictures and prompt.

    ``weights_boost`` multiplies the matrices named in `BOOSTED`: at Hugging Face's initial scale attention is all but
    uniform, and no pruning decision could be told from another. ``dtype="auto"`` is float32 on a CPU and the half
    precision of the family's checkpoints elsewhere.

    Raises:
        ModelError: a size or a choice is impossible, or does not fit the family.
    """

    name: str = "random"
    seed: int = 0
    weights_boost: float = 3.0

    def __post_init__(self) -> None:
        ModelOptions.__post_init__(self)
        Sizes.__post_init__(self)

    def load(self) -> LoadedModel:
        """The model, its weights drawn."""
        import transformers

        place, dtype, kernel = self.resolved()
        tokenizer = build_tokenizer(self.family, self.vocab_size)
        config, architecture = self.kind.random_config(tokenizer, self), getattr(transformers, self.kind.architecture)
        with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), place:
            torch.manual_seed(self.seed)
            model = architecture._from_config(config, dtype=dtype or self.kind.half, attn_implementation=kernel)
            for weight in model.parameters():
                if weight.dim() == 2 and not weight.any():  # Gemma 3's projector, which would hide every picture
                    torch.nn.init.normal_(weight, std=0.02)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() == 2 and any(part in name for part in BOOSTED):
                    weight.mul_(self.weights_boost)
        return self.completed(model, tokenizer, {})


load_random = flat(RandomModel)
"""The ``_target_`` of random models in ``conf/model``."""

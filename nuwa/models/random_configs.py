"""Sizes of models with random weights, the tokens that their tokenizers need, and parts of their configs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from nuwa.models.checkpoint import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

POSITIONS = 32768
"""As many as the longest prompts of Qwen's checkpoints; nothing else depends on it."""
ROPE = {"rope_type": "default", "rope_theta": 1e6}
"""Rotary embeddings as in Qwen's LLMs."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a random model. ``kv_heads`` null: as many as ``heads``; ``vision_intermediate_size`` null: 4 times.

    ``image_size`` is the side of the square that LLaVA's towers take; Qwen2.5-VL has none.

    Raises:
        ModelError: the sizes do not fit each other.
    """

    patch: ClassVar[int] = 14

    hidden_size: int = 128
    intermediate_size: int = 344
    layers: int = 16
    heads: int = 4
    kv_heads: int | None = None
    vocab_size: int = 500
    vision_hidden_size: int = 128
    vision_intermediate_size: int | None = None
    vision_layers: int = 6
    vision_heads: int = 4
    image_size: int = 336

    def __post_init__(self) -> None:
        pairs = [("hidden_size", "heads"), ("vision_hidden_size", "vision_heads")]
        for size, heads in pairs + ([("heads", "kv_heads")] if self.kv_heads else []):
            if getattr(self, size) % getattr(self, heads):
                raise ModelError(f"model.{size}={getattr(self, size)} must be a multiple of model.{heads}")
        if self.image_size < self.patch:
            raise ModelError(f"model.image_size={self.image_size} must be at least {self.patch}")
        if self.vision_layers < 2 or self.layers < 1:
            raise ModelError("model.vision_layers must be at least 2 and model.layers at least 1")

    def text(self, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """Settings of the LLM's config."""
        ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
        return ends | {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": POSITIONS,
            "num_key_value_heads": self.kv_heads or self.heads,
        }

    @property
    def vision(self) -> dict[str, Any]:
        """Settings of the config of LLaVA's towers."""
        return {
            "hidden_size": self.vision_hidden_size,
            "intermediate_size": self.vision_intermediate_size or 4 * self.vision_hidden_size,
            "num_hidden_layers": self.vision_layers,
            "num_attention_heads": self.vision_heads,
            "image_size": self.image_size,
            "patch_size": self.patch,
        }


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a family's tokenizer, by id; ``pad``, ``end`` and ``start`` of a prompt are among them.

    ``words`` is text that the tokenizer has to know besides questions.
    """

    tokens: tuple[str, ...]
    pad: str = "<pad>"
    start: str | None = "<s>"
    end: str = "</s>"
    words: str = ""

    @classmethod
    def chat(cls, *others: str) -> SpecialTokens:
        """Those of Qwen's chat, in which no token starts a prompt."""
        words = "system\nYou are a helpful assistant.\nuser\nassistant\n"
        return cls(("<|endoftext|>", "<|im_start|>", "<|im_end|>", *others), "<|endoftext|>", None, "<|im_end|>", words)

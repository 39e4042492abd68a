"""Gemma 3: SigLIP pooled to one square of tokens per picture, whose tokens see each other in the LLM; sliding layers.

Received attention stands in for a CLS token's. What is read of patches is said of a token as the mean over its 4 x 4.
Most layers of the LLM see a window only; it counts places of the unpruned prompt, as without pruning.

Shape letters: M pictures, N tokens of a picture, P patches, D tower width, B rows, Q queries, K keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from nuwa.models.base import Family
from nuwa.models.checkpoint import ModelError
from nuwa.models.processors import PictureOptions, PictureProcessor, Source, make_pil, text_processor
from nuwa.models.random_configs import Sizes, SpecialTokens
from nuwa.models.shuffled import ShuffledRecording
from nuwa.pruning.layout import Grid, ImageLayout
from nuwa.pruning.segments import Keys, model_ids

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

START, END = "<start_of_image>", "<end_of_image>"


class PooledRecording(ShuffledRecording):
    """Quantities of a tower whose ``factor`` x ``factor`` patches become their mean before the projector reads them."""

    def _leave_reader(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        side = round(inputs[0].shape[1] ** 0.5)
        pooled = avg_pool2d(inputs[0].mT.unflatten(2, (side, side)).contiguous(), self.factor)  # bit by bit as there
        self._features.setdefault("selected", pooled.flatten(2).mT)

    def as_features(self, states: Tensor) -> Tensor:
        return self.tokens(states).to(self.selected.dtype)


class Gemma3Pictures(PictureProcessor):
    """``pixel_values`` (M, 3, S, S): every picture stretched to a square."""

    marks_placeholders = "token_type_ids"  # without, a picture's tokens would not see each other
    counts = ("num_crops",)


class Gemma3(Family):
    """`Gemma3ForConditionalGeneration`, without pan and scan."""

    model_type = "gemma3"
    architecture = "Gemma3ForConditionalGeneration"
    own_masks = True
    placeholder = "<image_soft_token>"
    projector_at, tower_layers_at = "multi_modal_projector", "vision_tower.encoder.layers"
    special = SpecialTokens(
        ("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", START, END, "<image_soft_token>"),
        start="<bos>",
        end="<end_of_turn>",
        words="user\nmodel\n\n",
    )
    half = torch.bfloat16

    @classmethod
    def random_config(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> PreTrainedConfig:
        """SigLIP, one token of 4 x 4 patches, five (or fewer) sliding layers in front of each full one."""
        from transformers import Gemma3Config, SiglipVisionConfig

        if sizes.image_size % (4 * sizes.patch):
            raise ModelError(f"model.image_size={sizes.image_size} must be a multiple of {4 * sizes.patch}")
        width, vocabulary, period = sizes.hidden_size // sizes.heads, tokenizer.get_vocab(), min(6, sizes.layers)
        kinds = ["sliding_attention"] * (period - 1) + ["full_attention"]
        text = sizes.text(tokenizer) | {
            "head_dim": width,
            "query_pre_attn_scalar": width,
            "layer_types": (kinds * sizes.layers)[: sizes.layers],
        }
        return Gemma3Config(
            vision_config=SiglipVisionConfig(**sizes.vision, vision_use_head=False).to_dict(),
            text_config={"model_type": "gemma3_text", **text, "sliding_window": 512},
            mm_tokens_per_image=(sizes.image_size // sizes.patch // 4) ** 2,
            boi_token_index=vocabulary[START],
            eoi_token_index=vocabulary[END],
            image_token_index=vocabulary[cls.placeholder],
        )

    @classmethod
    def pictures(cls, config: PreTrainedConfig, source: Source, options: PictureOptions) -> Gemma3Pictures:
        from transformers import Gemma3ImageProcessorPil, Gemma3Processor

        options.require_only(cls.model_type)
        side = config.vision_config.image_size
        settings = {"size": {"height": side, "width": side}, "do_pan_and_scan": False}
        pil = make_pil(Gemma3ImageProcessorPil, source, settings)
        text = f"\n\n{START}{cls.placeholder * config.mm_tokens_per_image}{END}\n\n"
        return Gemma3Pictures(pil, text_processor(Gemma3Processor, pil, cls.placeholder, full_image_sequence=text))

    @property
    def grid(self) -> Grid:
        side = round(self.config.mm_tokens_per_image**0.5)
        return side, side

    @property
    def vision_width(self) -> int:
        return self.config.vision_config.hidden_size

    def layouts(self, images: Sequence[Tensor], arguments: Mapping[str, Any]) -> list[ImageLayout]:
        return [ImageLayout.single(self.grid) for _ in images]

    def project(self, features: Tensor) -> Tensor:
        features = features.mT.contiguous().mT  # as they lie in memory there, for the same bits
        normed = self.projector.get_submodule("mm_soft_emb_norm")(features)
        return (normed @ self.projector.get_parameter("mm_input_projection_weight")).type_as(features)

    def new_recording(self, arguments: Mapping[str, Any]) -> PooledRecording:
        vision, depth = self.config.vision_config, self.config.vision_config.num_hidden_layers
        factor, counts = vision.image_size // vision.patch_size // self.grid[0], [1] * len(arguments["pixel_values"])
        return PooledRecording(self.tower_layers, self.projector, depth - 1, counts, factor)

    def companions(self, kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """None travel; but the masks show whether pictures were marked.

        Raises:
            ValueError: they were not, so that the unpruned model would read them as text, from left to right.
        """
        masks = kwargs.get("attention_mask")
        mask = masks.get("full_attention") if isinstance(masks, dict) else None
        seen = None if mask is None else mask if mask.dtype == torch.bool else mask == 0
        if seen is None or seen.dim() != 4 or not bool(seen.triu(1).any()):
            raise ValueError(
                "gemma3: pass token_type_ids (1 on placeholders of pictures), as its processor gives them, and load "
                "it with sdpa or eager attention: without, a picture's tokens do not see each other"
            )
        return {}

    @property
    def frequencies(self) -> Tensor:
        """As in `Family`, of the layers that see everything."""
        return self.language_model.get_submodule("rotary_emb").get_buffer("full_attention_inv_freq")

    def layer_kind(self, layer: int) -> str:
        return self.config.text_config.layer_types[layer]

    def rotary(self, kind: str, hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.language_model.get_submodule("rotary_emb")(hidden, model_ids(ids.to(hidden.device)), kind)

    def sees(self, kind: str, keys: Keys, query: Tensor) -> Tensor:
        image, place = keys.image, keys.place
        behind = query[:, None] >= torch.arange(image.shape[1], device=query.device)
        together = (image[:, query, None] == image[:, None]) & (image[:, None] >= 0)
        seen = (behind | together) & keys.valid[:, None]
        if kind == "sliding_attention":
            seen &= place[:, query, None] - place[:, None] < self.config.text_config.sliding_window
        return seen

    def layer_mask(self, kind: str, keys: Keys, queries: int, padded: bool, dtype: torch.dtype) -> Tensor:
        """As in `Family`. Sliding layers cache the last tokens only, of those that stay."""
        config: Any = self.language_model.config
        length = keys.valid.shape[1]
        seen = self.sees(kind, keys, torch.arange(length - queries, length, device=keys.valid.device))[:, None]
        if kind == "sliding_attention":
            seen = seen[..., -min(length, config.sliding_window - 1 + queries) :]
        if config._attn_implementation == "sdpa":
            return seen
        return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)

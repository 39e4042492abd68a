"""Qwen3-VL: three layers of its tower feed three layers of its LLM as well (deepstack); interleaved M-RoPE.

Its LLM adds plane n of deepstack features to the visual tokens after layer n. Here each plane is a companion of the
tokens, one row a token and zeros for text, and is added on entry of layer n + 1: to the tokens that are left there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nuwa.models.qwen import InterleavedQwenVL
from nuwa.models.random_configs import Sizes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from nuwa.models.decoder import GenerativeModel

PLANE = "deepstack_{}"
"""Name of a plane as a companion."""


class Qwen3VL(InterleavedQwenVL):
    """`Qwen3VLForConditionalGeneration`.

    Raises:
        ValueError: a config whose last plane would be added behind the last layer.
    """

    model_type = "qwen3_vl"
    architecture = "Qwen3VLForConditionalGeneration"
    planes_at = "deepstack_features"

    def __init__(self, config: PreTrainedConfig, model: GenerativeModel | None = None) -> None:
        super().__init__(config, model)
        layers = config.text_config.num_hidden_layers
        if self.planes >= layers:
            raise ValueError(
                f"{self.model_type} models need more layers than deepstack planes: {layers} and {self.planes}"
            )

    @classmethod
    def random_config(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> PreTrainedConfig:
        """Deepstack planes at 3, 6 and 9 tenths of the tower, fewer where the LLM is shallow."""
        from transformers import Qwen3VLConfig

        return Qwen3VLConfig(**cls.random_parts(tokenizer, sizes))

    @classmethod
    def random_parts(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> dict[str, Any]:
        step = max(1, 3 * sizes.vision_layers // 10)
        planes = [at for at in (step, 2 * step, 3 * step) if at < sizes.vision_layers][: sizes.layers - 1]
        parts = super().random_parts(tokenizer, sizes)
        parts["vision_config"]["deepstack_visual_indexes"] = planes
        return parts

    @property
    def planes(self) -> int:
        return len(self.config.vision_config.deepstack_visual_indexes)

    def companions(self, kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        planes = kwargs.get("deepstack_visual_embeds") or ()
        return {PLANE.format(n): beside_text(plane, kwargs["visual_pos_masks"]) for n, plane in enumerate(planes)}

    def with_companions(self, kwargs: Mapping[str, Any], companions: Mapping[str, Tensor]) -> dict[str, Any]:
        """The LLM itself adds nothing: its planes come by `enter_layer`."""
        return {**kwargs, "deepstack_visual_embeds": None, "visual_pos_masks": None}

    def enter_layer(
        self, layer: int, hidden: Tensor, kwargs: Mapping[str, Any], companions: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Any]]:
        plane = companions.get(PLANE.format(layer - 1))
        return (hidden if plane is None else hidden + plane.to(hidden)), dict(kwargs)


def beside_text(rows: Tensor, where: Tensor) -> Tensor:
    """Rows (V, H) of the tokens ``where`` (B, L) bool has, in order, as one plane (B, L, H) with zeros elsewhere.

    >>> import torch
    >>> beside_text(torch.tensor([[5.0], [6.0]]), torch.tensor([[False, True], [True, False]])).tolist()
    [[[0.0], [5.0]], [[6.0], [0.0]]]
    """
    where = where.to(rows.device)
    return rows.new_zeros(*where.shape, rows.shape[-1]).masked_scatter(where[..., None], rows)

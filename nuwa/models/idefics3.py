"""Idefics3 and SmolVLM (1): tiles between texts that say which row and column they are, SigLIP, 1-D positions.

Received attention stands in for a CLS token's. The texts between tiles stay, as all text does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from nuwa.models.base import FOUND
from nuwa.models.checkpoint import ModelError
from nuwa.models.processors import PictureOptions, PictureProcessor, Source, make_pil, text_processor
from nuwa.models.random_configs import Sizes, SpecialTokens
from nuwa.models.shuffled import ShuffledFamily, ShuffledRecording
from nuwa.models.tiles import check_sizes, picture_grids, placeholder_runs
from nuwa.pruning.layout import Grid
from nuwa.samples import to_rgb

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

TILE_MARKERS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
"""Tokens in front of a tile; the real tokenizers have as many."""


class Idefics3Pictures(PictureProcessor):
    """``pixel_values`` (M, T, 3, S, S), tiles filled up with zeros, ``pixel_attention_mask`` (M, T, S, S), 0 on these.

    ``rows`` and ``cols``: how many tiles high and wide each picture is, 0 where it is one tile.
    """

    counts = ("rows", "cols")

    def encode(self, images: Sequence[Image.Image]) -> dict[str, Any]:
        return dict(self.pil([[to_rgb(image)] for image in images], return_tensors="pt"))


class Idefics3(ShuffledFamily):
    """`Idefics3ForConditionalGeneration`, for pictures. A row of its ``pixel_values`` may hold several.

    Raises:
        ValueError: an LLM that is not supported.
    """

    model_type = "idefics3"
    architecture = "Idefics3ForConditionalGeneration"
    projector_at, tower_layers_at = "connector.modality_projection", "vision_model.encoder.layers"
    special = SpecialTokens(
        (
            "<pad>",
            "<|im_start|>",
            "<end_of_utterance>",
            "<fake_token_around_image>",
            "<image>",
            "<global-img>",
            *TILE_MARKERS,
        ),
        start="<|im_start|>",
        end="<end_of_utterance>",
        words="User: Assistant:\n\n",
    )
    half = torch.bfloat16
    names: ClassVar[tuple[str, str, str]] = ("Idefics3Config", "Idefics3ImageProcessorPil", "Idefics3Processor")
    """transformers' classes of its config, of its pictures and of its texts."""

    @classmethod
    def random_config(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> PreTrainedConfig:
        """SigLIP without a CLS token, tokens of 2 x 2 patches, Llama."""
        import transformers

        if sizes.image_size % (2 * sizes.patch):
            raise ModelError(f"model.image_size={sizes.image_size} must be a multiple of {2 * sizes.patch}")
        return getattr(transformers, cls.names[0])(
            vision_config=sizes.vision,
            text_config={"model_type": "llama", **sizes.text(tokenizer), "rms_norm_eps": 1e-5},
            image_token_id=tokenizer.get_vocab()[cls.placeholder],
            scale_factor=2,
        )

    @classmethod
    def pictures(cls, config: PreTrainedConfig, source: Source, options: PictureOptions) -> Idefics3Pictures:
        import transformers

        options.require_only(cls.model_type, "max_pixels")
        vision, side = config.vision_config, config.vision_config.image_size
        settings: dict[str, Any] = {"max_image_size": {"longest_edge": side}, "return_row_col_info": True}
        if options.max_pixels is not None and options.max_pixels < side**2:
            raise ModelError(f"model.max_pixels={options.max_pixels} must be at least a tile's {side**2}")
        if options.max_pixels is not None or isinstance(source, dict):
            settings["size"] = {"longest_edge": math.isqrt(options.max_pixels or (4 * side) ** 2)}
        pil = make_pil(getattr(transformers, cls.names[1]), source, settings)
        tokens = {
            "fake_image_token": "<fake_token_around_image>",
            "image_seq_len": (side // vision.patch_size // config.scale_factor) ** 2,
        }
        tokens |= {"global_image_tag": "<global-img>", "global_image_token": "<global-img>"}
        return Idefics3Pictures(
            pil, text_processor(getattr(transformers, cls.names[2]), pil, cls.placeholder, **tokens)
        )

    @property
    def factor(self) -> int:
        return self.config.scale_factor

    @property
    def square(self) -> Grid:
        side = self.config.vision_config.image_size // self.config.vision_config.patch_size
        return side, side

    @property
    def language_model(self) -> nn.Module:
        return self.multimodal.get_submodule("text_model")

    def real(self, arguments: Mapping[str, Any]) -> Tensor:
        """Which tiles (rows, T) are pictures' and not zeros, as the model finds out itself."""
        return arguments["pixel_values"].flatten(2).any(-1)

    def tiles(self, arguments: Mapping[str, Any]) -> Tensor:
        return arguments["pixel_values"][self.real(arguments)]

    def find_grids(self, arguments: Mapping[str, Any]) -> list[Grid]:
        """As in `ShuffledFamily`; no picture goes on in the next row.

        Raises:
            ValueError: a tile is padded, so that the tower does not look at all of it.
        """
        real, mask = self.real(arguments), arguments.get("pixel_attention_mask")
        if mask is not None and not bool(mask[real].all()):
            raise ValueError(
                f"{self.model_type}: padded tiles are not supported with pruning; let the processor resize"
            )
        rows = self.tiles(arguments).split(real.sum(1).tolist())
        return [grid for row in rows for grid in picture_grids(row, self.config.vision_config.patch_size)]

    def split(self, features: Sequence[Tensor], arguments: Mapping[str, Any]) -> list[Tensor]:
        """Features of rows as those of pictures."""
        return list(torch.cat(list(features)).split([count * self.side**2 for count in self.counts(arguments)]))

    def join(self, images: Sequence[Tensor], features: Any) -> Any:
        """As in `Family`; before transformers 5.23 the model gives one tensor of tiles."""
        if torch.is_tensor(features):
            return torch.cat(list(images)).unflatten(0, (-1, features.shape[1]))
        return list(images)

    def select_images(self, arguments: Mapping[str, Any], images: Sequence[int]) -> dict[str, Any]:
        """As in `Family`; every picture gets a row of its own."""
        pixels, grids = self.pixels(arguments), self.grids(arguments)
        rows = pad_sequence([pixels[image] for image in images], batch_first=True)
        chosen = {**arguments, "pixel_values": rows, FOUND: [grids[image] for image in images]}
        return {name: value for name, value in chosen.items() if name != "pixel_attention_mask"}

    def check_prompt(self, input_ids: Tensor, sizes: Sequence[int]) -> None:
        """As in `Family`.

        In front of a tile stand a token that is the same for all and one that says which tile it is. The former also
        follows a picture, but no tile within one.
        """
        rows, starts, ends = placeholder_runs(input_ids == self.placeholder_id)
        after = input_ids[rows[:-1], ends[:-1].clamp(max=input_ids.shape[1] - 1)]
        fence = input_ids[rows[1:], starts[1:] - 2]
        goes_on = (rows[1:] == rows[:-1]) & ((starts[1:] - ends[:-1] == 2) | (after != fence))
        number = pad(~goes_on, (1, 0)).cumsum(0)
        found = torch.zeros(int(number[-1]) + 1, dtype=torch.long, device=rows.device).index_add(
            0, number, ends - starts
        )
        check_sizes(rows[pad(~goes_on, (1, 0), value=True)], found, len(input_ids), sizes)

    def new_recording(self, arguments: Mapping[str, Any]) -> ShuffledRecording:
        parts = self.tower_layers, self.projector, self.feature_layer, self.counts(arguments)
        return ShuffledRecording(*parts, self.factor)

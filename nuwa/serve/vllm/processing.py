"""Pictures of requests as the project prepares them, and as many placeholders in the prompt as tokens will stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from PIL import Image
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

from nuwa.models.checkpoint import find_folder
from nuwa.samples import to_rgb
from nuwa.serve.positions import ids_taken
from nuwa.serve.settings import CONFIG_KEY, READING, Served, places_ids
from nuwa.serve.vision import COUNT, TAKEN, Pictures


class PictureParser(MultiModalDataParser):
    """Makes pictures RGB as the project does: vLLM lays transparent ones on white, and clips grey of 16 bits."""

    def _parse_image_data(self, data: Any) -> Any:
        images = [data] if isinstance(data, Image.Image) else data
        if isinstance(images, Sequence):
            images = [to_rgb(image) if isinstance(image, Image.Image) else image for image in images]
        return super()._parse_image_data(images)


class PictureInfo(BaseProcessingInfo):
    """What vLLM asks about pictures before it has any."""

    @cached_property
    def served(self) -> Served:
        """The settings of the server."""
        return Served.read(getattr(self.get_hf_config(), CONFIG_KEY, None))

    @cached_property
    def pictures(self) -> Pictures:
        """What prepares pictures."""
        folder = find_folder(self.model_id, self.ctx.model_config.revision)
        return Pictures(self.get_hf_config(), self.served, folder)

    def get_data_parser(self) -> MultiModalDataParser:
        return PictureParser(
            expected_hidden_size=self._get_expected_hidden_size(),
            allow_missing_mm_embeddings=self.allow_missing_mm_embeddings,
        )

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": None}

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        return {}

    @cached_property
    def largest(self) -> Image.Image:
        """A picture of as many tokens as one can have."""
        return Image.new("RGB", self.pictures.largest)

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """As many as the tower works on: vLLM measures its memory by them."""
        return {"image": math.prod(self.pictures.grid(self.largest))}

    def taken(self, image: Image.Image) -> int:
        """How many ids a picture takes up."""
        return ids_taken(self.pictures.grid(image), self.pictures.family.axes)


class DummyPictures(BaseDummyInputsBuilder[PictureInfo]):
    """Prompts by which vLLM measures what memory pictures take."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return self.info.pictures.family.placeholder * mm_counts.get("image", 0) + "a"  # no prompt ends with a picture

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        return {"image": [self.info.largest] * mm_counts.get("image", 0)}


def check_preparation(processing: Mapping[str, object], reading: Mapping[str, Mapping[str, object]]) -> None:
    """Refuse a request that wants its pictures prepared in another way.

    Raises:
        ValueError: it does.
    """
    read = reading.get("image", READING["image"])
    wishes = {"mm_processor_kwargs": processing, "media_io_kwargs": {} if read == READING["image"] else read}
    for name, options in wishes.items():
        if options:
            given = ", ".join(sorted(options))
            raise ValueError(f"{name} ({given}): all pictures are prepared as the server was started with")


class PictureProcessing(BaseMultiModalProcessor[PictureInfo]):
    """From the pictures of a request to inputs of the model."""

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """As vLLM's, behind what is refused: later, it would leave traces in the cache of pictures."""
        check_preparation(inputs.hf_processor_mm_kwargs, inputs.media_io_kwargs)
        self.check(inputs.prompt, [image for items in inputs.mm_data_items.values() for image in items.get_all()])
        return super().apply(inputs, timing_ctx)

    def check(self, prompt: Sequence[int], images: Sequence[Image.Image | None]) -> None:
        """Refuse what vLLM does not look at, as tokens that left are none to it.

        Raises:
            ValueError: the prompt has another number of places for pictures; its ids are more than the model has; or it
                ends with a picture, and the next id would not be known.
        """
        token, info = self.info.pictures.family.placeholder_id, self.info
        places = prompt.count(token)
        if places != len(images):
            raise ValueError(f"the prompt has places for {places} pictures, and {len(images)} came")
        if not places_ids(info.served, info.pictures.family):
            return
        if prompt[-1] == token:
            raise ValueError("the prompt ends with a picture; put the question, or the assistant's turn, behind it")
        if any(image is None for image in images):
            raise ValueError("a picture was named by its uuid alone; send the picture, too")
        taken = len(prompt) - places + sum(map(info.taken, images))
        longest = info.get_hf_config().text_config.max_position_embeddings
        if taken > longest:
            raise ValueError(f"a prompt that takes {taken} positions before pruning, and the model has {longest}")

    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        return BatchFeature(self.info.pictures.encode(hf_data["images"]))

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        one_each = MultiModalFieldConfig.batched("image")
        sizes = MultiModalFieldConfig.batched("image", keep_on_cpu=True)
        found = {"pixel_values": one_each, COUNT: sizes, TAKEN: sizes}
        grids = hf_inputs.get("image_grid_thw")
        if grids is None:
            return found
        patches = MultiModalFieldConfig.flat_from_sizes("image", grids.prod(-1))
        return found | {"pixel_values": patches, "image_grid_thw": sizes}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        token = self.info.pictures.family.placeholder_id

        def replacement(item: int) -> list[int]:
            return [token] * int(out_mm_kwargs["image"][item][COUNT].data)

        return [PromptReplacement(modality="image", target=[token], replacement=replacement)]

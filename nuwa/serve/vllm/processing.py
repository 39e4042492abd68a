"""Pictures of requests as the project prepares them, and as many placeholders in the prompt as tokens will stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from PIL import Image
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

from nuwa.models.checkpoint import find_folder
from nuwa.serve.positions import PictureSpan, prompt_ids
from nuwa.serve.settings import CONFIG_KEY, Served, places_ids
from nuwa.serve.vision import COUNT, TAKEN, Pictures


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

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": None}

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        return {}

    @cached_property
    def largest(self) -> Image.Image:
        """A picture of as many tokens as one can have."""
        return Image.new("RGB", self.pictures.largest)

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        return {"image": int(self.pictures.encode([self.largest])[COUNT])}


class DummyPictures(BaseDummyInputsBuilder[PictureInfo]):
    """Prompts by which vLLM measures what memory pictures take."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return self.info.pictures.family.placeholder * mm_counts.get("image", 0) + "a"  # no prompt ends with a picture

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        return {"image": [self.info.largest] * mm_counts.get("image", 0)}


class PictureProcessing(BaseMultiModalProcessor[PictureInfo]):
    """From the pictures of a request to inputs of the model."""

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """As vLLM's.

        Raises:
            ValueError: what vLLM does not look at, as the tokens that left are none to it: the ids of the prompt are
                more than the model has, or the prompt ends with a picture, and the next id would not be known.
        """
        made = super().apply(inputs, timing_ctx)
        family, ids = self.info.pictures.family, made["prompt_token_ids"]
        if not places_ids(self.info.served, family):
            return made
        if ids[-1:] == [family.config.image_token_id]:
            raise ValueError("the prompt ends with a picture; put the question, or the assistant's turn, behind it")
        images = [image for items in inputs.mm_data_items.values() for image in items.get_all()]
        if any(image is None for image in images):
            raise ValueError("a picture was named by its uuid alone; send the picture, too")
        held = zip(made["mm_placeholders"].get("image", []), map(self.info.pictures.taken, images), strict=True)
        spans = [PictureSpan(place.offset, place.length, taken) for place, taken in held]
        _, following = prompt_ids(len(ids), spans, placed=True)
        longest = self.info.get_hf_config().text_config.max_position_embeddings
        if following > longest:
            raise ValueError(f"a prompt that takes {following} positions before pruning, and the model has {longest}")
        return made

    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        if hf_kwargs:
            options = ", ".join(sorted(hf_kwargs))
            raise ValueError(
                f"mm_processor_kwargs ({options}): all pictures are prepared as the server was started with"
            )
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
        token = self.info.get_hf_config().image_token_id

        def replacement(item: int) -> list[int]:
            return [token] * int(out_mm_kwargs["image"][item][COUNT].data)

        return [PromptReplacement(modality="image", target=[token], replacement=replacement)]

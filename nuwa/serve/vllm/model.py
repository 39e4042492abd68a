"""The served model: the project's vision side, and vLLM's language model behind it.

vLLM calls `embed_multimodal` for the pictures of all requests that are due, and keeps what it returns until the prompt
has been read, maybe chunk by chunk. The ids of a picture's tokens travel in further columns of their features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import (
    SupportsMRoPE,
    SupportsMultiModal,
    SupportsMultiModalPruning,
)
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY

from nuwa.models import family_of
from nuwa.serve.positions import PictureSpan, place_ids, prompt_ids, with_ids, without_ids
from nuwa.serve.settings import CONFIG_KEY, Served, check_served, places_ids
from nuwa.serve.vision import TAKEN, Vision, tower_alone
from nuwa.serve.vllm import LLAMA, QWEN3
from nuwa.serve.vllm.checks import check_engine, check_switches
from nuwa.serve.vllm.processing import DummyPictures, PictureInfo, PictureProcessing

DECODERS = {"llama": LLAMA, "qwen3_vl_text": QWEN3} | dict.fromkeys(
    ("qwen2", "qwen2_vl_text", "qwen2_5_vl_text"), "Qwen2ForCausalLM"
)
"""vLLM's architecture of each text model."""
INPUTS = ("pixel_values", "image_grid_thw")
"""What the tower takes."""


@MULTIMODAL_REGISTRY.register_processor(PictureProcessing, info=PictureInfo, dummy_inputs=DummyPictures)
class NuwaForConditionalGeneration(nn.Module, SupportsMultiModal, SupportsMRoPE, SupportsMultiModalPruning):
    """A model of a supported family under a pruner.

    Raises:
        ValueError: what `check_served` refuses, or a text model that vLLM is not told of here.
    """

    planes: Tensor | None
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            "model.vision_tower.": "vision.model.vision_tower.",
            "model.multi_modal_projector.": "vision.model.multi_modal_projector.",
            "model.visual.": "vision.model.visual.",
            "model.language_model.": "language_model.model.",
            "vision_tower.": "vision.model.vision_tower.",
            "multi_modal_projector.": "vision.model.multi_modal_projector.",
            "visual.": "vision.model.visual.",
            "lm_head.": "language_model.lm_head.",
            "model.": "language_model.model.",
        },
        orig_to_new_substr={"vision_tower.vision_model.": "vision_tower."},
    )

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Nothing: the chat template writes placeholders."""
        return None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        served, self.config = Served.read(getattr(config, CONFIG_KEY, None)), config
        family = family_of(config)
        check_served(served, family)
        self.placed = places_ids(served, family)
        check_switches(vllm_config, served, family)
        check_engine(vllm_config)
        text = config.text_config
        if text.model_type not in DECODERS:
            raise ValueError(f"text model {text.model_type}: vLLM is told of {', '.join(DECODERS)} only")
        own: Any = self  # with vLLM's methods, which mypy does not see
        own.configure_mm_token_handling(text.vocab_size, [config.image_token_id])
        with own._mark_tower_model(vllm_config, "image"):
            self.vision = tower_alone(config, served.attention, vllm_config.model_config.dtype)
        most = vllm_config.scheduler_config.max_num_batched_tokens
        self._side = Vision(config, served, self.vision, most)
        with own._mark_language_model(vllm_config):
            self.language_model: Any = init_vllm_registered_model(
                vllm_config,
                hf_config=text,
                architectures=[DECODERS[text.model_type]],
                prefix=maybe_prefix(prefix, "language_model"),
            )
        planes = torch.zeros(most, family.planes, text.hidden_size) if family.planes else None
        self.register_buffer("planes", planes, persistent=False)  # in one place, as compiled graphs want their inputs

    def embed_multimodal(self, **kwargs: Any) -> list[Tensor]:
        """The tokens of each picture that stay (`Vision.encode`), where ids are placed with them (`with_ids`)."""
        if kwargs.get("pixel_values") is None:
            return []
        weight = next(self.vision.parameters())
        inputs = {name: _joined(kwargs[name]).to(weight.device) for name in INPUTS if name in kwargs}
        inputs["pixel_values"] = inputs["pixel_values"].to(weight.dtype)
        return [with_ids(*kept) if self.placed else kept[0] for kept in self._side.encode(inputs)]

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Ids (3, N) of a prompt whose pictures have not been seen, and how far those behind it are ahead of places."""
        spans = [
            PictureSpan(seen.mm_position.offset, seen.mm_position.length, int(seen.data[TAKEN].data))
            for seen in mm_features
        ]
        ids, following = prompt_ids(len(input_tokens), spans, self.placed)
        return ids, following - len(input_tokens)

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """Place the ids of the pictures' tokens that are due, from ``num_computed_tokens`` of the prompt on.

        The prompt ends with text, whose ids are final: the last says where an answer goes on.
        """
        ids, ahead = mrope_positions, int(mrope_positions[0, -1]) + 1 - mrope_positions.shape[1]
        if not multimodal_embeddings:
            return [], ids, ahead
        pairs = [without_ids(features) for features in multimodal_embeddings]
        kept = torch.cat([own for _, own in pairs], 1).to(ids.device)
        tokens = torch.as_tensor(input_ids, device=ids.device)
        due = (tokens[num_computed_tokens:] == self.config.image_token_id).nonzero()[: kept.shape[1], 0]
        return [features for features, _ in pairs], place_ids(ids, due + num_computed_tokens, kept), ahead

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Sequence[Tensor] | None = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """Embeddings (N, H) of a step's tokens; further planes of pictures' tokens are laid by for `forward`."""
        pictures = list(multimodal_embeddings or ())
        if self.planes is not None:
            planes, width = self.planes[: len(input_ids)].zero_(), self.planes.shape[2]
            if pictures:
                planes[is_multimodal] = torch.cat([seen[:, width:].unflatten(1, (-1, width)) for seen in pictures])
            pictures = [seen[:, :width] for seen in pictures]
        own: Any = super()
        return own.embed_input_ids(input_ids, pictures, is_multimodal=is_multimodal)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The decoder's states."""
        planes = {} if self.planes is None else {"planes": self.planes[: positions.shape[-1]]}
        return self.language_model.model(input_ids, positions, None, inputs_embeds=inputs_embeds, **planes)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """The head."""
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Take the weights of a checkpoint, by the names of any transformers."""
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)


def _joined(values: Tensor | Sequence[Tensor]) -> Tensor:
    """Inputs of several pictures, which vLLM hands over one by one where they differ in size."""
    return values if torch.is_tensor(values) else torch.cat(list(values))

"""A model that is ready to answer: samples become tensors, token ids become text, boxes become fractions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nuwa.models.boxes import BOX_FRAMES, to_unit_boxes
from nuwa.models.checkpoint import ModelError
from nuwa.models.processors import NativeProcessor, PictureProcessor
from nuwa.models.prompts import PromptError, PromptFormat, expand_images
from nuwa.samples import Sample, SampleError


@dataclass
class LoadedModel:
    """A model with everything between a `Sample` and its tensors, and between token ids and text.

    ``placeholder`` is the token that stands for a visual token in prompts. ``box_frame`` says how the model writes
    boxes: ``unit``, fractions of the picture, or ``pixel``, whole pixels of the resized picture. ``box_prompt`` (slot
    ``{expression}``) is how the model was taught to be asked for a box, null to ask as the benchmark does.

    Raises:
        ModelError: the parts do not fit each other.
    """

    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    pictures: PictureProcessor
    prompt: PromptFormat
    placeholder: str
    family: str
    name: str
    box_frame: str = "unit"
    box_prompt: str | None = None

    def __post_init__(self) -> None:
        config = self.model.config
        found = self.tokenizer.convert_tokens_to_ids(self.placeholder)
        if found != config.image_token_id:
            raise ModelError(
                f"model {self.name}: {self.placeholder} is token {found} in tokenizer.json, "
                f"{config.image_token_id} in config.json"
            )
        if self.prompt.image.count(self.placeholder) != 1:
            raise ModelError(f"model.image must contain {self.placeholder} once, but is {self.prompt.image!r}")
        check_boxes(self.box_frame, self.box_prompt)
        if self.box_frame == "pixel" and not isinstance(self.pictures, NativeProcessor):
            raise ModelError(f"model.box_frame=pixel: {self.family} models have no resized picture of their own")
        rows = self.model.get_input_embeddings().weight.shape[0]
        if len(self.tokenizer) > rows:
            raise ModelError(f"model {self.name}: the tokenizer has {len(self.tokenizer)} tokens, the model {rows}")
        if self.model.generation_config.pad_token_id is None:
            self.model.generation_config.pad_token_id = self.pad_id

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the embeddings, also when the layers are spread over several."""
        return self.model.get_input_embeddings().weight.device

    @property
    def pad_id(self) -> int:
        """Token that fills up short rows; masked, so its value never matters."""
        return next(i for i in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0) if i is not None)

    def encode(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Tensors of a batch on the model's device.

        ``input_ids`` and ``attention_mask`` (B, L) int64, left-padded; if there are pictures, those of all samples in
        order as the family takes them (`nuwa.models.processors`), ``pixel_values`` in the model's dtype.

        Raises:
            PromptError, SampleError: a sample cannot be put; the message names it.
        """
        rows = [self._token_ids(sample) for sample in samples]
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), self.pad_id)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, length - len(row) :] = torch.tensor(row)
            mask[index, length - len(row) :] = 1
        batch = {"input_ids": ids, "attention_mask": mask}
        images = [image for sample in samples for image in sample.images]
        if images:
            batch |= self.pictures.encode(images)
            batch["pixel_values"] = batch["pixel_values"].to(self.model.dtype)
            if self.pictures.marks_placeholders:
                batch["mm_token_type_ids"] = (ids == self.model.config.image_token_id).long() * mask
        return {name: values.to(self.device) for name, values in batch.items()}

    def decode(self, ids: Tensor, prompt_length: int) -> list[str]:
        """The answers in ``ids`` (B, L) as `generate` returns them, the prompt cut off: B stripped strings."""
        texts = self.tokenizer.batch_decode(ids[:, prompt_length:].tolist(), skip_special_tokens=True)
        return [text.strip() for text in texts]

    def question(self, sample: Sample) -> str:
        """The user's turn: the sample's text, or this model's own way to ask for the box of an expression."""
        if self.box_prompt is None or sample.expression is None:
            return sample.text
        return self.box_prompt.replace("{expression}", sample.expression)

    def questions(self, samples: Sequence[Sample]) -> list[str] | None:
        """What is asked about each picture of the samples, in order; None without pictures."""
        return [self.question(sample) for sample in samples for _ in sample.images] or None

    def in_unit_frame(self, answer: str, image: Image.Image) -> str:
        """An answer about one picture, its boxes as fractions of it."""
        return answer if self.box_frame == "unit" else to_unit_boxes(answer, self.pictures.resized(image))

    def _token_ids(self, sample: Sample) -> list[int]:
        """The prompt's ids. The first token is put in front by hand: tokenizers differ in whether they add it."""
        bos = self.tokenizer.bos_token_id
        try:
            if any(0 in image.size for image in sample.images):
                raise SampleError("a picture has no pixels")
            counts = [self.pictures.tokens(image) for image in sample.images]
            prompt = self.prompt.render(self.question(sample), len(sample.images))
            ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            ids = expand_images(ids, self.model.config.image_token_id, counts)
        except (PromptError, SampleError) as error:
            raise type(error)(f"sample {sample.id}: {error}") from error
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def check_boxes(box_frame: str, box_prompt: str | None) -> None:
    """Refuse impossible box settings.

    Raises:
        ModelError: an unknown frame, or a prompt without its slot.
    """
    if box_frame not in BOX_FRAMES:
        raise ModelError(f"model.box_frame={box_frame} is unknown; choose one of {', '.join(BOX_FRAMES)}")
    if box_prompt is not None and "{expression}" not in box_prompt:
        raise ModelError(f"model.box_prompt={box_prompt!r} lacks the slot {{expression}}")

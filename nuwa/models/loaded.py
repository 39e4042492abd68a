"""A model that is ready to answer: samples become tensors, token ids become text, boxes become fractions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from nuwa.models import family_class
from nuwa.models.boxes import BoxOptions, to_unit_boxes
from nuwa.models.checkpoint import ModelError
from nuwa.models.processors import NativeProcessor, PictureProcessor
from nuwa.models.prompts import IMAGE, PromptError, PromptFormat, put_images
from nuwa.samples import Sample, SampleError

if TYPE_CHECKING:
    from nuwa.models.base import GenerativeModel


@dataclass
class LoadedModel:
    """A model with everything between a `Sample` and its tensors, and between token ids and text.

    Raises:
        ModelError: the parts do not fit each other.
    """

    model: GenerativeModel
    tokenizer: PreTrainedTokenizerFast
    pictures: PictureProcessor
    prompt: PromptFormat
    family: str
    name: str
    boxes: BoxOptions

    def __post_init__(self) -> None:
        wanted = self.model.config.image_token_id
        found = self.tokenizer.convert_tokens_to_ids(self.placeholder)
        if found != wanted:
            raise ModelError(
                f"model {self.name}: {self.placeholder} is token {found} in tokenizer.json, {wanted} in config.json"
            )
        if self.prompt.image.count(self.placeholder) != 1:
            raise ModelError(f"model.image must contain {self.placeholder} once, but is {self.prompt.image!r}")
        if self.boxes.box_frame == "pixel" and not isinstance(self.pictures, NativeProcessor):
            raise ModelError(f"model.box_frame=pixel: {self.family} models have no resized picture of their own")
        rows = len(self._embedded)
        if len(self.tokenizer) > rows:
            raise ModelError(f"model {self.name}: the tokenizer has {len(self.tokenizer)} tokens, the model {rows}")
        ends = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0
        self.pad_id = next(i for i in ends if i is not None)  # fills up short rows; masked, so its value never matters
        generation = self.model.generation_config
        if generation is not None and generation.pad_token_id is None:
            generation.pad_token_id = self.pad_id

    @property
    def placeholder(self) -> str:
        """The token that stands for one visual token in a prompt."""
        return family_class(self.family).placeholder

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the embeddings, also when the layers are spread over several."""
        return self._embedded.device

    @property
    def _embedded(self) -> Tensor:
        return cast(Tensor, self.model.get_input_embeddings().weight)

    def encode(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Tensors of a batch on the model's device.

        ``input_ids`` and ``attention_mask`` (B, L) int64, left-padded; if there are pictures, those of all samples in
        order as the family takes them (`nuwa.models.processors`), ``pixel_values`` in the model's dtype.

        Raises:
            PromptError, SampleError: a sample cannot be put; the message names it.
        """
        images = [image for sample in samples for image in sample.images]
        for sample in samples:
            with _named(sample):
                for image in sample.images:
                    self.pictures.check(image)
        inputs = self.pictures.encode(images) if images else {}
        texts = iter(self.pictures.texts(inputs, len(images)))
        rows = [self._token_ids(sample, [next(texts) for _ in sample.images]) for sample in samples]
        ids = pad_sequence(rows, True, self.pad_id, "left")
        mask = pad_sequence([torch.ones_like(row) for row in rows], True, 0, "left")
        for_model = {name: value for name, value in inputs.items() if name not in self.pictures.counts}
        batch = {"input_ids": ids, "attention_mask": mask, **for_model}
        if images:
            batch["pixel_values"] = batch["pixel_values"].to(self.model.dtype)
            if self.pictures.marks_placeholders is not None:
                batch[self.pictures.marks_placeholders] = torch.eq(ids, self.model.config.image_token_id).long() * mask
        return {name: values.to(self.device) for name, values in batch.items()}

    def decode(self, ids: Tensor, prompt_length: int) -> list[str]:
        """The answers in ``ids`` (B, L) as `generate` returns them, the prompt cut off: B stripped strings."""
        texts = self.tokenizer.batch_decode(ids[:, prompt_length:].tolist(), skip_special_tokens=True)
        return [text.strip() for text in texts]

    def question(self, sample: Sample) -> str:
        """The user's turn: the sample's text, or this model's own way to ask for the box of an expression."""
        asked = self.boxes.box_prompt
        if asked is None or sample.expression is None:
            return sample.text
        return asked.replace("{expression}", sample.expression)

    def questions(self, samples: Sequence[Sample]) -> list[str] | None:
        """What is asked about each picture of the samples, then about each video, in order; None without any."""
        pictures = [self.question(sample) for sample in samples for _ in sample.images]
        return pictures + [self.question(sample) for sample in samples for _ in sample.videos] or None

    def in_unit_frame(self, answer: str, image: Image.Image) -> str:
        """An answer about one picture, its boxes as fractions of it."""
        if self.boxes.box_frame == "thousand":
            return to_unit_boxes(answer, (1000, 1000))
        if not isinstance(self.pictures, NativeProcessor) or self.boxes.box_frame == "unit":
            return answer
        return to_unit_boxes(answer, self.pictures.resized(image))

    def _token_ids(self, sample: Sample, texts: Sequence[str]) -> Tensor:
        """The prompt's ids. The first token is put in front by hand: tokenizers differ in whether they add it."""
        bos = self.tokenizer.bos_token_id
        with _named(sample):
            prompt = self.prompt.render(self.question(sample), len(sample.images))
            prompt = put_images(prompt, self.placeholder, texts)
        if self.control_tokens(sample):
            ids = self._ids_as_text(prompt, *self._place_of_question(sample, texts))
        else:
            ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = ids if bos is None or ids[:1] == [bos] else [bos, *ids]
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and len(ids) > longest:
            raise PromptError(
                f"sample {sample.id}: a prompt of {len(ids)} tokens, and the model has {longest} positions"
            )
        return torch.tensor(ids)

    def control_tokens(self, sample: Sample) -> list[str]:
        """What a sample's question holds that the tokenizer would take for a token of control; it is put as text."""
        question, pictured = self.question(sample), (IMAGE, self.placeholder)
        return [token for token in self.tokenizer.all_special_tokens if token in question and token not in pictured]

    def _place_of_question(self, sample: Sample, texts: Sequence[str]) -> tuple[int, int]:
        """Where a sample's question begins in its prompt, and how many characters follow it."""
        placed = IMAGE in self.question(sample)
        head, _, tail = self.prompt.render("\0", 0 if placed else len(sample.images)).partition("\0")
        return len(head if placed else put_images(head, self.placeholder, texts)), len(tail)

    def _ids_as_text(self, prompt: str, start: int, after: int) -> list[int]:
        """The ids of a prompt; control tokens from ``start`` up to the last ``after`` characters are put as text."""
        found = self.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
        control = {*self.tokenizer.all_special_ids} - {self.model.config.image_token_id}
        ids: list[int] = []
        for token, (begin, end) in zip(found["input_ids"], found["offset_mapping"], strict=True):
            if token in control and start <= begin and end <= len(prompt) - after:
                as_text = self.tokenizer(prompt[begin:end], add_special_tokens=False, split_special_tokens=True)
                ids += as_text["input_ids"]
            else:
                ids.append(token)
        return ids

    def remark(self, sample: Sample) -> str:
        """What in a sample's question is not what it seems: control tokens, and ``<image>``, which places a picture."""
        found = [f"{token} is put as text" for token in self.control_tokens(sample)]
        placed = self.question(sample).count(IMAGE)
        return "; ".join(found + ([f"{IMAGE} places {placed} picture(s)"] if placed else []))


@contextmanager
def _named(sample: Sample) -> Iterator[None]:
    """Name the sample in what is said about its prompt or its pictures."""
    try:
        yield
    except (PromptError, SampleError) as error:
        raise type(error)(f"sample {sample.id}: {error}") from error

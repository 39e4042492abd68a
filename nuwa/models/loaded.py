"""A model that is ready to answer: samples become tensors, token ids become text, boxes become fractions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nuwa.models import adapter_for, family_class
from nuwa.models.boxes import BoxOptions, to_unit_boxes
from nuwa.models.checkpoint import ModelError
from nuwa.models.processors import NativeProcessor, PictureProcessor
from nuwa.models.prompts import IMAGE, VIDEO, PromptError, PromptFormat, put_images
from nuwa.models.video_processors import VideoProcessor
from nuwa.samples import Sample, SampleError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from nuwa.models.decoder import GenerativeModel


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
    videos: VideoProcessor | None = None
    text_after_video: str = "transformers"

    def __post_init__(self) -> None:
        config = self.model.config
        ids = config.image_token_id, getattr(config, "video_token_id", None)
        for (token, found), wanted in zip(self.placeholders.items(), ids, strict=False):
            if found != wanted:
                raise ModelError(
                    f"model {self.name}: {token} is token {found} in tokenizer.json, {wanted} in config.json"
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

    @cached_property
    def placeholder(self) -> str:
        """The token that stands for one visual token in a prompt."""
        return family_class(self.family).placeholder

    @cached_property
    def placeholders(self) -> dict[str, int]:
        """The tokens that stand for one visual token of a picture, and of a video where the model takes videos."""
        tokens = [self.placeholder] if self.videos is None else [self.placeholder, self.videos.placeholder]
        return dict(zip(tokens, cast(list[int], self.tokenizer.convert_tokens_to_ids(tokens)), strict=True))

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the embeddings, also when the layers are spread over several."""
        return self._embedded.device

    @property
    def _embedded(self) -> Tensor:
        return cast(Tensor, self.model.get_input_embeddings().weight)

    def encode(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Tensors of a batch on the model's device.

        ``input_ids`` and ``attention_mask`` (B, L) int64, left-padded; if there are pictures or videos, those of all
        samples in order as the family takes them (`nuwa.models.processors`, `nuwa.models.video_processors`), their
        pixels in the model's dtype.

        Raises:
            PromptError, SampleError: a sample cannot be put; the message names it.
        """
        for sample in samples:
            with _named(sample):
                self._check(sample)
        images = [image for sample in samples for image in sample.images]
        videos = [video for sample in samples for video in sample.videos]
        inputs = self.pictures.encode(images) if images else {}
        texts, filmed = iter(self.pictures.texts(inputs, len(images))), iter([""])
        for_model = {name: value for name, value in inputs.items() if name not in self.pictures.counts}
        if self.videos is not None and videos:
            shown = self.videos.encode(videos)
            filmed, for_model = iter(self.videos.texts(shown, videos)), for_model | shown
        rows = [
            self._token_ids(sample, [[next(texts) for _ in sample.images], [next(filmed) for _ in sample.videos]])
            for sample in samples
        ]
        ids = pad_sequence(rows, True, self.pad_id, "left")
        mask = pad_sequence([torch.ones_like(row) for row in rows], True, 0, "left")
        for name in for_model.keys() & {"pixel_values", "pixel_values_videos"}:
            for_model[name] = for_model[name].to(self.model.dtype)
        if self.pictures.marks_placeholders is not None and for_model:
            kinds = (number * torch.eq(ids, token) for number, token in enumerate(self.placeholders.values(), 1))
            for_model[self.pictures.marks_placeholders] = sum(kinds) * mask
        batch = {"input_ids": ids, "attention_mask": mask, **for_model}
        if videos and self.text_after_video == "original":
            batch["position_ids"] = cast(Any, adapter_for(self.model)).ids_behind_videos(batch)
        return {name: values.to(self.device) for name, values in batch.items()}

    def _check(self, sample: Sample) -> None:
        """Refuse what the model cannot be shown.

        Raises:
            SampleError: a picture or a video that its tower cannot take, or a video where it takes none.
        """
        for image in sample.images:
            self.pictures.check(image)
        for video in sample.videos:
            if self.videos is None:
                raise SampleError(f"{self.family} models take no videos; model=llava_onevision_7b, for one, does")
            self.videos.check(video)

    def prompt_ids(self, sample: Sample) -> Tensor:
        """The ids (L,) of a prompt about pictures, with one placeholder for each.

        Raises:
            PromptError, SampleError: the sample cannot be put; the message names it.
        """
        with _named(sample):
            self._check(sample)
            if sample.videos:
                raise SampleError("a video cannot be put with one placeholder")
        return self._token_ids(sample, [[self.placeholder] * len(sample.images), []])

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

    def _token_ids(self, sample: Sample, texts: Sequence[Sequence[str]]) -> Tensor:
        """The prompt's ids, with the ``texts`` of pictures and of videos.

        The first token is put in front by hand: tokenizers differ in whether they add it.
        """
        bos = self.tokenizer.bos_token_id
        with _named(sample):
            prompt = self.prompt.render(self.question(sample), len(sample.images), len(sample.videos))
            for placeholder, mine in zip(self.placeholders, texts, strict=False):
                prompt = put_images(prompt, placeholder, mine)
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
        question, pictured = self.question(sample), {*self._marks, *self.placeholders}
        return [token for token in self._control if token in question and token not in pictured]

    @cached_property
    def _control(self) -> list[str]:
        return self.tokenizer.all_special_tokens

    @property
    def _marks(self) -> tuple[str, ...]:
        """What places pictures, and videos, in a question."""
        return (IMAGE,) if self.videos is None else (IMAGE, VIDEO)

    def _place_of_question(self, sample: Sample, texts: Sequence[Sequence[str]]) -> tuple[int, int]:
        """Where a sample's question begins in its prompt, and how many characters follow it."""
        first = [() if mark in self.question(sample) else mine for mark, mine in zip(self._marks, texts, strict=False)]
        head, _, tail = self.prompt.render("\0", *map(len, first)).partition("\0")
        for placeholder, mine in zip(self.placeholders, first, strict=True):
            head = put_images(head, placeholder, mine)
        return len(head), len(tail)

    def _ids_as_text(self, prompt: str, start: int, after: int) -> list[int]:
        """The ids of a prompt; control tokens from ``start`` up to the last ``after`` characters are put as text."""
        found = self.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
        control = {*self.tokenizer.all_special_ids} - {*self.placeholders.values()}
        ids: list[int] = []
        for token, (begin, end) in zip(found["input_ids"], found["offset_mapping"], strict=True):
            if token in control and start <= begin and end <= len(prompt) - after:
                as_text = self.tokenizer(prompt[begin:end], add_special_tokens=False, split_special_tokens=True)
                ids += as_text["input_ids"]
            else:
                ids.append(token)
        return ids

    def unknown_words(self, sample: Sample) -> list[str]:
        """The words of a sample's question that the tokenizer has no token for, each once."""
        unknown, question = self.tokenizer.unk_token_id, self.question(sample)
        if unknown is None:
            return []
        found = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)
        places = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return list(dict.fromkeys(question[start:end].strip() for token, (start, end) in places if token == unknown))

    def remark(self, sample: Sample) -> str:
        """What in a sample's question is not what it seems: control tokens, and what places a picture or a video."""
        found = [f"{token} is put as text" for token in self.control_tokens(sample)]
        for mark, noun in zip(self._marks, ("picture", "video"), strict=False):
            placed = self.question(sample).count(mark)
            found += [f"{mark} places {placed} {noun}(s)"] if placed else []
        return "; ".join(found)


@contextmanager
def _named(sample: Sample) -> Iterator[None]:
    """Name the sample in what is said about its prompt or its pictures."""
    try:
        yield
    except (PromptError, SampleError) as error:
        raise type(error)(f"sample {sample.id}: {error}") from error

"""The tiny models' words: word-level vocabularies in which a box is nine tokens of the model's own text."""

from dataclasses import dataclass
from functools import cached_property

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nuwa.scenes.questions import EXTREMES, MAX_COUNT, PLURALS
from nuwa.scenes.scene import COLORS, IMAGE_SIZE, SHAPE_SIZES, SHAPES

SPACE = "▁"
CONTENT_WORDS = (
    *COLORS, *SHAPES, *PLURALS.values(), *SHAPE_SIZES, *EXTREMES, "left", "right", "above", "below"
)  # fmt: skip
_GRAMMAR = (
    "is", "there", "what", "color", "shape", "the", "how", "many", "are", "where", "object", "objects", "left", "right",
    "of", "above", "below", "yes", "no",
)  # fmt: skip
_COUNTS = tuple(str(n) for n in range(MAX_COUNT + 1))


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one tiny model, the words around its picture, and how it writes a box.

    ``before`` and ``lead`` stand before and after the picture, ``cue`` between a question and its answer, each a tuple
    of tokens; ``template`` is the same as text with the slot ``{question}``. ``space`` marks tokens that begin a word.
    A box is ``opening`` number ``comma`` number ... ``closing``; ``numbers`` run from 0 to the picture's whole side.
    """

    tokens: tuple[str, ...]
    template: str
    pad: str
    bos: str
    eos: str
    image: str
    before: tuple[str, ...]
    lead: tuple[str, ...]
    cue: tuple[str, ...]
    opening: str
    comma: str
    closing: str
    numbers: tuple[str, ...]
    space: str

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token -> id."""
        return {token: index for index, token in enumerate(self.tokens)}

    @property
    def first_number(self) -> int:
        """Id of the number 0."""
        return self.ids[self.numbers[0]]

    @property
    def prefix(self) -> list[int]:
        """Ids of what stands before the picture."""
        return [self.ids[token] for token in self.before]

    @property
    def format_ids(self) -> list[int]:
        """Ids that only give an answer its form."""
        return [self.ids[token] for token in (self.eos, self.comma, self.closing, self.opening)]

    @property
    def content(self) -> list[bool]:
        """For every token, whether it is a word that a question is about."""
        return [token.removeprefix(self.space) in CONTENT_WORDS for token in self.tokens]

    def encode_words(self, text: str) -> list[int]:
        """Ids of words and marks that spaces separate; agrees with the tokenizer and is faster."""
        return [self.ids[word] if word in self.ids else self.ids[self.space + word] for word in text.split()]

    def encode_question(self, text: str) -> list[int]:
        """Ids of what stands between the picture and the answer."""
        words = self.encode_words(text)
        return [self.ids[token] for token in self.lead] + words + [self.ids[token] for token in self.cue]

    def encode_box(self, box: tuple[float, ...]) -> list[int]:
        """Ids of a box (x0, y0, x1, y1) in pixels of the whole picture."""
        places = [round(min(max(value / IMAGE_SIZE, 0.0), 1.0) * (len(self.numbers) - 1)) for value in box]
        inner = [id for place in places for id in (self.first_number + place, self.ids[self.comma])]
        return [self.ids[self.opening], *inner[:-1], self.ids[self.closing]]

    def prompt(self, question: str) -> str:
        """The prompt of one question about one picture, its placeholder not yet repeated."""
        return self.template.replace("{question}", question)


def _llava() -> Vocabulary:
    """A picture is ``<image>``, a box LLaVA text: ``[0.12,0.34,0.56,0.78]`` in fractions of the side."""
    special = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
    first = ("a", "chat", "about", "one", "picture", "USER:", "ASSISTANT:")
    words = dict.fromkeys([*first, *_GRAMMAR, *CONTENT_WORDS, *_COUNTS])
    numbers = tuple(f"{i / 100:.2f}" for i in range(101))
    before = ("<s>", *(SPACE + word for word in first[:5]), ".", SPACE + "USER:")
    return Vocabulary(
        tokens=(*special, *(SPACE + word for word in words), ".", "?", SPACE + "[", ",", "]", *numbers),
        template="a chat about one picture . USER: <image> {question} ASSISTANT:",
        pad="<pad>",
        bos="<s>",
        eos="</s>",
        image="<image>",
        before=before,
        lead=(),
        cue=(SPACE + "ASSISTANT:",),
        opening=SPACE + "[",
        comma=",",
        closing="]",
        numbers=numbers,
        space=SPACE,
    )


def _qwen() -> Vocabulary:
    """Qwen's chat template word by word; a box is Qwen's JSON in whole pixels of the picture."""
    special = (
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
        "<|video_pad|>",
    )  # fmt: skip
    first = ("system", "You", "are", "a", "helpful", "assistant", "user")
    numbers = tuple(str(i) for i in range(IMAGE_SIZE + 1))
    words = [word for word in dict.fromkeys([*first, *_GRAMMAR, *CONTENT_WORDS]) if word not in numbers]
    opening, closing = '```json\n[\n\t{"bbox_2d": [', '], "label": "object"}\n]\n```'
    system = ("<|im_start|>", *first[:6], ".", "<|im_end|>")
    return Vocabulary(
        tokens=(*special, *words, ".", "?", opening, ", ", closing, *numbers),
        template=(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            "<|vision_start|><|image_pad|><|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
        ),
        pad="<|endoftext|>",
        bos="<|im_start|>",
        eos="<|im_end|>",
        image="<|image_pad|>",
        before=(*system, "<|im_start|>", "user", "<|vision_start|>"),
        lead=("<|vision_end|>",),
        cue=("<|im_end|>", "<|im_start|>", "assistant"),
        opening=opening,
        comma=", ",
        closing=closing,
        numbers=numbers,
        space="",
    )


LLAVA, QWEN = _llava(), _qwen()


def llava_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer that starts every text with ``<s>`` and keeps ``[ ] , ? .`` apart from words."""
    core = Tokenizer(models.WordLevel(dict(LLAVA.ids), unk_token="<unk>"))
    marks = Regex(SPACE + r"?\[|[\],?]|\.(?![0-9])")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always"),
            pre_tokenizers.Split(marks, "isolated"),
            pre_tokenizers.Split(Regex(f"^{SPACE}$"), "removed"),
        ]
    )
    core.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    bos = ("<s>", LLAVA.ids["<s>"])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=[AddedToken("<image>", special=True)],
        padding_side="left",
        model_max_length=1024,
    )


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer that puts nothing in front; answers (one word, or the pieces of a box) decode as written."""
    core = Tokenizer(models.WordLevel(dict(QWEN.ids), unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "removed"), pre_tokenizers.Split(Regex(r"[?.]"), "isolated")]
    )
    core.decoder = decoders.Fuse()
    pieces = [AddedToken(piece, normalized=False) for piece in (QWEN.opening, QWEN.comma, QWEN.closing)]
    core.add_tokens(pieces)
    marks = [token for token in QWEN.tokens if token.startswith("<|") and token not in (QWEN.pad, QWEN.eos)]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=QWEN.eos,
        unk_token="<unk>",
        pad_token=QWEN.pad,
        extra_special_tokens=[AddedToken(mark, special=True) for mark in marks],
        padding_side="left",
        model_max_length=1024,
    )

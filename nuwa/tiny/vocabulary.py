"""The tiny models' words: word-level vocabularies in which a box is nine tokens of the model's own text."""

from dataclasses import dataclass
from functools import cached_property

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nuwa.scenes.clips import DIRECTIONS, FRAMES
from nuwa.scenes.plates import SCALES
from nuwa.scenes.questions import EXTREMES, MAX_COUNT, PLURALS, Question
from nuwa.scenes.scene import COLORS, IMAGE_SIZE, SHAPE_SIZES, SHAPES

SPACE = "▁"
_PICTURED = (
    *COLORS, *SHAPES, *PLURALS.values(), *SHAPE_SIZES, *EXTREMES, "left", "right", "above", "below"
)  # fmt: skip
CONTENT_WORDS = dict.fromkeys([*_PICTURED, *SCALES])
_GRAMMAR = (
    "is", "there", "what", "color", "shape", "the", "how", "many", "are", "where", "object", "objects", "left", "right",
    "of", "above", "below", "yes", "no",
)  # fmt: skip
_CLIP_GRAMMAR = (
    "which", "way", "does", "move", "what", "comes", "first", "or", "when", "appear", "how", "often", "color",
    "changes", "yes", "no",
)  # fmt: skip
_PLATE_GRAMMAR = (
    "what", "number", "is", "on", "the", "plate", "plates", "there", "a", "color", "how", "many", "are", "yes", "no",
)  # fmt: skip
_COUNTS = tuple(str(n) for n in range(MAX_COUNT + 1))


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one tiny model, the words around its picture, and how it writes a box.

    ``before`` and ``lead`` stand before and after the picture, ``cue`` between a question and its answer. ``space``
    marks tokens that begin a word. A box is ``opening`` number ``comma`` number ... ``closing``; ``numbers`` run from 0
    to the picture's whole side. A model that is not asked for boxes has none of these marks.
    """

    tokens: tuple[str, ...]
    pad: str
    eos: str
    image: str
    before: tuple[str, ...]
    lead: tuple[str, ...]
    cue: tuple[str, ...]
    numbers: tuple[str, ...]
    space: str
    opening: str = ""
    comma: str = ""
    closing: str = ""

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token -> id."""
        return {token: index for index, token in enumerate(self.tokens)}

    @property
    def marks(self) -> list[str]:
        """The pieces of a box that are no numbers."""
        return [mark for mark in (self.opening, self.comma, self.closing) if mark]

    @property
    def prefix(self) -> list[int]:
        """Ids of what stands before the picture."""
        return [self.ids[token] for token in self.before]

    def encode_words(self, text: str) -> list[int]:
        """Ids of words and marks that spaces separate; agrees with the tokenizer and is faster.

        A number that is no token is spelled digit by digit.
        """
        words = [word if word in self.ids else self.space + word for word in text.split()]
        pieces = (piece for word in words for piece in ([word] if word in self.ids else word[len(self.space) :]))
        return [self.ids[piece] for piece in pieces]

    def encode_question(self, text: str) -> list[int]:
        """Ids of what stands between the picture and the answer."""
        words = self.encode_words(text)
        return [self.ids[token] for token in self.lead] + words + [self.ids[token] for token in self.cue]

    def encode_answer(self, question: Question, y: int = 0, x: int = 0) -> list[int]:
        """Ids of the answer about a scene that lies at (x, y) of the full picture."""
        if question.box is None:
            return self.encode_words(question.answer)
        x0, y0, x1, y1 = question.box
        return self.encode_box((x0 + x, y0 + y, x1 + x, y1 + y))

    def encode_box(self, box: tuple[float, ...]) -> list[int]:
        """Ids of a box (x0, y0, x1, y1) in pixels of the whole picture."""
        places = [round(min(max(value / IMAGE_SIZE, 0.0), 1.0) * (len(self.numbers) - 1)) for value in box]
        inner = [self.ids[token] for place in places for token in (self.numbers[place], self.comma)]
        return [self.ids[self.opening], *inner[:-1], self.ids[self.closing]]


def _llava() -> Vocabulary:
    """A picture is ``<image>``, a box LLaVA text: ``[0.12,0.34,0.56,0.78]`` in fractions of the side."""
    special = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
    first = ("a", "chat", "about", "one", "picture", "USER:", "ASSISTANT:")
    words = dict.fromkeys([*first, *_GRAMMAR, *_PICTURED, *_COUNTS])
    numbers = tuple(f"{i / 100:.2f}" for i in range(101))
    return Vocabulary(
        tokens=(*special, *(SPACE + word for word in words), ".", "?", SPACE + "[", ",", "]", *numbers),
        pad="<pad>",
        eos="</s>",
        image="<image>",
        before=("<s>", *(SPACE + word for word in first[:5]), ".", SPACE + "USER:"),
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
    words = [word for word in dict.fromkeys([*first, *_GRAMMAR, *_PICTURED]) if word not in numbers]
    opening, closing = '```json\n[\n\t{"bbox_2d": [', '], "label": "object"}\n]\n```'
    system = ("<|im_start|>", *first[:6], ".", "<|im_end|>")
    return Vocabulary(
        tokens=(*special, *words, ".", "?", opening, ", ", closing, *numbers),
        pad="<|endoftext|>",
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


def _video() -> Vocabulary:
    """The chat template of LLaVA-OneVision word by word; answers are words."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>", "<image>", "<video>")
    numbers = tuple(str(i) for i in range(FRAMES))
    words = dict.fromkeys(["user", "assistant", *_CLIP_GRAMMAR, *COLORS, *DIRECTIONS])
    return Vocabulary(
        tokens=(*special, *words, "?", *numbers),
        pad="<|endoftext|>",
        eos="<|im_end|>",
        image="<video>",
        before=("<|im_start|>", "user"),
        lead=(),
        cue=("<|im_end|>", "<|im_start|>", "assistant"),
        numbers=numbers,
        space="",
    )


def _reader() -> Vocabulary:
    """A picture is ``<image>``; a number is spelled digit by digit."""
    special = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
    numbers = tuple(str(digit) for digit in range(10))
    words = dict.fromkeys(["USER:", "ASSISTANT:", *_PLATE_GRAMMAR, *COLORS, *SCALES])
    return Vocabulary(
        tokens=(*special, *(SPACE + word for word in words), "?", *numbers),
        pad="<pad>",
        eos="</s>",
        image="<image>",
        before=("<s>", SPACE + "USER:"),
        lead=(),
        cue=(SPACE + "ASSISTANT:",),
        numbers=numbers,
        space=SPACE,
    )


LLAVA, QWEN, ONEVISION, READER = _llava(), _qwen(), _video(), _reader()


def llava_tokenizer(words: Vocabulary) -> PreTrainedTokenizerFast:
    """Word-level tokenizer that starts every text with ``<s>``.

    It keeps ``[ ] , ? .`` apart from words, and the digits of a number from each other where there are no boxes.
    """
    core = Tokenizer(models.WordLevel(words.ids, unk_token="<unk>"))
    marks = Regex(SPACE + r"?\[|[\],?]|\.(?![0-9])" if words.marks else r"[?0-9]")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always"),
            pre_tokenizers.Split(marks, "isolated"),
            pre_tokenizers.Split(Regex(f"^{SPACE}$"), "removed"),
        ]
    )
    core.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    bos = ("<s>", words.ids["<s>"])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    return _fast(core, words, bos_token="<s>")


def chat_tokenizer(words: Vocabulary) -> PreTrainedTokenizerFast:
    """Word-level tokenizer that puts nothing in front; answers (one word, or the pieces of a box) decode as written."""
    core = Tokenizer(models.WordLevel(words.ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "removed"), pre_tokenizers.Split(Regex(r"[?.]"), "isolated")]
    )
    core.decoder = decoders.Fuse()
    core.add_tokens([AddedToken(mark, normalized=False) for mark in words.marks])
    return _fast(core, words)


def _fast(core: Tokenizer, words: Vocabulary, **first: str) -> PreTrainedTokenizerFast:
    named = {"eos_token": words.eos, "unk_token": "<unk>", "pad_token": words.pad, **first}
    marks = [token for token in words.tokens if token.startswith("<") and token not in named.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        extra_special_tokens=[AddedToken(mark, special=True) for mark in marks],
        padding_side="left",
        model_max_length=1024,
        **named,
    )

"""The tiny model's words: a word-level vocabulary in which a LLaVA box is nine tokens that round-trip as text."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nuwa.tiny.questions import EXTREMES, MAX_COUNT, PLURALS
from nuwa.tiny.scenes import COLORS, SHAPES, SIZES

SPACE = "▁"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
PREFIX_TEXT = "a chat about one picture . USER: "
ANSWER_CUE = "ASSISTANT:"
BINS = 101  # the numbers 0.00 .. 1.00
_PREFIX_WORDS = ("a", "chat", "about", "one", "picture")
_ASKING = ("USER:", "ASSISTANT:", "is", "there", "what", "color", "shape", "the", "how", "many", "are", "where")
_GRAMMAR = (*_ASKING, "object", "objects", "left", "right", "of", "above", "below", "yes", "no")
CONTENT_WORDS = (
    *COLORS, *SHAPES, *PLURALS.values(), *SIZES, *EXTREMES, "left", "right", "above", "below"
)  # fmt: skip
_WORDS = dict.fromkeys([*_PREFIX_WORDS, *_GRAMMAR, *CONTENT_WORDS, *(str(n) for n in range(MAX_COUNT + 1))])
NUMBERS = tuple(f"{i / (BINS - 1):.2f}" for i in range(BINS))
VOCABULARY = (*SPECIAL, *(SPACE + word for word in _WORDS), ".", "?", SPACE + "[", ",", "]", *NUMBERS)
IDS = {token: index for index, token in enumerate(VOCABULARY)}
PAD, BOS, EOS, IMAGE = IDS["<pad>"], IDS["<s>"], IDS["</s>"], IDS["<image>"]
FIRST_NUMBER = IDS[NUMBERS[0]]


def prompt_text(question: str) -> str:
    """The chat prompt of one question about one picture; the tokenizer puts ``<s>`` before it."""
    return f"{PREFIX_TEXT}<image> {question} {ANSWER_CUE}"


def encode_words(text: str) -> list[int]:
    """Ids of a question or of an answer, word by word or box; agrees with the tokenizer and is faster."""
    if text.startswith("["):
        numbers = text[1:-1].split(",")
        parts = [SPACE + "[", *(token for number in numbers for token in (number, ","))]
        return [IDS[token] for token in (*parts[:-1], "]")]
    return [IDS[word] if word in IDS else IDS[SPACE + word] for word in text.split()]


PREFIX_IDS = (BOS, *encode_words(PREFIX_TEXT))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer that starts every text with ``<s>`` and keeps ``[ ] , ? .`` apart from words."""
    core = Tokenizer(models.WordLevel(dict(IDS), unk_token="<unk>"))
    marks = Regex(SPACE + r"?\[|[\],?]|\.(?![0-9])")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always"),
            pre_tokenizers.Split(marks, "isolated"),
            pre_tokenizers.Split(Regex(f"^{SPACE}$"), "removed"),
        ]
    )
    core.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
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

"""MMMU: college exams, with several pictures to a question. Source: lmms-eval v0.3.4 (a863517), task ``mmmu_val``.

An answer from which no option can be read is wrong here; the reference draws a random option.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.hub import LETTERS, HubBenchmark, option_letters, option_lines
from nuwa.samples import SampleError

_PICTURE = re.compile(r"<image (\d+)>")
_STRIPPED = ",.!?;:'"
_TEXT_FROM = 5  # an answer of more words than this may name an option by its text
_CUES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
"""With thousands separators, scientific, plain."""

_Value = str | float


def parse_choice(options: Sequence[str], text: str) -> str | None:
    """The letter that an answer means, of several the one named last; None if there is none.

    Looked for in turn: ``(A)``; ``A`` before a space, even as the end of a word; ``A.``; in longer answers an option's
    text.

    >>> parse_choice(["red", "blue"], "It is (B), not (A)")
    'A'
    """
    for sign in _STRIPPED:
        text = text.strip(sign)
    padded = f" {text} "
    letters = LETTERS[: len(options)]
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in letters if form.format(letter) in padded]
        if found:
            return max(found, key=lambda letter: (padded.rfind(place.format(letter)), -letters.index(letter)))
    if len(padded.split()) <= _TEXT_FROM:
        return None
    lower = padded.lower()
    named = {letter: lower.rfind(option.lower()) for letter, option in zip(letters, options, strict=True)}
    last = max(named.values())
    return next((letter for letter, place in named.items() if place == last), None) if last >= 0 else None


def parse_open(text: str) -> list[_Value]:
    """What an open answer may mean: the shortest end of each line after a cue, and the numbers in it, normalised.

    >>> parse_open("So the answer is 1.5 kg.")
    ['1.5 kg', 1.5]
    """
    ends = _key_ends(text)
    numbers = [number for end in ends for pattern in _NUMBERS for number in pattern.findall(end)]
    values = [value for part in (*ends, *numbers) for value in normalise_open(part)]
    return list(dict.fromkeys(values))


def _key_ends(text: str) -> list[str]:
    """What follows the last of each cue, the shortest of them per line; the whole answer if no line has a cue.

    As in the reference, whatever comes next replaces an empty end.
    """
    text = text.strip().strip(".").lower()
    lines = text.split("\n")
    ends = []
    for number, line in enumerate(lines):
        cues = (*_CUES, "=") if number == len(lines) - 1 else _CUES
        shortest = ""
        for end in (line.split(cue)[-1].strip() for cue in cues if cue in line):
            if not shortest or len(end) < len(shortest):
                shortest = end
        if shortest and shortest not in tuple(_STRIPPED):
            ends.append(shortest)
    return ends or [text]


def normalise_open(text: str) -> list[_Value]:
    """A number, rounded to two decimals; or the text in lower case, a single letter with a space on either side.

    >>> normalise_open("1,200.456"), normalise_open("Rome"), normalise_open("X")
    ([1200.46], ['rome'], [' x', 'x '])
    """
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def listed(options: str) -> list[str]:
    """The options out of their text, as "['one', 2]"; a ValueError says that it is no list."""
    found = None
    with suppress(SyntaxError, ValueError):
        found = ast.literal_eval(options)
    if not isinstance(found, list):
        raise ValueError("must be a list in a text")
    return [column.string(str(one)) for one in found]


def option_list(value: object) -> str:
    """Options that can be read."""
    words = column.string(value)
    listed(words)
    return words


@dataclass(kw_only=True, eq=False)
class MMMU(HubBenchmark):
    """Pictures are those that question and options name, in order; ``<image 1>`` stays in the text."""

    open_prompt: str

    task: ClassVar = "mmmu"
    columns: ClassVar = {
        "id": column.identifier, "question": column.text, "options": option_list, "answer": column.text,
        "question_type": column.text,
    }  # fmt: skip
    keys: ClassVar = ("id",)
    pictures: ClassVar = ("image_1",)
    slots: ClassVar = ("question", "options")
    scored: ClassVar = ("question_type", "options", "answer")

    def __post_init__(self) -> None:
        self.check_prompt("open_prompt", self.open_prompt)
        super().__post_init__()

    def images(self, row: int, doc: Doc) -> list[Image.Image]:
        named = sorted({f"image_{number}" for number in _PICTURE.findall(self.text(doc))})
        lacking = [name for name in named if name not in self.rows.columns]
        found = [] if lacking else [image for name in named for image in self.rows.pictures(row, name)]
        if len(found) != len(named):
            raise SampleError(f"it names {', '.join(named)}, of which {len(found)} are there")
        return found

    def document(self, doc: Doc, part: int, sizes: Sequence[tuple[int, int]]) -> Doc:
        """The answer to a multiple-choice question must be the letter of an option."""
        letters = option_letters(listed(doc["options"]))
        if doc["question_type"] == "multiple-choice" and doc["answer"] not in tuple(letters):
            raise SampleError(f"answer must be the letter of one of {len(letters)} options, not {doc['answer']!r}")
        return doc

    def text(self, doc: Doc) -> str:
        if doc["question_type"] == "multiple-choice":
            return super().text(doc)
        return self.open_prompt.replace("{question}", doc["question"])

    def fill(self, doc: Doc) -> Mapping[str, str]:
        return {"question": doc["question"], "options": option_lines(listed(doc["options"]))}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Whether an answer is right, and whether anything could be read in it.

        ``doc``: ``question_type`` (multiple-choice or open), ``options``, ``answer``. Of an open answer any text counts
        as read.
        """
        parsed = bool(text.strip())
        if doc["question_type"] == "multiple-choice":
            letter = parse_choice(listed(doc["options"]), text)
            right, parsed = letter == doc["answer"], letter is not None
        else:  # an accepted number is among the parsed ones, or the accepted text is part of a parsed one
            accepted = normalise_open(doc["answer"])
            right = any(
                any(isinstance(truth, str) and truth in value for truth in accepted) if isinstance(value, str)
                else value in accepted
                for value in parse_open(text)
            )  # fmt: skip
        return {"mmmu/acc": float(right), "mmmu/parsed": float(parsed)}

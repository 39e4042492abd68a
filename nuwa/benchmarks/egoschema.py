"""EgoSchema: five options about three minutes of what a person sees. Answers to all but a subset are the server's.

Source: lmms-eval v0.3.4 (a863517), tasks ``egoschema`` and ``egoschema_subset``. An answer from which no option can be
read is wrong here; the reference draws one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.filmed import VideoBenchmark
from nuwa.benchmarks.hub import option_letters

_STRIPPED = ",.!?;:'"
_TEXT_FROM = 5  # an answer of more words than this may name an option by its text
NO_CHOICE = -1
"""What the server gets for an answer from which no option could be read."""


def first_choice(options: Sequence[str], text: str) -> int | None:
    """The number of the option that an answer means, of several the one that is named first; None if there is none.

    Looked for are ``(A)``, ``A.``, and ``A`` before a space, even as the end of a word; in longer answers without any
    an option's whole text. Of what is named twice the last place counts.

    >>> first_choice(["A. red", "B. blue"], "It is (B), not (A)")
    1
    """
    for sign in _STRIPPED:
        text = text.strip(sign)
    padded = f" {text} "
    letters = option_letters(options)
    forms = [(number, form.format(letter)) for number, letter in enumerate(letters) for form in ("({})", "{} ", "{}.")]
    found = [(padded.rfind(form), number) for number, form in forms if form in padded]
    if not found and len(padded.split()) > _TEXT_FROM:
        lower = padded.lower()
        texts = [(lower.rfind(option.lower()), number) for number, option in enumerate(options)]
        found = [(place, number) for place, number in texts if place >= 0]
    return min(found)[1] if found else None


def number_of_option(value: object) -> int | None:
    """The number of an option, which the data write as text; None where it is withheld."""
    if value is None or value == "":
        return None
    if not isinstance(value, str | int) or str(value) not in ("0", "1", "2", "3", "4"):
        raise ValueError("must be 0 to 4, or nothing")
    return int(value)


@dataclass(kw_only=True, eq=False)
class EgoSchema(VideoBenchmark):
    """One question to a video. Without an answer in the data a sample has no score, and the server must be asked."""

    task: ClassVar = "egoschema"
    columns: ClassVar = {
        "question_idx": column.identifier, "video_idx": column.text, "question": column.text, "option": column.texts,
        "answer": number_of_option,
    }  # fmt: skip
    keys: ClassVar = ("question_idx",)
    subject: ClassVar = "video_idx"
    slots: ClassVar = ("question", "options")
    scored: ClassVar = ("video_idx", "option", "answer")

    def video_name(self, doc: Doc) -> str:
        return f"{doc['video_idx']}.mp4"

    def fill(self, doc: Doc) -> Mapping[str, str]:
        return {"question": doc["question"], "options": "\n".join(doc["option"])}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Whether the option is right, and whether one could be read; nothing where the answer is withheld."""
        if doc["answer"] is None:
            return {}
        said = first_choice(doc["option"], text)
        return {"egoschema/accuracy": float(said == doc["answer"]), "egoschema/parsed": float(said is not None)}

    def submission(self, rows: Sequence[Mapping]) -> dict[str, int]:
        """What the validation server takes: the number of the option for every video (`NO_CHOICE` if none was read)."""
        chosen = {}
        for row in rows:
            said = first_choice(row["target"]["option"], row["prediction"])
            chosen[row["target"]["video_idx"]] = NO_CHOICE if said is None else said
        return chosen

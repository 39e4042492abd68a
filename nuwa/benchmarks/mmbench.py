"""MMBench: four options in every rotation; a question is right if all its rotations are. No judge is needed.

Source: lmms-eval v0.3.4 (a863517), task ``mmbench_en_dev``. It sends answers that its parser cannot read to GPT, or
draws a letter; here such an answer is wrong, or a letter that depends on the row alone.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores, headline_first
from nuwa.benchmarks.hub import Entry, HubBenchmark, option_lines

ROTATION = 1_000_000
"""A rotation's index is the base question's plus a multiple of this."""
OPTIONS = "ABCD"
_ANSWERS = "ABCDE"  # what the reference looks for, and draws from
_ABSENT = "nan"
_SEED = 2680
_FORMS = ("{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{}).")
_ARTICLE_BEYOND = 3  # words from which on an "A" may be an article


def parse_answer(doc: Doc, text: str) -> str | None:
    """The letter that an answer means: a letter alone or with a sign, or else the only option whose text it holds.

    A missing option has the text "nan", as in the data.
    """
    found = [letter for letter in OPTIONS if doc[letter].lower() in text.lower()]
    return parse_letter(text) or (found[0] if len(found) == 1 else None)


def parse_letter(text: str) -> str | None:
    """The only letter among the words, by itself or with a sign; a bare ``A`` in a longer text may be an article.

    >>> parse_letter("B. a dog"), parse_letter("A dog and a cat"), parse_letter("A or B")
    ('B', None, None)
    """
    words = text.split()
    for form in ("{}", *_FORMS):
        found = [letter for letter in _ANSWERS if form.format(letter) in words]
        if len(found) == 1 and not (form == "{}" and "A" in words and len(words) > _ARTICLE_BEYOND):
            return found[0]
    return None


def option(value: object) -> str:
    """An option or a hint; what is missing is the text "nan"."""
    return column.optional_text(value) or _ABSENT


@dataclass(kw_only=True, eq=False)
class MMBench(HubBenchmark):
    """``circular=false`` asks the base questions only, a quarter of the work, for the vanilla score."""

    circular: bool = True
    unparsed: Literal["wrong", "random"] = "wrong"

    task: ClassVar = "mmbench"
    columns: ClassVar = {
        "index": column.integer, "question": column.text, "hint": option, "answer": column.letter,
        **dict.fromkeys(OPTIONS, option), "category": column.text, "L2-category": column.text,
    }  # fmt: skip
    keys: ClassVar = ("index",)
    slots: ClassVar = ("question", "hint", "options")
    scored: ClassVar = ("index", "answer", *OPTIONS, "category", "L2-category")
    grouped: ClassVar = True

    def entries(self, row: int, keys: Doc) -> Iterator[Entry]:
        index = column.integer(keys["index"])
        if self.circular or index < ROTATION:
            yield str(index), str(index % ROTATION)

    def fill(self, doc: Doc) -> Mapping[str, str]:
        options = [doc[letter] for letter in OPTIONS if doc[letter] != _ABSENT]
        hint = "" if doc["hint"] == _ABSENT else f"{doc['hint']} "
        return {"question": doc["question"], "hint": hint, "options": option_lines(options)}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Whether one rotation is right, and whether the parser finds a letter.

        ``unparsed="random"`` draws one where it finds none.
        """
        letter = parse_answer(doc, text)
        parsed = float(letter is not None)
        if letter is None and self.unparsed == "random":
            letter = random.Random(f"{_SEED}/{doc['index']}").choice(_ANSWERS)
        return {"mmbench/hit": float(letter == doc["answer"]), "mmbench/parsed": parsed}

    def units(self, rows: Sequence[Mapping]) -> list[Scores]:
        """Of every base question: ``circular`` (every rotation present is right), ``vanilla`` (the base row is).

        The headline comes with its parts by category and by L2 category; and of every row, whether it was ``parsed``.
        """
        hits: dict[int, list[float]] = defaultdict(list)
        for row in rows:
            hits[row["target"]["index"] % ROTATION].append(row["scores"]["mmbench/hit"])
        units = []
        for row in rows:
            doc, hit = row["target"], row["scores"]["mmbench/hit"]
            units.append({name: value for name, value in row["scores"].items() if name == "mmbench/parsed"})
            if doc["index"] < ROTATION:
                name, headline = ("circular", min(hits[doc["index"]])) if self.circular else ("vanilla", hit)
                parts = [f"mmbench/{name}/{kind}/{doc[kind]}" for kind in ("category", "L2-category")]
                units.append({f"mmbench/{name}": headline, "mmbench/vanilla": hit, **dict.fromkeys(parts, headline)})
        return units

    def numbers(self, means: Scores) -> Scores:
        return headline_first(means)

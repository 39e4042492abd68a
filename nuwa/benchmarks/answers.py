"""What an answer is worth beside the accepted ones, as pure functions that do exactly what lmms-eval does.

Source: lmms-eval v0.7.3 (its task files, ``api/metrics.py``, ``tasks/_task_utils/mcq_extract.py``); golden data in
``tests/golden/scoring``.
"""

from __future__ import annotations

from collections.abc import Iterable

CHOICES = "ABCD"
_QUOTES = ",.!?;:'\""
_PHRASES = (
    "answer is", "the answer is", "correct answer is", "the correct answer is", "best answer is", "the best answer is",
    "correct option is", "the correct option is", "best option is", "the best option is", "choice is", "the choice is",
    "correct choice is", "the correct choice is", "my answer is", "my choice is", "i choose", "i select", "i pick",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip
"""What announces an answer. The longer ones are not idle: of each, only the first in a text is looked behind."""
_FORMS = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))
"""How an answer may write a letter, and how much that says."""
_STARTS, _ENDS, _FOLLOWS, _SOMEWHERE = 10, 9, 7, 0
_SIMILAR = 0.5
_TOLERANCE = 0.05


def anls(answers: Iterable[str], text: str) -> float:
    """Average normalised Levenshtein similarity to the nearest answer; below one half it is 0 (DocVQA's measure).

    White space is collapsed and case ignored for the distance, but the length that it is divided by is of the texts as
    they are.

    >>> anls(["1,234 km"], "1234 km"), anls(["yes"], "no")
    (0.875, 0.0)
    """
    similarity = max(1 - _relative_distance(answer, text) for answer in answers)
    return similarity if similarity >= _SIMILAR else 0.0


def edit_distance(first: str, second: str) -> int:
    """How many characters must be put in, left out or replaced to make one text of the other (Levenshtein).

    >>> edit_distance("kitten", "sitting")
    3
    """
    before = list(range(len(second) + 1))
    for row, one in enumerate(first, 1):
        current = [row]
        for column, other in enumerate(second):
            current.append(min(before[column] + (one != other), before[column + 1] + 1, current[column] + 1))
        before = current
    return before[-1]


def relaxed_accuracy(answers: Iterable[str], text: str) -> float:
    """1.0 if a number is within 5 % of an answer, or a text equal to one but for its case (ChartQA's measure).

    A number may end in ``%``, which divides by 100; an answer of 0 must be met literally.

    >>> relaxed_accuracy(["14"], "14.5"), relaxed_accuracy(["0"], "0.0"), relaxed_accuracy(["50%"], "0.5")
    (1.0, 0.0, 1.0)
    """
    return float(any(_relaxed_equal(answer, text) for answer in answers))


def letter_accuracy(answers: Iterable[str], text: str) -> float:
    """1.0 if an answer A, B, C or D is the letter that the text means, or any other its words but for a last full stop.

    >>> letter_accuracy(["B"], "It is (B)."), letter_accuracy(["2"], "2."), letter_accuracy(["Downhill"], "uphill")
    (1.0, 1.0, 0.0)
    """
    words, letter = text.lower().strip().rstrip("."), ranked_letter(text)
    return float(any(letter == a.strip().upper() if is_letter(a) else words == a.strip().lower() for a in answers))


def is_letter(answer: str) -> bool:
    """Whether an accepted answer is the letter of a choice."""
    return answer.strip().upper() in tuple(CHOICES)


def ranked_letter(text: str) -> str | None:
    """The capital A, B, C or D that a text means; None if it holds none.

    Of all the ways in which letters stand in a text the one that says most counts: first in the text, last, after
    "answer is", then ``(A)``, ``A.``, ``A:``, ``A)``, ``A``; of equals the later one.

    >>> ranked_letter("B) red"), ranked_letter("Not (A), but (C), I think"), ranked_letter("none")
    ('B', 'C', None)
    """
    said = text.strip()
    for sign in _QUOTES:
        said = said.strip(sign)
    padded, bare = f" {said} ", said.strip()
    found = [(rank, padded.rfind(form.format(one)), one) for form, rank in _FORMS for one in CHOICES]
    found += [(_FOLLOWS, at, one) for at, one in _after_phrases(padded)]
    alone = [one for one in CHOICES if bare[:1] == one and not bare[1:2].isalpha()]
    last = [one for one in CHOICES if bare[-1:] == one and not bare[-2:-1].isalpha()]
    found += [(_STARTS, 0, one) for one in alone] + [(_ENDS, 0, one) for one in last]
    found = [candidate for candidate in found if candidate[1] >= 0]
    found = found or [(_SOMEWHERE, padded.rfind(one), one) for one in CHOICES if one in padded]
    return max(found, key=lambda candidate: candidate[:2])[2] if found else None


def _after_phrases(padded: str) -> Iterable[tuple[int, str]]:
    """Where each choice first stands behind the first of each phrase that announces an answer; -1 for nowhere."""
    lowered = padded.lower()
    for phrase in _PHRASES:
        begin = lowered.find(phrase)
        if begin >= 0:
            yield from ((padded.find(one, begin + len(phrase)), one) for one in CHOICES)


def _relative_distance(answer: str, text: str) -> float:
    length = max(len(answer.upper()), len(text.upper()))
    first, second = (" ".join(one.lower().split()) for one in (answer, text))
    return edit_distance(first, second) / length if length else 0.0


def _relaxed_equal(answer: str, text: str) -> bool:
    said, true = _number(text), _number(answer)
    if said is None or not true:
        return text.lower() == answer.lower()
    return abs(said - true) / abs(true) <= _TOLERANCE


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None

"""The soft accuracy of VQAv2 and TextVQA: answers are normalised, then counted among ten annotators'.

Facts of the VQA challenge's evaluation as lmms-eval v0.3.4 (a863517) runs it, its oddities included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORDS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word for word in _WORDS.split() for place, sign in enumerate(word) if sign == "'"
} | {"somebody'd": "somebodyd"}
"""A word with one apostrophe left out -> the word. The last entry goes the wrong way in the reference too."""

_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_LAST_PERIODS = re.compile(r"(?!<=\d)\.(?!\d)")


def normalise_vqa(text: str) -> str:
    """Normalise an answer: lower case, no punctuation, no articles, numbers as digits.

    >>> normalise_vqa("The dog doesnt see two cats.")
    "dog doesn't see 2 cats"
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return plain_words(without_punctuation(on_one_line(text)))


def on_one_line(text: str) -> str:
    """Replace newlines and tabs by spaces and strip the ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def without_punctuation(text: str) -> str:
    """Delete a sign if it touches a space anywhere or the text has digit,digit; otherwise it becomes a space.

    >>> without_punctuation("red/blue"), without_punctuation("red / blue")
    ('red blue', 'red  blue')
    """
    out = text
    for sign in _PUNCTUATION:
        touches = f"{sign} " in text or f" {sign}" in text or _DIGIT_COMMA_DIGIT.search(text)
        out = out.replace(sign, "" if touches else " ")
    return _LAST_PERIODS.sub("", out, count=32)  # the reference passes a flag where the count belongs


def plain_words(text: str) -> str:
    """Lower, drop articles, write small numbers as digits, give contractions their apostrophe, single the spaces."""
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answers: Sequence[str], text: str) -> float:
    """`soft_accuracy` of a text, both sides normalised."""
    return soft_accuracy([normalise_vqa(answer) for answer in answers], normalise_vqa(text))


def soft_accuracy(answers: Sequence[str], said: str) -> float:
    """Mean over annotators of min(1, matches among the others / 3): 0.3, 0.6, 0.9, 1 for one to four of ten.

    >>> round(soft_accuracy(["two"] * 2 + ["three"] * 8, "two"), 3)
    0.6
    """
    matches = [answer == said for answer in answers]
    total = sum(matches)
    return sum(min(1.0, (total - match) / 3) for match in matches) / len(matches)

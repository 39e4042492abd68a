"""What the published data sets share: columns that are checked, ids, groups, prompts with slots.

A data set is a subclass that names its columns and gives its slots and its scorer; ``conf/dataset`` says where it is
found, what its prompt is, and how long answers may be. A score is a pure function of a document (the columns
that it depends on), a text and the options. All shares are in 0..1: multiply by 100 for the numbers that papers print.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from PIL import Image

from nuwa.benchmarks.base import Benchmark, BenchmarkError, Doc, Scores
from nuwa.benchmarks.column_checks import Check, checked, identifier, wording
from nuwa.benchmarks.images import about_turned
from nuwa.benchmarks.rows import Rows
from nuwa.benchmarks.sources import load_rows
from nuwa.samples import Sample, SampleError, Video

Entry = tuple[str, str | None]
"""A sample's id, and the group that it is scored with (None: alone)."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SLOT = re.compile(r"\{(\w+)\}")


class _Place(NamedTuple):
    """A sample, where it comes from (``part`` counts the samples of its row), and its `neighbourhood`."""

    id: str
    group: str | None
    row: int
    part: int
    near: tuple[str, int]


@dataclass(kw_only=True, eq=False)
class HubBenchmark(Benchmark):
    """Rows of the hub, or of a local copy with the same columns, as samples.

    Args:
        name: of the data set, in tables.
        hub: ids on the hub; the first that can be loaded is used (they moved in 2025).
        config: the hub's name of a subset.
        split: the hub's name of a part.
        revision: a commit of the hub, which pins the data.
        path: a local copy: a folder of parquet, or jsonl and pictures.
        streaming: read parquet where it lies instead of downloading and converting it first.
        prompt: the user's turn, with slots.
        answer_tokens: how many new tokens an answer may have.

    Raises:
        BenchmarkError: the data cannot be loaded, lacks a column or repeats an id, or the prompt has an unknown slot.
    """

    name: str
    hub: list[str]
    config: str | None = None
    split: str
    revision: str | None = None
    path: str | None = None
    streaming: bool = False
    prompt: str
    answer_tokens: int

    task: ClassVar[str]
    columns: ClassVar[Mapping[str, Check]]
    """Text columns, each with the check that its values must pass."""
    keys: ClassVar[tuple[str, ...]] = ()
    """Columns from which ids and groups are made; without any, the row's number is the id."""
    subject: ClassVar[str | None] = None
    """The column that names a row's picture, if rows share pictures; a local copy may lack it."""
    grouped: ClassVar[bool] = False
    """Whether samples are scored together with others."""
    pictures: ClassVar[tuple[str, ...]] = ("image",)
    slots: ClassVar[tuple[str, ...]] = ("question",)
    scored: ClassVar[tuple[str, ...]]
    """Columns that the scorer reads; they are the sample's target."""

    def __post_init__(self) -> None:
        self.check_prompt("prompt", self.prompt)
        if self.answer_tokens < 1:
            raise BenchmarkError(f"dataset.answer_tokens={self.answer_tokens} must be at least 1")
        self.rows = self.load()
        self.source = self.rows.source
        self.require(self.rows, dict.fromkeys((*self.columns, *self.pictures, *self.keys)))
        self._index()

    def load(self) -> Rows:
        """The rows."""
        return self.rows_of(self.config)

    def rows_of(self, config: str | None, images: str | None = None) -> Rows:
        """The rows of a config of the data set; ``images`` is the folder of pictures that they only name."""
        return load_rows(self.hub, config, self.split, self.revision, self.path, images, self.streaming)

    def entries(self, row: int, keys: Doc) -> Iterator[Entry]:
        """The samples of a row: by default one, whose id is the first of ``keys``.

        Raises:
            TypeError, ValueError, KeyError: the row is unusable; its sample fails when it is read.
        """
        yield identifier(keys[self.keys[0]]) if self.keys else str(row), None

    def document(self, doc: Doc, part: int, sizes: Sequence[tuple[int, int]]) -> Doc:
        """The document of sample ``part`` of a row, whose pictures have ``sizes`` (width, height).

        A column ``expression`` is what the sample asks to find.
        """
        return doc

    def images(self, row: int, doc: Doc) -> list[Image.Image]:
        """The pictures of a sample."""
        return [image for column in self.pictures for image in self.rows.pictures(row, column)]

    def videos(self, doc: Doc) -> tuple[Video, ...]:
        """The videos of a sample."""
        return ()

    def fill(self, doc: Doc) -> Mapping[str, str]:
        """Values for the prompt's slots: by default the columns of the same names."""
        return {slot: doc[slot] for slot in self.slots}

    def text(self, doc: Doc) -> str:
        """The user's turn."""
        return fill_slots(self.prompt, self.fill(doc))

    @abstractmethod
    def score_document(self, doc: Doc, text: str) -> Scores:
        """The scores of an answer, stripped, to a document."""

    def __len__(self) -> int:
        return len(self._places)

    def sample_id(self, index: int) -> str:
        return self._places[index].id

    def neighbourhood(self, index: int) -> tuple[str, int]:
        return super().neighbourhood(index) if self.streaming else self._places[index].near

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = self._places[index]
        try:
            doc = checked(self.rows.text(place.row, tuple(self.columns)), self.columns)
            images, videos = self.images(place.row, doc), self.videos(doc)
            with about_turned(images):
                doc = self.document(doc, place.part, [image.size for image in images])
        except SampleError as error:
            raise type(error)(f"{self.name}, row {place.row}: {error}") from error
        target = {column: doc[column] for column in self.scored}
        meta = {"row": place.row} | ({"group": place.group} if self.grouped else {})
        asked = self.text(doc), target, meta, doc.get("expression")
        return Sample(place.id, self.task, tuple(images), *asked, videos)

    def score(self, sample: Sample, prediction: str) -> Scores:
        return self.score_document(sample.target, prediction.strip())

    def max_new_tokens(self, task: str) -> int:
        return self.answer_tokens

    def take(self, limit: int | None) -> int:
        """As many whole groups as fit into ``limit``, and at least one: half a group has no score."""
        if limit is None or not self.grouped:
            return super().take(limit)
        groups = [place.group for place in self._places]
        ends = [i + 1 for i, group in enumerate(groups) if groups[i + 1 : i + 2] != [group]]
        return max((end for end in ends if end <= limit), default=ends[0])

    def check_prompt(self, key: str, prompt: str) -> None:
        """Refuse a prompt with a slot that this data set does not fill, or without the question."""
        unknown = [slot for slot in slots_of(prompt) if slot not in self.slots]
        if unknown or f"{{{self.slots[0]}}}" not in prompt:
            known = ", ".join(f"{{{slot}}}" for slot in self.slots)
            raise BenchmarkError(f"dataset.{key}={prompt!r}: needs {{{self.slots[0]}}}, and may have {known} only")

    def require(self, rows: Rows, columns: Iterable[str]) -> None:
        """Refuse rows without one of the columns, or without rows."""
        if not len(rows):
            raise BenchmarkError(f"dataset {self.name}: {rows.source} holds no rows")
        lacking = [column for column in columns if column not in rows.columns]
        if lacking:
            raise BenchmarkError(
                f"dataset {self.name}: {rows.source} lacks {', '.join(lacking)}; it has {', '.join(rows.columns)}"
            )

    def _index(self) -> None:
        """Find all samples without reading pictures. Members of a group stand together."""
        self._places = list(self._scan())
        if not self._places:
            raise BenchmarkError(f"dataset {self.name}: no row of {self.rows.source} belongs to it")
        if self.grouped:
            first = {place.group: number for number, place in reversed(list(enumerate(self._places)))}
            self._places.sort(key=lambda place: first[place.group])
        seen: dict[str, int] = {}
        for place in self._places:
            if place.id in seen:
                rows = f"rows {seen[place.id]} and {place.row}"
                raise BenchmarkError(f"dataset {self.name}: {rows} of {self.rows.source} have the same id {place.id!r}")
            seen[place.id] = place.row

    def _scan(self) -> Iterator[_Place]:
        """All samples in the order of their rows."""
        words = [slot for slot in self.slots if slot in self.columns]
        subject = [column for column in self.rows.columns if column == self.subject]
        columns = tuple(dict.fromkeys([*self.keys, *words, *subject]))
        for row, keys in enumerate(self.rows.keys(columns) if columns else ({} for _ in range(len(self.rows)))):
            picture = next((keys.get(column) for column in subject), None) or row
            length = sum(len(wording(keys.get(word))) for word in words)
            try:
                entries = list(self.entries(row, keys))
            except (TypeError, ValueError, KeyError):
                entries = [(f"row-{row}", f"row-{row}" if self.grouped else None)]  # fails when its turn comes
            for part, (name, group) in enumerate(entries):
                yield _Place(name, group, row, part, (group or wording(picture), length))


def slots_of(prompt: str) -> tuple[str, ...]:
    """The names of a prompt's slots, each once.

    >>> slots_of("{question} {hint} {question}")
    ('question', 'hint')
    """
    return tuple(dict.fromkeys(_SLOT.findall(prompt)))


def fill_slots(prompt: str, slots: Mapping[str, str]) -> str:
    """Fill all slots in one pass, so that braces in the data stay as they are.

    >>> fill_slots("{question} {hint}", {"question": "What is {hint}?", "hint": "Look."})
    'What is {hint}? Look.'
    """
    return _SLOT.sub(lambda found: slots.get(found[1], found[0]), prompt)


def option_letters(options: Sequence[str]) -> str:
    """One letter for each option, or a SampleError if there are not enough."""
    if len(options) > len(LETTERS):
        raise SampleError(f"{len(options)} options are more than there are letters")
    return LETTERS[: len(options)]


def option_lines(options: Sequence[str]) -> str:
    """``A. first`` and so on, one per line."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))

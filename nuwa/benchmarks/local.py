"""Your own pictures and videos: a folder with a jsonl of questions and answers, or expressions and boxes.

A row is one JSON object per line::

    {"image": "a.jpg", "question": "Is there a dog?", "answer": "yes"}
    {"image": "b.jpg", "expression": "left dog", "box": [10, 20, 200, 180]}
    {"video": "c.mp4", "question": "What falls?", "answer": "a cup"}

``image`` is a file relative to the folder, a list of files, or an empty list; ``video`` the same, or a folder of
frames; a question may have both. ``answer`` is a string or a list of accepted strings; ``box`` is in pixels; ``id`` is
optional. A column that is null is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Benchmark, BenchmarkError, Scores, require_slot
from nuwa.benchmarks.column_checks import checked, wording
from nuwa.benchmarks.decoding import require_decoder
from nuwa.benchmarks.images import about_turned, read_image
from nuwa.benchmarks.jsonl import JsonRow, read_jsonl
from nuwa.benchmarks.scoring import Box, exact_match, grounding_scores, in_both_frames, unit_box
from nuwa.benchmarks.videos import read_video
from nuwa.samples import Sample, SampleError
from nuwa.schema import FramesConfig, Positive

DEFAULT_FILE = "data.jsonl"
VISUALS = {"image": "pictures", "video": "videos"}
"""Columns that name files; a text may say where each of them stands (``<image>``)."""


@dataclass(eq=False)
class Local(Benchmark):
    """Questions (task ``vqa``) and referring expressions (task ``vg``) on pictures of a folder.

    ``path`` is the folder or one of its jsonl files. ``box_frame`` is the frame in which a model's boxes are taken to
    be when ``vg/*`` is scored: ``original`` as lmms-eval and the paper do, although LLaVA-1.5 answers in the frame of
    the ``padded`` square, which is the fair one. The other frame is always reported beside it (``vg_padded/*`` or
    ``vg_original/*``). ``samples`` takes the first rows only (None: all). ``frames`` are those taken of videos.
    """

    path: str | None
    vqa_prompt: str = "{question}"
    vg_prompt: str = "{expression}"
    box_format: Literal["xyxy", "xywh"] = "xyxy"
    box_frame: Literal["original", "padded"] = "original"
    ignore_punctuation: bool = True
    samples: int | None = None
    vqa_max_new_tokens: Positive = 16
    vg_max_new_tokens: Positive = 64
    name: str = "local"
    frames: FramesConfig = field(default_factory=FramesConfig)

    def __post_init__(self) -> None:
        for key, known in (("box_format", ("xyxy", "xywh")), ("box_frame", ("original", "padded"))):
            if getattr(self, key) not in known:
                raise BenchmarkError(f"dataset.{key}={getattr(self, key)} is unknown; choose one of {', '.join(known)}")
        if self.samples is not None and self.samples < 1:
            raise BenchmarkError(f"dataset.samples={self.samples} must be at least 1, or null for all rows")
        require_slot("vqa_prompt", self.vqa_prompt, "{question}")
        require_slot("vg_prompt", self.vg_prompt, "{expression}")
        self.file = find_jsonl(self.path)
        self.rows = [_without_nulls(row) for row in read_jsonl(self.file)[: self.samples]]
        self._check_rows()
        if any("video" in row.content for row in self.rows):
            require_decoder()

    def __len__(self) -> int:
        return len(self.rows)

    def sample_id(self, index: int) -> str:
        return self.rows[index].id

    def neighbourhood(self, index: int) -> tuple[str, int]:
        content = self.rows[index].content
        seen = wording([content[column] for column in VISUALS if column in content])
        return seen, len(wording(content.get("question") or content.get("expression")))

    def __getitem__(self, index: int) -> Sample:
        row = self.rows[index]
        content = row.content
        try:
            if row.error:
                raise SampleError(row.error)
            task, text = self._task_and_text(content)
            meta = checked(content, {name: files_named for name in VISUALS if name in content})
            for name, kind in VISUALS.items():
                if (placed := text.count(f"<{name}>")) not in (0, there := len(meta.get(name, ()))):
                    raise SampleError(f"the text places {placed} {kind}, the row has {there}")
            images = tuple(read_image(self.file.parent, name) for name in meta.get("image", ()))
            if task == "vqa":
                answers = checked(content, {"answer": column.accepted})["answer"]
                videos = tuple(read_video(self.file.parent, name, self.frames) for name in meta.get("video", ()))
                return Sample(row.id, task, images, text, answers, meta, videos=videos)
            if len(images) != 1 or "video" in meta:
                beside = " and a video" if "video" in meta else ""
                raise SampleError(f"an expression needs one picture, the row has {len(images)}{beside}")
            size = images[0].size
            numbers = checked(content, {"box": column.four_numbers})["box"]
            with about_turned(images):
                box = normalised_box(numbers, self.box_format, *size)
            meta |= {"width": size[0], "height": size[1]}
            return Sample(row.id, task, images, text, box, meta, content["expression"].strip())
        except SampleError as error:
            raise type(error)(f"{self.file.name} line {row.line}: {error}") from error

    def score(self, sample: Sample, prediction: str) -> Scores:
        if sample.task == "vqa":
            return {"vqa/exact_match": exact_match(sample.target, prediction, self.ignore_punctuation)}
        size = sample.meta["width"], sample.meta["height"]
        target, other, other_target = in_both_frames(sample.target, *size, self.box_frame)
        scores = grounding_scores(target, prediction)
        beside = grounding_scores(other_target, prediction, f"vg_{other}")
        del beside[f"vg_{other}/parsed"]  # whether there is a box does not depend on the frame
        return scores | beside

    def max_new_tokens(self, task: str) -> int:
        return self.vqa_max_new_tokens if task == "vqa" else self.vg_max_new_tokens

    def _task_and_text(self, content: Mapping) -> tuple[str, str]:
        """The row's task by its columns, and the prompt's text."""
        task, needed = ("vg", ("image", "expression", "box")) if "expression" in content else (
            "vqa", ("image", "question", "answer"))  # fmt: skip
        if {"question", "expression"} <= content.keys():
            raise SampleError("has both a question and an expression; give each a row of its own")
        filmed = task == "vqa" and "video" in content
        lacking = [column for column in needed[filmed:] if column not in content]
        if lacking:
            raise SampleError(f"lacks {', '.join(lacking)} (its columns: {', '.join(map(str, content)) or 'none'})")
        words = checked(content, {needed[1]: column.text})[needed[1]]
        prompt = self.vg_prompt if task == "vg" else self.vqa_prompt
        return task, prompt.replace(f"{{{needed[1]}}}", words.strip())

    def _check_rows(self) -> None:
        """Refuse a file without a usable row or with an id twice; single bad rows may stay."""
        first: dict[str, int] = {}
        for row in self.rows:
            if row.id in first:
                lines = f"lines {first[row.id]} and {row.line}"
                raise BenchmarkError(f"dataset.path: {self.file}: {lines} have the same id {row.id!r}")
            first[row.id] = row.line
            if not row.error:
                try:
                    self._task_and_text(row.content)
                except SampleError as error:
                    row.error = str(error)
        if not self.rows:
            raise BenchmarkError(f"dataset.path: {self.file} holds no rows")
        if all(row.error for row in self.rows):
            row = self.rows[0]
            raise BenchmarkError(
                f"dataset.path: no row of {self.file} can be used; line {row.line}: {row.error}. A row is "
                f"image (or video) + question + answer, or image + expression + box"
            )


def _without_nulls(row: JsonRow) -> JsonRow:
    """Tables of rows of both kinds fill up their columns with nulls."""
    return replace(row, content={name: value for name, value in row.content.items() if value is not None})


def find_jsonl(path: str | None) -> Path:
    """The jsonl that ``dataset.path`` means: the file itself, the folder's ``data.jsonl``, or its only ``*.jsonl``."""
    if not path:
        raise BenchmarkError("dataset.path is not set: give a folder with a .jsonl, e.g. dataset.path=photos")
    place = Path(path).expanduser()
    if place.is_file():
        return place
    if not place.is_dir():
        raise BenchmarkError(f"dataset.path={path}: there is no such folder or file")
    if (place / DEFAULT_FILE).is_file():
        return place / DEFAULT_FILE
    found = sorted(place.glob("*.jsonl"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found)
        hint = f"; dataset.path may name one of {names}" if found else ""
        raise BenchmarkError(f"dataset.path={path} lacks {DEFAULT_FILE}{hint}")
    return found[0]


def files_named(value: object) -> list[str]:
    """A row's files as a list."""
    files = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name for name in files):
        raise TypeError("must be a file name or a list of file names")
    return [column.string(name) for name in files]


def normalised_box(box: list[float], box_format: str, width: int, height: int) -> Box:
    """A pixel box (``xyxy`` corners, or ``xywh`` corner and size) as fractions of the picture's sides.

    >>> normalised_box([40, 20, 160, 120], "xywh", 320, 160)
    (0.125, 0.125, 0.625, 0.875)

    Raises:
        SampleError: the box is empty, leaves the picture, or seems to be fractions already.
    """
    x0, y0, x1, y1 = box
    if box_format == "xywh":
        x1, y1 = x0 + x1, y0 + y1
    if x1 <= x0 or y1 <= y0:
        raise SampleError(f"box {box} is empty as {box_format}; is dataset.box_format right?")
    fractions = unit_box((x0, y0, x1, y1), width, height, f"box {box} ({box_format})")
    if max(x1, y1) <= 1 < min(width, height):
        raise SampleError(f"box {box} looks like fractions; pixels are expected")
    return fractions

"""Your own pictures: a folder with a jsonl of questions and answers, or expressions and boxes.

A row is one JSON object per line::

    {"image": "a.jpg", "question": "Is there a dog?", "answer": "yes"}
    {"image": "b.jpg", "expression": "left dog", "box": [10, 20, 200, 180]}

``image`` is a file relative to the folder, a list of files, or an empty list; ``answer`` a string or a list of accepted
strings; ``box`` is in pixels; ``id`` is optional.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from PIL import Image, ImageOps

from nuwa.benchmarks.base import Benchmark, BenchmarkError, Scores
from nuwa.benchmarks.cells import a_string, a_text, checked
from nuwa.benchmarks.scoring import Box, exact_match, grounding_scores, to_padded_frame
from nuwa.samples import Sample, SampleError, spelt_out, to_rgb

DEFAULT_FILE = "data.jsonl"
FRAMES = ("original", "padded")
BOX_FORMATS = ("xyxy", "xywh")
PLACEHOLDER = "<image>"
SLACK = 1.0  # pixels by which an annotated box may leave its picture; COCO's are rounded


class Local(Benchmark):
    """Questions (task ``vqa``) and referring expressions (task ``vg``) on pictures of a folder.

    ``path`` is the folder or one of its jsonl files. ``box_frame`` is the frame in which a model's boxes are taken to
    be when ``vg/*`` is scored: ``original`` as lmms-eval and the paper do, although LLaVA-1.5 answers in the frame of
    the ``padded`` square, which is the fair one. The other frame is always reported beside it (``vg_padded/*`` or
    ``vg_original/*``). ``samples`` takes the first rows only (None: all).
    """

    def __init__(
        self,
        path: str | None,
        vqa_prompt: str = "{question}",
        vg_prompt: str = "{expression}",
        box_format: Literal["xyxy", "xywh"] = "xyxy",
        box_frame: Literal["original", "padded"] = "original",
        ignore_punctuation: bool = True,
        samples: int | None = None,
        vqa_max_new_tokens: int = 16,
        vg_max_new_tokens: int = 64,
        name: str = "local",
    ) -> None:
        for key, value, known in (("box_format", box_format, BOX_FORMATS), ("box_frame", box_frame, FRAMES)):
            if value not in known:
                raise BenchmarkError(f"dataset.{key}={value} is unknown; choose one of {', '.join(known)}")
        if samples is not None and samples < 1:
            raise BenchmarkError(f"dataset.samples={samples} must be at least 1, or null for all rows")
        for key, prompt, slot in (
            ("vqa_prompt", vqa_prompt, "{question}"),
            ("vg_prompt", vg_prompt, "{expression}"),
        ):
            if slot not in prompt:
                raise BenchmarkError(f"dataset.{key}={prompt!r} lacks the slot {slot}")
        self.name, self.box_format, self.box_frame = name, box_format, box_frame
        self.vqa_prompt, self.vg_prompt = vqa_prompt, vg_prompt
        self.ignore_punctuation = ignore_punctuation
        self.limits = {"vqa": vqa_max_new_tokens, "vg": vg_max_new_tokens}
        self.file = find_jsonl(path)
        self.rows = read_rows(self.file)[:samples]
        self._check_rows()

    def __len__(self) -> int:
        return len(self.rows)

    def sample_id(self, index: int) -> str:
        return self.rows[index]["id"]

    def neighbourhood(self, index: int) -> tuple[str, int]:
        content = self.rows[index]["content"] or {}
        return str(content.get("image")), len(str(content.get("question") or content.get("expression")))

    def __getitem__(self, index: int) -> Sample:
        row = self.rows[index]
        where = f"{self.file.name} line {row['line']}"
        if row["error"]:
            raise SampleError(f"{where}: {row['error']}")
        content = row["content"]
        try:
            task, text = self._task_and_text(content)
            files = checked(content, {"image": image_files})["image"]
            if text.count(PLACEHOLDER) not in (0, len(files)):
                raise SampleError(f"the text places {text.count(PLACEHOLDER)} pictures, the row has {len(files)}")
            images = tuple(read_image(self.file.parent, name) for name in files)
            meta: dict[str, object] = {"image": files}
            if task == "vqa":
                answers = checked(content, {"answer": accepted_answers})["answer"]
                return Sample(row["id"], task, images, text, answers, meta)
            if len(images) != 1:
                raise SampleError(f"an expression needs one picture, the row has {len(images)}")
            size = images[0].size
            box = normalised_box(content["box"], self.box_format, *size)
            meta |= {"width": size[0], "height": size[1]}
            return Sample(row["id"], task, images, text, box, meta, content["expression"].strip())
        except SampleError as error:
            raise SampleError(f"{where}: {error}") from error

    def score(self, sample: Sample, prediction: str) -> Scores:
        if sample.task == "vqa":
            return {"vqa/exact_match": exact_match(sample.target, prediction, self.ignore_punctuation)}
        targets = {
            "original": sample.target,
            "padded": to_padded_frame(sample.target, sample.meta["width"], sample.meta["height"]),
        }
        other = FRAMES[1 - FRAMES.index(self.box_frame)]
        scores = grounding_scores(targets[self.box_frame], prediction)
        beside = grounding_scores(targets[other], prediction, f"vg_{other}")
        del beside[f"vg_{other}/parsed"]  # whether there is a box does not depend on the frame
        return scores | beside

    def max_new_tokens(self, task: str) -> int:
        return self.limits[task]

    def _task_and_text(self, content: Mapping) -> tuple[str, str]:
        """The row's task by its columns, and the prompt's text."""
        task, needed = ("vg", ("image", "expression", "box")) if "expression" in content else (
            "vqa", ("image", "question", "answer"))  # fmt: skip
        lacking = [column for column in needed if column not in content]
        if lacking:
            raise SampleError(f"lacks {', '.join(lacking)} (its columns: {', '.join(map(str, content)) or 'none'})")
        words = checked(content, {needed[1]: a_text})[needed[1]]
        prompt = self.vg_prompt if task == "vg" else self.vqa_prompt
        return task, prompt.replace(f"{{{needed[1]}}}", words.strip())

    def _check_rows(self) -> None:
        """Refuse a file of which no row can be used, or whose ids are not unique; single bad rows may stay."""
        first: dict[str, int] = {}
        for row in self.rows:
            if row["id"] in first:
                lines = f"lines {first[row['id']]} and {row['line']}"
                raise BenchmarkError(f"dataset.path: {self.file}: {lines} have the same id {row['id']!r}")
            first[row["id"]] = row["line"]
            if not row["error"]:
                try:
                    self._task_and_text(row["content"])
                except SampleError as error:
                    row["error"] = str(error)
        if not self.rows:
            raise BenchmarkError(f"dataset.path: {self.file} holds no rows")
        if all(row["error"] for row in self.rows):
            row = self.rows[0]
            raise BenchmarkError(
                f"dataset.path: no row of {self.file} can be used; line {row['line']}: {row['error']}. A row is "
                f"image + question + answer, or image + expression + box"
            )


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


def read_rows(file: Path) -> list[dict]:
    """Every line that is not blank as {line, id, content, error}; ``error`` tells why ``content`` is no JSON object."""
    rows = []
    for number, raw in enumerate(file.read_bytes().splitlines(), start=1):
        if not raw.strip():
            continue
        content, error = {}, ""
        try:
            content = json.loads(raw.decode("utf-8-sig"))
            if not isinstance(content, dict):
                content, error = {}, f"is a JSON {type(content).__name__}, not an object"
        except ValueError as problem:
            error = f"is not valid JSON: {problem}"
        name = content.get("id")
        rows.append(
            {
                "line": number,
                "id": f"{file.stem}-{number}" if name is None else spelt_out(str(name)),
                "content": content,
                "error": error,
            }
        )
    return rows


def image_files(cell: object) -> list[str]:
    """A row's picture files as a list."""
    files = cell if isinstance(cell, list) else [cell]
    if not all(isinstance(name, str) and name for name in files):
        raise TypeError("must be a file name or a list of file names")
    return [a_string(name) for name in files]


def read_image(folder: Path, name: str) -> Image.Image:
    """Decode a picture inside ``folder`` to RGB, turned upright by its EXIF orientation.

    Raises:
        SampleError: the file is outside the folder, missing, or not a whole picture; or its name can be no file's.
    """
    try:
        file = (folder / name).resolve()
        exists = file.is_file()
    except (OSError, ValueError) as error:
        raise SampleError(f"image {name!r} can be no file: {error}") from error
    if not file.is_relative_to(folder.resolve()):
        raise SampleError(f"image {name} leads outside the folder {folder}")
    if not exists:
        raise SampleError(f"image {name} does not exist in {folder}")
    try:
        with Image.open(file) as image:
            return to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise many kinds of errors on broken files
        raise SampleError(f"image {name} cannot be read: {error}") from error


def accepted_answers(cell: object) -> tuple[str, ...]:
    """One or several accepted answers as strings; numbers are accepted as answers too."""
    answers = cell if isinstance(cell, list) else [cell]
    if not answers or not all(isinstance(one, (str, int, float)) and not isinstance(one, bool) for one in answers):
        raise TypeError("must be a text or a list of texts")
    return tuple(a_string(str(one)) for one in answers)


def normalised_box(box: object, box_format: str, width: int, height: int) -> Box:
    """A pixel box (``xyxy`` corners or ``xywh`` corner and size) as fractions of the picture's sides."""
    numbers = isinstance(box, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in box)
    if not numbers or len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise SampleError(f"box must be four numbers, not {box!r}")
    x0, y0, x1, y1 = box
    if box_format == "xywh":
        x1, y1 = x0 + x1, y0 + y1
    if x1 <= x0 or y1 <= y0:
        raise SampleError(f"box {box} is empty as {box_format}; is dataset.box_format right?")
    if min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
        raise SampleError(f"box {box} ({box_format}) leaves the picture of {width} x {height} pixels")
    if max(x1, y1) <= 1 < min(width, height):
        raise SampleError(f"box {box} looks like fractions; pixels are expected")
    return x0 / width, y0 / height, x1 / width, y1 / height

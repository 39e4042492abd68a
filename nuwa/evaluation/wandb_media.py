"""What W&B gets of a finished run to look at: scores, predictions with their pictures, the pictures themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from PIL import Image

from nuwa.evaluation.journal import Row
from nuwa.evaluation.runs import Run
from nuwa.evaluation.scores import scores_of
from nuwa.pictures.drawing import PICTURE_FOLDER, file_name


def run_media(cfg: DictConfig, result: Mapping[str, Any], rows: Sequence[Row], folder: Path) -> dict[str, Any]:
    """Tables ``cells`` and ``predictions`` and, if any were drawn, pictures ``kept_tokens``."""
    import wandb  # takes a second, and other loggers do not need it

    records = [score.record for score in scores_of(Run.of(result))]
    drawn = sorted((folder / PICTURE_FOLDER).glob("*.png"))[: cfg.callbacks.pictures]
    pictures = {
        path.stem: wandb.Image(sheet, caption=path.stem) for path, sheet in zip(drawn, _one_size(drawn), strict=True)
    }
    shown = predictions(rows[: cfg.logger.table_rows])
    columns: list[str | int] = ["picture", *shown[0]] if shown else []
    cells: list[list[Any]] = [[_picture_of(row["id"], pictures), *row.values()] for row in shown]
    media: dict[str, Any] = {
        "cells": wandb.Table(list(records[0]), [list(record.values()) for record in records]),
        "predictions": wandb.Table(columns, cells),
    }
    return media | ({"kept_tokens": list(pictures.values())} if pictures else {})


def predictions(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of a journal with one type a column: ``correct`` where a score says so, every score a number of its own."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.get("scores") or {}))
    return [
        {
            **{name: _text(row.get(name)) for name in ("id", "task", "prompt", "target", "prediction")},
            "correct": _correct(row),
            **{name: (row.get("scores") or {}).get(name) for name in metrics},
            "kept": _kept(row),
            **{name: _text(row.get(name)) for name in ("status", "reason")},
        }
        for row in rows
    ]


def _correct(row: Row) -> bool | None:
    """Whether the first score is full; None where it is neither full nor nothing."""
    score = next(iter((row.get("scores") or {}).values()), None)
    return {1: True, 0: False}.get(score) if score is not None else None


def _kept(row: Row) -> int | None:
    """Visual tokens that stay to the end, over all images."""
    return sum(stages[-1][1] for stages in row["kept"]) if row.get("kept") else None


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return " / ".join(value)
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _picture_of(name: str, pictures: Mapping[str, Any]) -> Any | None:
    """The first picture of a sample."""
    return pictures.get(f"{file_name(name)}-0")


def _one_size(paths: Sequence[Path]) -> list[str | Image.Image]:
    """Pictures of one size, W&B shows others distorted: the largest as files, smaller ones on white sheets."""
    pictures = [Image.open(path) for path in paths]
    width, height = (max((picture.size[axis] for picture in pictures), default=0) for axis in (0, 1))
    sheets: list[str | Image.Image] = []
    for path, picture in zip(paths, pictures, strict=True):
        sheets.append(str(path))  # as it is, which costs no encoding
        if picture.size != (width, height):
            sheets[-1] = sheet = Image.new("RGB", (width, height), "white")
            sheet.paste(picture, (0, 0))
    return sheets

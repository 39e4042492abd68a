"""Samples of runs as plain data: what was asked, what each run answered, and whether that is right."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from nuwa.benchmarks.scoring import box_iou
from nuwa.evaluation.answers import recorded_rows
from nuwa.evaluation.journal import Row
from nuwa.evaluation.result import RESULT
from nuwa.evaluation.runs import Run, by_key, find_runs
from nuwa.options import ConfigError
from nuwa.pictures.captions import shortened, target_text
from nuwa.pictures.drawing import Boxes, boxes_of
from nuwa.report.failures import is_right
from nuwa.targets import find_target

Plain = dict[str, Any]
"""What JSON can say."""


@dataclass(frozen=True)
class RunRows:
    """A finished run, its folder, and the rows of its journal by sample."""

    folder: Path
    run: Run
    rows: dict[str, Row]

    @classmethod
    def read(cls, folder: Path, run: Run) -> RunRows:
        """With all rows, those of failed samples too."""
        return cls(folder, run, {row["id"]: row for row in recorded_rows(folder)})


@dataclass(frozen=True)
class SampleSet:
    """Runs on the same data, the ids of the samples that are shown, and of how many they are the first."""

    name: str
    runs: list[RunRows]
    ids: list[str]
    total: int


def read_runs(root: Path, keys: Collection[str] = ()) -> tuple[list[RunRows], list[str]]:
    """The finished runs below a folder, the unpruned first, and a remark about each of the others.

    Only those whose key begins with one of ``keys``, where there are any.

    Raises:
        ValueError: there is no finished run, or a key is not there.
        UnreadableError: a journal is broken.
    """
    found = by_key(find_runs(root))
    for key in keys:
        if not any(name.startswith(key) for name in found):
            raise ValueError(f"--runs {key}: no run below {root} has this key")
    chosen = [pair for name, pair in found.items() if not keys or name.startswith(tuple(keys))]
    if not any(run.done for _, run in chosen):
        states = Counter(run.status for _, run in chosen)
        said = ", ".join(f"{count} {status}" for status, count in states.items()) or "no run at all"
        raise ValueError(f"{root}: no finished run ({said})")
    chosen.sort(key=lambda pair: (pair[1].method != "none", pair[1].choices.title))
    remarks = [
        f"{run.method} {run.run_key} is left out: {run.status}, {run.reason}" for _, run in chosen if not run.done
    ]
    return [RunRows.read(folder, run) for folder, run in chosen if run.done], remarks


def sample_sets(runs: Iterable[RunRows], count: int) -> list[SampleSet]:
    """Runs by their data, each with its first ``count`` samples in the order in which they were answered."""
    groups: dict[str, list[RunRows]] = {}
    for run in runs:
        groups.setdefault(_data_of(run.run), []).append(run)
    sets: list[SampleSet] = []
    for members in groups.values():
        choices = members[0].run.choices
        name = " ".join(filter(None, (choices.dataset, choices.split)))
        twins = sum(one.name.partition(" #")[0] == name for one in sets)
        ids = list(dict.fromkeys(name for run in members for name in run.rows))
        sets.append(SampleSet(f"{name} #{twins + 1}" if twins else name, members, ids[:count], len(ids)))
    return sets


def _data_of(run: Run) -> str:
    """What two runs on the same samples have in common; how they are asked may differ by model."""
    options = run.config.get("dataset") or {}
    asking = ("prompt", "new_tokens", "streaming")
    return json.dumps(
        [{k: v for k, v in options.items() if not k.endswith(asking)}, run.data], sort_keys=True, default=str
    )


def plain_run(run: RunRows, label: str, number: int, out: Path) -> Plain:
    """A run for the page that lies in ``out``; ``number`` is that of its sample set."""
    flat, key = run.run.choices.flat, run.run.run_key
    export = f"nuwa export {quote(str(run.folder))} --out again"
    return {
        "key": key,
        "label": label,
        "set": number,
        **{name: flat[name] for name in ("method", "model", "budget", "position")},
        "layers": len(run.run.tokens_per_layer),
        "result": Path(os.path.relpath(run.folder / RESULT, out)).as_posix(),
        "command": f"{export} && nuwa run --config-dir=again --config-name={key}",
    }


def plain_sample(found: SampleSet, name: str) -> Plain:
    """A sample with what every run answered, by run key."""
    rows = {run.run.run_key: run.rows[name] for run in found.runs if name in run.rows}
    told = next((row for row in rows.values() if row["status"] == "ok"), next(iter(rows.values())))
    tasks = _box_tasks(found)
    boxes = boxes_of(tasks, told) if told["status"] == "ok" else {}
    return {
        "id": name,
        "task": told["task"],
        "question": told.get("prompt", ""),
        "target": _target(told.get("target"), boxes),
        "box": boxes.get("true"),
        "answers": {key: plain_answer(row, tasks) for key, row in rows.items()},
    }


def plain_answer(row: Row, tasks: Collection[str]) -> Plain:
    """What a run answered, its scores, and its box and IoU where it is one; or why it failed."""
    if row["status"] != "ok":
        return {"failed": row.get("reason", "")}
    boxes = boxes_of(tasks, row)
    answer = {
        "text": shortened(row["prediction"]),
        "scores": row["scores"],
        "right": is_right(row) if row["scores"] else None,
        "kept": row.get("kept", []),
    }
    if "true" in boxes:
        answer["iou"] = round(box_iou(boxes["true"], boxes["predicted"]), 3) if "predicted" in boxes else 0.0
        answer["box"] = boxes.get("predicted")
    return answer


def _target(target: Any, boxes: Boxes) -> str:
    """What was to be answered, as text."""
    if "true" in boxes:
        return f"[{', '.join(f'{side:.2f}' for side in boxes['true'])}]"
    return "" if target is None else shortened(target_text(target))


def _box_tasks(found: SampleSet) -> Collection[str]:
    """The tasks whose answers are boxes in fractions of a picture."""
    options = found.runs[0].run.config.get("dataset") or {}
    try:
        return find_target(options.get("_target_"), "dataset").unit_box_tasks
    except ConfigError:  # of a package that this machine does not have
        return ()

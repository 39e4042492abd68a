"""One row or picture never stops a run: it is a failed sample, and the others are answered."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.faults import TOY
from PIL import Image

LOCAL = (*(option for option in TOY if not option.startswith("dataset.")), "dataset=local")
GOOD = {"id": "good", "image": "good.png", "question": "what ?", "answer": "x"}
BOX = {"id": "bad", "image": "good.png", "expression": "it", "box": [0, 0, 20, 20]}
HUGE = 10**400
NESTED = json.loads("[" * 900 + "]" * 900)


def circle(data: Path) -> None:
    (data / "bad.png").symlink_to("worse.png")
    (data / "worse.png").symlink_to("bad.png")


def nothing(data: Path) -> None:
    """No further files."""


def text(row: dict, **cells: str) -> str:
    """A row as JSON, some cells as they are written."""
    return json.dumps(row)[:-1] + "".join(f', "{key}": {cell}' for key, cell in cells.items()) + "}"


BAD_ROWS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "links in a circle": (json.dumps(GOOD | {"id": "bad", "image": "bad.png"}), circle, "can be no file"),
    "a folder": (
        json.dumps(GOOD | {"id": "bad", "image": "bad.png"}),
        lambda data: (data / "bad.png").mkdir(),
        "is a folder, not a file",
    ),
    "a pipe": (json.dumps(GOOD | {"id": "bad", "image": "b.png"}), lambda data: os.mkfifo(data / "b.png"), "exist"),
    "a huge number in a box": (
        json.dumps(BOX | {"box": [0, 0, HUGE, 10]}),
        nothing,
        "box must be four numbers, not [0",
    ),
    "a huge number as a size": (text(BOX, box="[0, 0, 1e308, 1e308]"), nothing, "leaves the picture"),
    "infinity": (text(BOX, box="[0, 0, Infinity, 10]"), nothing, "box must be four numbers"),
    "a huge number as an answer": (json.dumps(GOOD | {"id": "bad", "answer": [[HUGE]]}), nothing, "must be a text"),
    "a huge number as a picture": (
        json.dumps(GOOD | {"id": "bad", "image": HUGE}),
        nothing,
        "image must be a file name",
    ),
    "a nested picture": (json.dumps(GOOD | {"id": "bad", "image": NESTED}), nothing, "image must be a file name"),
    "a nested question": (json.dumps(GOOD | {"id": "bad", "question": NESTED}), nothing, "question must be a text"),
    "a nested answer": (json.dumps(GOOD | {"id": "bad", "answer": NESTED}), nothing, "answer must be a text"),
    "a nested box": (json.dumps(BOX | {"box": NESTED}), nothing, "box must be four numbers"),
    "a nested id": (json.dumps(GOOD | {"id": NESTED, "image": "none.png"}), nothing, "does not exist"),
    "3,000 brackets": ("[" * 3000 + "]" * 3000, nothing, "line 2: is nested too deeply"),
    "100,000 brackets": ("[" * 100_000, nothing, "line 2: is nested too deeply"),
    "a number of 5,000 digits": ("1" * 5000, nothing, "line 2: is not valid JSON"),
    "a lone surrogate": (
        '{"id": "bad", "image": "good.png", "question": "\\ud83d", "answer": "x"}',
        nothing,
        "surrogate",
    ),
}


def make_data(folder: Path, *lines: str) -> Path:
    """A folder with a good picture and rows."""
    data = folder / "data"
    data.mkdir()
    Image.new("RGB", (32, 24), "red").save(data / "good.png")
    (data / "data.jsonl").write_text("\n".join(lines) + "\n")
    return data


def answers(server, folder: Path, outputs: str = "out") -> tuple[dict[str, dict], str]:
    """The rows of a run on the data, by id, and what was printed."""
    outcome = server.run(["launch.py", *LOCAL, "dataset.path=data", f"paths.outputs={outputs}"], folder)
    assert outcome.status == 0 and not outcome.late and "Traceback" not in outcome.printed, outcome.printed
    (file,) = folder.glob(f"{outputs}/main/*/predictions.jsonl")
    return {row["id"]: row for row in map(json.loads, file.read_text().splitlines())}, outcome.printed


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.faults if "nested " in name else []) for name in BAD_ROWS]
)
def test_a_bad_row_fails_alone(name, server, tmp_path):
    line, prepare, reason = BAD_ROWS[name]
    prepare(make_data(tmp_path, json.dumps(GOOD), line))
    rows, _ = answers(server, tmp_path)
    assert len(rows) == 2 and rows.pop("good")["status"] == "ok"
    (bad,) = rows.values()
    assert bad["status"] == "failed" and reason in bad["reason"] and len(bad["reason"]) < 2000

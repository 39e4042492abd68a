"""Bad input in whole runs: a bad row is journalled with its reason and counted, a bad source ends in one line."""

import json
import math
import re

import pytest
from helpers.jobs import SMALL, compose
from helpers.published import picture, pope, refcoco, write_parquet, write_set

from nuwa.evaluation import compute
from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job

pytestmark = pytest.mark.usefixtures("own_cache")
TOY = [override for override in SMALL if not override.startswith("dataset.")]


def run(tmp_path, name, *overrides):
    """A job on a local copy of a data set: its result and its journal."""
    options = (f"dataset={name}", f"dataset.path={tmp_path / 'data'}", f"paths.outputs={tmp_path / 'out'}")
    folder = run_job(compose(*TOY, *options, "pruner=none", "generation.max_new_tokens=2", *overrides))
    return read_result(folder), read_rows(folder / JOURNAL)


def cut(picture):
    return picture | {"bytes": picture["bytes"][: len(picture["bytes"]) // 2]}


BAD = {
    "a truncated JPEG": (lambda row: {"image": cut(row["image"])}, "image .*jpg cannot be read: .*[Tt]runcated"),
    "a file of no bytes": (lambda row: {"image": row["image"] | {"bytes": b""}}, "image .*jpg cannot be read"),
    "no picture": (lambda row: {"image": None}, "an expression needs one picture, the row has 0"),
    "a box that leaves": (lambda row: {"bbox": [40.0, 12.0, 60.0, 24.0]}, "leaves the picture of"),
    "a reversed box": (lambda row: {"bbox": [40.0, 40.0, -20.0, -10.0]}, "is empty or reversed"),
    "corners for sizes": (
        lambda row: {"bbox": [30.0, 30.0, 46.0, 46.0]},
        r"\(x, y, width, height\) leaves the picture",
    ),
    "a box of NaN": (lambda row: {"bbox": [8.0, math.nan, 16.0, 24.0]}, r"bbox must be four numbers, not \[8\.0, nan"),
    "three numbers": (lambda row: {"bbox": [8.0, 12.0, 16.0]}, "bbox must be four numbers"),
    "no answers": (lambda row: {"answer": []}, r"answer must be a list of at least one text, not \[\]"),
}


@pytest.mark.parametrize(("streaming", "workers"), [("false", 0), ("true", 0), ("true", 1)])
def test_bad_rows_are_journalled_and_the_run_goes_on(streaming, workers, tmp_path):
    rows = refcoco(len(BAD) + 3)
    for number, (change, _) in enumerate(BAD.values(), start=1):
        rows[number] |= change(rows[number])
        rows[number]["answer"] = rows[number]["answer"][:1]
    write_parquet(rows, tmp_path / "data/data/testA", group=4)
    options = (f"dataset.streaming={streaming}", f"trainer.num_workers={workers}")
    result, journal = run(tmp_path, "refcoco_testA", *options)
    good = [row for number, row in enumerate(rows) if not 1 <= number <= len(BAD)]
    assert result["status"] == "done", result.get("reason")
    assert (result["n"], result["n_failed"]) == (sum(len(row["answer"]) for row in good), len(BAD))
    failed = {row["reason"] for row in journal if row["status"] == "failed"}
    for number, (_, reason) in enumerate(BAD.values(), start=1):
        (found,) = (one for one in failed if one.startswith(f"refcoco_testA, row {number}: "))
        assert re.search(reason, found), found
    assert result["metrics"]["refcoco/ACC@0.5"] is not None


@pytest.mark.parametrize("name", ["pope", "local"])
def test_text_that_cannot_be_written_costs_its_sample_only(name, tmp_path):
    good, half = {"image": "a.png", "question": "Is it?", "answer": "yes", "category": "random"}, "x \ud83d"
    keys = ("question", "answer", "image")
    rows = [good, *(good | {key: half} for key in keys), {half: half}, good]
    lines = [json.dumps(row | {"question_id": number}) for number, row in enumerate(rows)]
    (tmp_path / "data").mkdir()
    picture(0).save(tmp_path / "data/a.png")
    (tmp_path / "data/test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    result, journal = run(tmp_path, name)
    assert result["status"] == "done", result.get("reason")
    assert (result["n"], result["n_failed"], len(journal)) == (2, 4, 6)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_first_bad_row_can_end_the_run(workers, tmp_path):
    rows = pope(4)
    rows[1]["image"] = cut(rows[1]["image"])
    write_parquet(rows, tmp_path / "data/data/test")
    result, _ = run(tmp_path, "pope", "on_error=raise", f"trainer.num_workers={workers}")
    assert result["status"] == "failed" and "pope, row 1: image 1.jpg cannot be read" in result["reason"]
    assert "\n" not in result["reason"], "a reason, not the traceback of another process"


def spoiled(tmp_path, kind):
    """A data set that cannot be used at all, and what is said about it."""
    folder = tmp_path / "data"
    if kind == "a missing column":
        write_parquet([{k: v for k, v in row.items() if k != "category"} for row in pope(3)], folder / "data/test")
        return "lacks category; it has id, question_id, question, image, answer, image_source"
    if kind == "ids twice":
        write_parquet([*pope(3), pope(1)[0]], folder / "data/test")
        return "rows 0 and 3 of .* have the same id 'random-1'"
    (file,) = write_set("pope", folder).rglob("*.parquet")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return "is not a whole parquet file"


@pytest.mark.parametrize("streaming", ["false", "true"])
@pytest.mark.parametrize("kind", ["a missing column", "ids twice", "half a parquet"])
def test_a_source_that_cannot_be_used_is_one_line(kind, streaming, tmp_path, monkeypatch):
    reason = spoiled(tmp_path, kind)
    monkeypatch.setattr(compute, "compute", lambda *_: pytest.fail("a model was loaded"))
    result, journal = run(tmp_path, "pope", f"dataset.streaming={streaming}")
    assert result["status"] == "failed" and journal == []
    assert re.search(reason, result["reason"]), result["reason"]
    assert "\n" not in result["reason"] and result["reason"].startswith("dataset")


def test_a_revision_that_is_not_there_without_network(tmp_path):
    options = ("dataset=pope", f"dataset.revision={'0' * 40}", f"paths.outputs={tmp_path / 'out'}")
    result = read_result(run_job(compose(*TOY, *options, "pruner=none")))
    assert result["status"] == "failed"
    for part in (f"revision {'0' * 40}", "lmms-lab/POPE: ", "lmms-lab-encoder/POPE: ", "dataset.path=<folder"):
        assert part in result["reason"]

"""Published data sets as whole jobs on toy models: journal, metrics, resume, limit, bad rows."""

import pytest
from helpers.jobs import SMALL, compose
from helpers.published import pope, write_parquet, write_set

from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.result import RESULT, read_result
from nuwa.evaluation.run import run_job

pytestmark = pytest.mark.usefixtures("own_cache")
TOY = [override for override in SMALL if not override.startswith("dataset.")]


def run(tmp_path, name, *overrides):
    """The folder of a job on a local copy of a data set."""
    options = (f"dataset={name}", f"dataset.path={tmp_path / 'data'}", f"paths.outputs={tmp_path / 'out'}")
    return run_job(compose(*TOY, *options, "generation.max_new_tokens=3", *overrides))


@pytest.mark.parametrize(
    ("name", "headline", "n", "pictures"),
    [("mme", "mme/total_score", 4, 1), ("mmmu_val", "mmmu/acc", 5, 2), ("refcoco_testA", "refcoco/ACC@0.5", 5, 1),
     ("mmvet", None, 5, 1)],
)  # fmt: skip
def test_a_job_with_limit_and_resume(name, headline, n, pictures, tmp_path):
    write_set(name, tmp_path / "data")
    folder = run(tmp_path, name, "limit=5")
    result = read_result(folder)
    assert (result["status"], result["n"], result["n_failed"]) == ("done", n, 0), result.get("reason")
    assert next(iter(result["metrics"]), None) == headline
    assert set(result["standard_errors"]) == set(result["metrics"])
    rows = read_rows(folder / JOURNAL)
    assert pictures in {len(row["kept"]) for row in rows}
    assert all("target" in row and "prediction" in row for row in rows)
    answers = {row["id"]: row["prediction"] for row in rows}
    (folder / RESULT).unlink()
    lines = (folder / JOURNAL).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / JOURNAL).write_text("".join(lines[:3]) + lines[3][:20], encoding="utf-8")  # as a kill leaves it
    assert run(tmp_path, name, "limit=5") == folder
    assert {row["id"]: row["prediction"] for row in read_rows(folder / JOURNAL)} == answers
    again = read_result(folder)
    assert again["metrics"] == result["metrics"]


def test_a_bad_row_is_counted_and_the_run_goes_on(tmp_path):
    rows = pope(6)
    rows[2]["image"] = {"bytes": b"nothing", "path": "a.jpg"}
    write_parquet(rows, tmp_path / "data/data/test")
    folder = run(tmp_path, "pope", "trainer.num_workers=1", "pruner=none")
    result = read_result(folder)
    assert (result["status"], result["n"], result["n_failed"]) == ("done", 5, 1)
    (failed,) = (row for row in read_rows(folder / JOURNAL) if row["status"] == "failed")
    assert failed["id"] == "adversarial-1" and failed["reason"].startswith("pope, row 2: image a.jpg cannot be read")
    strict = read_result(run(tmp_path, "pope", "pruner=none", "on_error=raise", "name=strict", "trainer.num_workers=1"))
    assert strict["status"] == "failed" and "image a.jpg cannot be read" in strict["reason"]
    assert "\n" not in strict["reason"], "a reason, not the traceback of another process"

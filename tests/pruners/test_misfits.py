"""Methods on models that lack what they need: refused by name, before weights are read, and kept in tables."""

import pytest
from helpers.jobs import compose

from nuwa.evaluation import compute as compute_module
from nuwa.evaluation.check import check
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job
from nuwa.evaluation.runs import collect
from nuwa.pruners.base import MisfitError
from nuwa.report.tables.runs import RunsTable

TINY = ("model=tiny_qwen", "budget=ratio50", "pruner=prumerge", "callbacks=none", "logger=none", "baseline=skip")


def test_a_model_in_a_folder_is_refused_by_its_config():
    with pytest.raises(MisfitError, match="pruner prumerge scores with the CLS token, and a qwen2_5_vl_vision"):
        check(compose(*TINY))


def test_a_refused_job_leaves_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(compute_module, "compute", lambda *args: pytest.fail("loaded"))
    folder = run_job(compose(*TINY, f"paths.outputs={tmp_path}"))
    result = read_result(folder)
    assert (result["status"], "traceback" in result) == ("refused", False)
    (row,) = RunsTable(collect([folder])).rows()
    assert (row["method"], row["status"]) == ("prumerge", "refused") and "CLS token" in row["reason"]

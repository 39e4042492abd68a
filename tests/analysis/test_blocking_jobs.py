"""Blocking as a config group: jobs of their own, compared with the unblocked run, refused early where impossible."""

import pytest
from helpers.jobs import compose, small

from nuwa.config import ConfigError, baseline_of, choices, is_baseline, run_key
from nuwa.evaluation.check import check
from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job

UNPRUNED = ("pruner=none", "budget=full")


def test_a_blocked_run_has_a_key_of_its_own_and_the_others_keep_theirs():
    plain, blocked = compose(*UNPRUNED), compose(*UNPRUNED, "blocking=vision_to_vision", "blocking.layers=2/4")
    assert "blocking" not in choices(compose()) and "blocking" not in choices(plain)
    assert choices(blocked)["blocking"] == {"source": "vision", "layers": "2/4"}
    keys = {run_key(compose(*UNPRUNED, f"blocking={b}")) for b in ("none", "vision_to_vision", "text_to_vision")}
    assert len(keys | {run_key(blocked)}) == 4
    assert is_baseline(plain) and not is_baseline(blocked)
    assert run_key(baseline_of(blocked)) == run_key(plain)


def test_blocked_jobs_answer_differently_and_name_the_unblocked_run(tmp_path):
    options = ("model.weights_boost=4", "name=blocked", *UNPRUNED, "budget.average=null")
    blocked = run_job(small(tmp_path, *options, "blocking=last_to_vision"))
    result = read_result(blocked)
    assert result["status"] == "done" and result["baseline"] != blocked.name
    assert result["config"]["blocking"] == {"source": "last", "layers": "1/1"}
    unblocked = run_job(small(tmp_path, *options))
    assert unblocked.name == result["baseline"]
    answers = [[row["prediction"] for row in read_rows(folder / JOURNAL)] for folder in (blocked, unblocked)]
    assert answers[0] != answers[1]
    assert read_result(unblocked)["tokens_per_layer"] == result["tokens_per_layer"]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("blocking.source=system", "blocking.source=system"),
        ("blocking.layers=3-1", "blocking.layers=3-1"),
        ("blocking.layers=0-16", "blocking.layers=0-16"),
        ("blocking.layers=middle", "blocking.layers=middle"),
    ],
)
def test_refused_before_any_model_loads(override, named):
    with pytest.raises(ConfigError, match=named):
        check(compose("blocking=text_to_vision", override))

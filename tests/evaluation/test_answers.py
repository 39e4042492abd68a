"""The answers of a run are those that its result was made of, or nobody reads them."""

import json

import pytest
from helpers.made_up import result, row

from nuwa.evaluation.answers import read_answers
from nuwa.evaluation.journal import JOURNAL, Journal
from nuwa.evaluation.reading import UnreadableError
from nuwa.evaluation.result import write_result

ROWS = [row("a"), row("b", status="failed"), row("c")]


def test_answers_of_a_folder(tmp_path):
    assert read_answers(tmp_path / "nowhere") == []
    Journal(tmp_path / JOURNAL, "key").append(ROWS)
    assert [one["id"] for one in read_answers(tmp_path)] == ["a", "c"]  # not finished: so far
    write_result(tmp_path, result("nuwa", {}, n=2, n_failed=1))
    assert [one["id"] for one in read_answers(tmp_path)] == ["a", "c"]


@pytest.mark.parametrize("left", [[], ROWS[:2], [*ROWS, ROWS[0]], [ROWS[0], ROWS[1], ROWS[1]]])
def test_a_journal_that_lost_or_gained_rows_is_refused(tmp_path, left):
    write_result(tmp_path, result("nuwa", {}, n=2, n_failed=1))
    (tmp_path / JOURNAL).write_text("".join(json.dumps(one) + "\n" for one in left))
    said = f"{tmp_path / JOURNAL}: holds {len(left)} rows about .* samples, and result.json counts 3; run it again"
    with pytest.raises(UnreadableError, match=said):
        read_answers(tmp_path)

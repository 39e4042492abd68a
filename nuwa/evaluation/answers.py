"""The answers of a run, held against what its result counts: journals are cut short, appended to and left behind."""

from __future__ import annotations

from pathlib import Path

from nuwa.evaluation.journal import JOURNAL, Row, answered, read_rows
from nuwa.evaluation.reading import UnreadableError, content_of
from nuwa.evaluation.result import RESULT
from nuwa.evaluation.runs import Run


def recorded_rows(folder: Path) -> list[Row]:
    """The rows of the run in a folder, each sample once; of a finished run all that its result counts.

    Raises:
        UnreadableError: the journal is broken, or not what the result was made of.
    """
    path, run = Path(folder) / JOURNAL, Run.read(folder)
    rows = read_rows(path)
    samples = len({row["id"] for row in rows})
    counted = _counted(run) if run.done else samples
    if not len(rows) == samples == counted:
        held = f"holds {len(rows)} rows about {samples} samples, and {RESULT} counts {counted}"
        raise UnreadableError(path, f"{held}; run it again, with resume=false if it is skipped")
    return rows


def read_answers(folder: Path) -> list[Row]:
    """The answered rows of `recorded_rows`."""
    return answered(recorded_rows(folder))


def holds_all(folder: Path, run: Run) -> bool:
    """Whether a run is finished and its journal has a line for each sample that it counts; they are not parsed."""
    try:
        return run.done and content_of(Path(folder) / JOURNAL).count(b"\n") == _counted(run)
    except UnreadableError:
        return False


def _counted(run: Run) -> int:
    return (run.n or 0) + run.n_failed

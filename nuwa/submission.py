"""What the validation server of EgoSchema takes: the answers to its questions are withheld.

nuwa submission outputs/main/<run> --out egoschema.json
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from nuwa.benchmarks.egoschema import NO_CHOICE, EgoSchema
from nuwa.command import argument, command
from nuwa.evaluation.answers import read_answers
from nuwa.evaluation.runs import Run, finished_run
from nuwa.targets import find_target


def submission_of(folder: Path) -> dict[str, int]:
    """The number of the option that a finished run chose for every video.

    Raises:
        ValueError: the run is not finished, or of another data set.
    """
    run = finished_run(folder)
    options = run.config["dataset"]
    benchmark = find_target(options.get("_target_"), "dataset").unloaded(options)
    if not isinstance(benchmark, EgoSchema):
        raise ValueError(f"{folder} is a run of {run.dataset}; a server marks EgoSchema alone")
    return benchmark.submission(read_answers(folder))


@command(
    "Write what EgoSchema's validation server takes.",
    argument("folder", type=Path, help="a run's folder"),
    argument("--out", type=Path, default=Path("egoschema.json"), help="the file (default: %(default)s)"),
)
def main(options: Namespace) -> None:
    """Write the file, and say what is missing in it."""
    chosen = submission_of(options.folder)
    options.out.write_text(json.dumps(chosen), encoding="utf-8")
    unread = sum(number == NO_CHOICE for number in chosen.values())
    failed = Run.read(options.folder).n_failed
    print(f"{options.out}: {len(chosen)} videos, {unread} of them without a readable answer; {failed} samples failed")


if __name__ == "__main__":
    sys.exit(main())

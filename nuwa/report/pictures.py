"""Pictures of every decision about an image, for one run or for several side by side (paper Fig. 11, 15-17).

    nuwa pictures outputs/main/<key>                     # the first samples of a run
    nuwa pictures outputs/main/<key> outputs/main/<key>  # the same samples, a row per run

The runs' prompts are read again, their answers come from their journals. Of a video there is a contact
sheet: its frames in a row, the tokens that stay of each, stage by stage, what merged in one colour, and segments.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from nuwa.command import argument, command
from nuwa.evaluation.answers import read_answers
from nuwa.evaluation.recorded import reopened
from nuwa.pictures.canvas import in_a_line
from nuwa.pictures.drawing import PICTURE_FOLDER, file_name, sample_pictures


def run_pictures(folder: Path, count: int, ids: bool = False) -> Iterator[tuple[str, list[Image.Image]]]:
    """The ids and pictures of a run's first samples, those that it answered, as its config decides them today.

    Raises:
        ValueError: the folder holds no finished run.
    """
    rows = {row["id"]: row for row in read_answers(folder)}
    with reopened(folder) as run:
        for index in range(min(count, run.count)):
            if row := rows.get(run.benchmark.sample_id(index)):
                sample = run.benchmark[index]
                yield sample.id, list(sample_pictures(run.session, run.loaded, run.benchmark, sample, row, ids))


@command(
    "Pictures of every decision about an image, for one run or for several side by side.",
    argument("runs", nargs="+", type=Path, help="folders of finished runs"),
    argument("--samples", type=int, default=4, help="how many of the first samples"),
    argument("--ids", action="store_true", help="also where the tokens are by their position ids"),
    argument("--out", type=Path, help="folder of the pictures; by default `pictures` in the first run's"),
)
def main(given: Namespace) -> None:
    """Write the pictures and print their paths."""
    if given.samples < 1:
        raise ValueError(f"--samples {given.samples}: must be at least 1")
    found: dict[str, list[Image.Image]] = {}
    for run in given.runs:
        for name, pictures in run_pictures(run, given.samples, given.ids):
            found.setdefault(name, []).extend(pictures)
    out = given.out or given.runs[0] / PICTURE_FOLDER
    out.mkdir(parents=True, exist_ok=True)
    for name, pictures in found.items():
        path = out / f"{file_name(name)}{'-side-by-side' if len(given.runs) > 1 else ''}.png"
        in_a_line(pictures, down=True).save(path)
        print(path)


if __name__ == "__main__":
    sys.exit(main())

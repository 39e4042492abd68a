"""What is shown while a run computes: a progress bar and pictures of the tokens kept of its first samples."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nuwa.command import forgiving_output
from nuwa.evaluation.journal import Journal, Row
from nuwa.evaluation.module import Evaluation
from nuwa.evaluation.unharmed import unharmed
from nuwa.pictures.drawing import PICTURE_FOLDER, file_name, sample_pictures
from nuwa.samples import Sample


class KeptTokenPictures(Callback):
    """Draws ``count`` images of a run, the first ones; half of them boxes where the run has both.

    Their prompts are read once more for it. A sample beyond its half waits until the end.
    """

    def __init__(self, folder: Path, count: int):
        self.folder = Path(folder) / PICTURE_FOLDER
        self.left = {True: count // 2, False: count - count // 2}
        self.waiting: list[tuple[Sample, Row]] = []

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Draw what was decided for this batch while pictures are still wanted."""
        assert isinstance(pl_module, Evaluation)
        for sample, images, row in pl_module.reports:
            if not images or not sum(self.left.values()):
                continue
            is_box = sample.task in pl_module.benchmark.unit_box_tasks
            if self.left[is_box]:
                self._draw(pl_module, sample, row, is_box)
            elif len(self.waiting) < sum(self.left.values()):
                self.waiting.append((sample, row))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw those that waited, if the other kind did not come."""
        assert isinstance(pl_module, Evaluation)
        for sample, row in self.waiting:
            kind = next((kind for kind, left in self.left.items() if left), None)
            if kind is not None:
                self._draw(pl_module, sample, row, kind)

    def _draw(self, module: Evaluation, sample: Sample, row: Row, kind: bool) -> None:
        left = self.left[kind]
        with unharmed(f"callbacks.pictures: sample {sample.id} was not drawn"):
            pictures = sample_pictures(module.session, module.loaded, module.benchmark, sample, row)
            for number, picture in enumerate(islice(pictures, left)):
                self.left[kind] -= 1
                self.folder.mkdir(exist_ok=True)
                # a quarter of the time for a file a third larger: a sheet takes 0.14 s otherwise
                picture.save(self.folder / f"{file_name(sample.id)}-{number}.png", compress_level=1)
        self.left[kind] = min(self.left[kind], left - 1)  # what fails is not tried with every sample


class SampleProgress(Callback):
    """A bar that counts the rows of a journal, those of an earlier, interrupted process included."""

    def __init__(self, label: str, journal: Journal, total: int):
        forgiving_output()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True))
        self.task = self.progress.add_task(label, total=total)
        self.journal = journal

    def on_test_start(self, *args: Any, **kwargs: Any) -> None:
        """Show the bar."""
        self.progress.update(self.task, completed=len(self.journal))
        with unharmed("callbacks.progress: there is no bar"):
            self.progress.start()

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Count the rows on disk."""
        self.progress.update(self.task, completed=len(self.journal))

    def on_test_end(self, *args: Any, **kwargs: Any) -> None:
        """Leave the bar as it is and give the terminal back."""
        with unharmed("callbacks.progress: the bar was not finished"):
            self.progress.stop()

    on_exception = on_test_end

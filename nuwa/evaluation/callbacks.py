"""What is shown while a run computes: a progress bar, and pictures of the kept tokens of its first samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nuwa.evaluation.module import Evaluation
from nuwa.pictures.drawing import PICTURE_FOLDER, boxes_of, draw_trace, file_name, title_of
from nuwa.pictures.traces import trace_decisions


class KeptTokenPictures(Callback):
    """Draws the first ``count`` images that a run sees; their prompts are read once more for it."""

    def __init__(self, folder: Path, count: int):
        self.folder, self.left = Path(folder) / PICTURE_FOLDER, count

    def on_test_batch_end(self, trainer: lightning.Trainer, module: Evaluation, *args: Any) -> None:
        """Draw what this batch decided, if pictures are still wanted."""
        for sample, images, row in module.reports:
            if self.left <= 0 or not images:
                continue
            title = title_of(module.session.pruner.name, module.session.strategy, sample, row)
            boxes = boxes_of(module.benchmark, sample, row)
            for number, trace in enumerate(trace_decisions(module.session, module.loaded, sample)[: self.left]):
                self.left -= 1
                self.folder.mkdir(exist_ok=True)
                draw_trace(trace, boxes, title).save(self.folder / f"{file_name(sample.id)}-{number}.png")


class SampleProgress(Callback):
    """A bar that counts samples, those of an earlier, interrupted process included."""

    def __init__(self, label: str, total: int):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, TextColumn("left"), TimeRemainingColumn())
        self.task = self.progress.add_task(label, total=total)

    def on_test_start(self, trainer: lightning.Trainer, module: Evaluation) -> None:
        """Show the bar."""
        self.progress.update(self.task, completed=len(module.journal))
        self.progress.start()

    def on_test_batch_end(self, trainer: lightning.Trainer, module: Evaluation, *args: Any) -> None:
        """Count what is on disk."""
        self.progress.update(self.task, completed=len(module.journal))

    def on_test_end(self, trainer: lightning.Trainer, module: Evaluation) -> None:
        """Leave the finished bar on the screen."""
        self.progress.stop()

    def on_exception(self, trainer: lightning.Trainer, module: Evaluation, exception: BaseException) -> None:
        """Give the terminal back."""
        self.progress.stop()

"""What is shown while a run computes: a progress bar, and pictures of the kept tokens of its first samples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nuwa.evaluation.module import Evaluation
from nuwa.report.pictures import draw_stages, pillar_tokens

PICTURES = "pictures"


class KeptTokenPictures(Callback):
    """Draws the first ``count`` images that a run sees."""

    def __init__(self, folder: Path, count: int):
        self.folder, self.left = Path(folder) / PICTURES, count

    def on_test_batch_end(self, trainer: lightning.Trainer, module: Evaluation, *args: Any) -> None:
        """Draw what this batch kept, if pictures are still wanted."""
        for sample, images, row in module.reports:
            for number, report in enumerate(images):
                if self.left <= 0:
                    return
                self.left -= 1
                seen = module.loaded.pictures.seen(sample.images[number])
                stages = [(layer, kept) for layer, kept, _ in report.stages]
                picture = draw_stages(seen, report.grid, stages, pillar_tokens(report.extras, stages[0][1]))
                self.folder.mkdir(exist_ok=True)
                picture.save(self.folder / f"{_file_name(row['id'])}-{number}.png")


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


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)[:100]

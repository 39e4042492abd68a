"""What a training run shows and writes down: a progress bar and ``log.csv``."""

import csv
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_EVERY = 20
LOGGED = (
    "loss", "answer", "vqa", "relation", "vg", "patch", "caption", "patch_color", "patch_shape", "patch_side_px",
    "caption_top1", "position", "position_cells", "attend_words", "attend_nouns", "attend_objects", "align", "naming",
    "frame", "row", "column", "appearance", "motion", "direction", "order", "moment", "change", "count", "presence",
    "read", "exist", "color",
)  # fmt: skip


class TrainingLog(Callback):
    """Progress bar with stage and loss, and a CSV row of averages every `LOG_EVERY` steps."""

    def __init__(self, path: Path):
        rows = csv.DictReader(path.read_text().splitlines() if path.exists() else ())
        self.started = time.time() - max((float(row["seconds"]) for row in rows), default=0.0)  # of the whole run
        self.path = path
        self.sums: dict[str, tuple[float, int]] = {}

    def on_train_start(self, trainer, module) -> None:
        """Show the bar from where the run stands, in the first process only."""
        columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, refresh_per_second=1)
        self.task = self.progress.add_task("", total=module.recipe.steps, completed=trainer.global_step)
        if trainer.is_global_zero:
            self.progress.start()

    def on_train_batch_end(self, trainer, module, outputs, *_rest) -> None:
        """Add the step up; write a row when it is time."""
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        stage, _ = module.recipe.stage_at(step - 1)
        self.progress.update(self.task, completed=step, description=f"{stage.name} loss {outputs['loss']:.3f}")
        for name, value in outputs.items():
            if not torch.isnan(value):
                total, number = self.sums.get(name, (0.0, 0))
                self.sums[name] = (total + float(value), number + 1)
        if step % LOG_EVERY == 0:
            seconds, rate = time.time() - self.started, module.recipe.rate(step - 1)
            self._write({"step": step, "stage": stage.name, "seconds": round(seconds, 1), "rate": round(rate, 4)})

    def _write(self, row: dict[str, Any]) -> None:
        means = {name: round(total / number, 4) for name, (total, number) in self.sums.items()}
        row |= {name: means.get(name, "") for name in LOGGED}
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.sums = {}

    def on_train_end(self, trainer, module) -> None:
        """Close the bar and keep the last step."""
        self.progress.stop()
        trainer.save_checkpoint(self.path.with_name("last.ckpt"))

"""What a training run shows and writes down: a progress bar and ``log.csv``."""

import csv
import time
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nuwa.tiny.recipe import TrainingStage, stage_at

LOGGED = (
    "loss", "answer", "vqa", "relation", "vg", "patch", "caption", "patch_color", "patch_shape", "patch_side_px",
    "caption_top1", "position", "position_cells", "attend_words", "attend_nouns", "attend_objects", "align", "naming",
)  # fmt: skip


class TrainingLog(Callback):
    """Progress bar with stage and loss, and a CSV row of averages every ``every`` steps."""

    def __init__(self, path: Path, every: int = 20):
        self.path, self.every, self.started = path, every, time.time() - _spent(path)
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
        stage, _ = stage_at(module.recipe.stages, step - 1)
        self.progress.update(self.task, completed=step, description=f"{stage.name} loss {outputs['loss']:.3f}")
        for name, value in outputs.items():
            if not torch.isnan(value):
                total, number = self.sums.get(name, (0.0, 0))
                self.sums[name] = (total + float(value), number + 1)
        if step % self.every == 0:
            self._write(step, stage, module.recipe.rate(step - 1))

    def _write(self, step: int, stage: TrainingStage, rate: float) -> None:
        means = {name: round(total / number, 4) for name, (total, number) in self.sums.items()}
        seconds = round(time.time() - self.started, 1)
        row = {"step": step, "stage": stage.name, "seconds": seconds, "rate": round(rate, 4)}
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


def _spent(log: Path) -> float:
    """Seconds that earlier parts of the run took, by its log."""
    if not log.exists():
        return 0.0
    with log.open(newline="") as file:
        return max((float(row["seconds"]) for row in csv.DictReader(file)), default=0.0)

"""Train a tiny model: ``python -m nuwa.tiny.train llava --out outputs/tiny_llava [--resume]``.

One Lightning run over the stages of the model's recipe. Batches, learning rates and losses are functions of the step,
so that a killed run continues from its last checkpoint to the same weights.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.utils.data import DataLoader

from nuwa.tiny.base import TinyModel, window_cells
from nuwa.tiny.data import BatchStream, TrainingBatch
from nuwa.tiny.losses import (
    Answers,
    AttentionSupervision,
    Metrics,
    TrainingHeads,
    alignment_loss,
    caption_loss,
    naming_loss,
    patch_loss,
    position_loss,
)
from nuwa.tiny.packed import packed_forward
from nuwa.tiny.recipe import Recipe, TrainingStage, stage_at
from nuwa.tiny.shipped import TINY_MODELS
from nuwa.tiny.training_log import TrainingLog

HIDDEN, TOWER = ("layers", "projector", "blocks", "merger"), ("vision_tower", "visual.blocks", "visual.patch")
"""Parts of the names of hidden matrices and of the tower's weights, what projects its features not among them."""


class Training(lightning.LightningModule):
    """Model, training heads and their losses; Muon for the hidden matrices, AdamW for everything else."""

    def __init__(self, tiny: TinyModel, recipe: Recipe, captions: int = 2048):
        super().__init__()
        self.automatic_optimization = False
        self.tiny, self.recipe, self.captions = tiny, recipe, captions
        self.model = tiny.build_model(recipe.seed)
        self.heads = TrainingHeads()

    def train_dataloader(self) -> DataLoader:
        """Batches from the step that the run has reached."""
        trainer, recipe = self.trainer, self.recipe
        place = {"rank": trainer.global_rank, "world": trainer.world_size}
        stream = BatchStream(self.tiny, recipe.stages, recipe.seed, trainer.global_step, self.captions, **place)
        return DataLoader(stream, batch_size=None)

    def configure_optimizers(self):
        """Muon and AdamW, each with one group for the tower, whose rate the stages scale, and one for the rest."""
        groups: dict[tuple[bool, bool], list[Tensor]] = defaultdict(list)  # (hidden matrix, tower) -> weights
        for name, weight in self.named_parameters():
            hidden = weight.ndim == 2 and any(part in name for part in HIDDEN)
            groups[hidden, any(part in name for part in TOWER)].append(weight)
        muon = torch.optim.Muon(
            [{"params": groups[True, vision], "vision": vision} for vision in (True, False)],
            lr=self.recipe.muon_lr,
            weight_decay=0.01,
        )
        adam = torch.optim.AdamW(
            [{"params": groups[False, vision], "vision": vision} for vision in (True, False)],
            lr=self.recipe.adam_lr,
            betas=(0.9, 0.98),
            weight_decay=0.0,
        )
        return muon, adam

    def training_step(self, batch: TrainingBatch, _index: int) -> Metrics:
        """One step of the stage that the run is in; returns its losses and metrics for the log."""
        stage, _ = stage_at(self.recipe.stages, self.global_step)
        muon, adam = cast(list[LightningOptimizer], self.optimizers())  # two of them come as a list
        self._set_rates((muon, adam), stage)
        losses, metrics = self._losses(batch, stage)
        weights = {"answer": 1.0, **stage.weights}
        loss = sum((weights[name] * value for name, value in losses.items()), start=torch.zeros(()))
        for optimizer in (muon, adam):
            optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(adam.optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        muon.optimizer.step()  # only the wrapped step below counts, so that global_step is the number of batches
        adam.step()
        return {name: value.detach() for name, value in {"loss": loss, **losses, **metrics}.items()}

    def _set_rates(self, optimizers: Sequence[LightningOptimizer], stage: TrainingStage) -> None:
        factor = self.recipe.rate(self.global_step)
        for optimizer, base in zip(optimizers, (self.recipe.muon_lr, self.recipe.adam_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * factor * (stage.vision_lr if group["vision"] else 1.0)

    def _losses(self, batch: TrainingBatch, stage: TrainingStage) -> tuple[Metrics, Metrics]:
        patches, summary = self.tiny.encode(self.model, batch)
        patch, patch_metrics = patch_loss(self.heads, patches, batch)
        caption, caption_metrics = caption_loss(self.heads, summary, batch)
        losses, metrics = {"patch": patch, "caption": caption}, patch_metrics | caption_metrics
        if stage.questions:
            visual = self.tiny.project(self.model, patches)
            more_losses, more_metrics = self._language_losses(batch, visual, stage)
            losses, metrics = losses | more_losses, metrics | more_metrics
        return losses, metrics

    def _language_losses(self, batch: TrainingBatch, visual: Tensor, stage: TrainingStage) -> tuple[Metrics, Metrics]:
        tiny, recipe, words = self.tiny, self.recipe, self.tiny.vocabulary
        cells = window_cells(stage.size // tiny.token, batch["origin"], tiny.grid)
        attention = AttentionSupervision(batch, recipe.attention_layers, words)
        taps = (recipe.position_tap, recipe.align_tap)
        packed = packed_forward(tiny, self.model, visual, cells, batch["ids"], taps, attention)
        answers = Answers.of(batch, words)
        logits = self.model.lm_head(packed.text[batch["targets"].flatten(1) >= 0]).float()
        states = packed.visual(recipe.position_tap)
        position, place = position_loss(self.heads, states, cells, tiny.grid, batch)
        losses = {"answer": answers.loss(logits, recipe.number_sigma), "position": position, **attention.means()}
        if "naming" in stage.weights:
            losses["naming"] = naming_loss(self.heads, states, batch)
        if "align" in stage.weights:
            tap = recipe.align_tap
            losses["align"] = alignment_loss(packed.visual(tap), packed.questions(tap), batch)
        return losses, answers.metrics(logits.detach()) | place


def train(
    tiny: TinyModel,
    recipe: Recipe,
    out: Path,
    resume: bool = False,
    processes: int = 1,
    save_every: int = 100,
    captions: int = 2048,
) -> Training:
    """Run the recipe, checkpoints and log.csv in ``out``; ``resume`` continues from ``out/last.ckpt``.

    ``processes`` share every batch; on a few cores this is faster than threads, as the matrices are small.
    """
    lightning.seed_everything(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    saver = ModelCheckpoint(out, filename="last", every_n_train_steps=save_every, enable_version_counter=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="auto" if processes == 1 else "ddp_find_unused_parameters_true",
        precision="bf16-mixed",
        max_steps=recipe.steps,
        callbacks=[saver, TrainingLog(out / "log.csv")],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Training(tiny, recipe, captions)
    last = out / "last.ckpt"
    trainer.fit(module, ckpt_path=last if resume and last.exists() else None)
    return module


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=TINY_MODELS)
    parser.add_argument("--recipe", type=Path, help="default: the one that the shipped weights were trained with")
    parser.add_argument("--out", type=Path, help="default: outputs/tiny_<model>")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of every process")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tiny = TINY_MODELS[arguments.model]
    recipe = Recipe.load(arguments.recipe or tiny.recipe)
    out = arguments.out or Path("outputs", f"tiny_{tiny.name}")
    train(tiny, recipe, out, arguments.resume, arguments.processes)


if __name__ == "__main__":
    main()

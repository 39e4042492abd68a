"""Train a tiny model: ``python -m nuwa.tiny.train llava --out outputs/tiny_llava [--resume]``.

One Lightning run over the stages of the model's recipe. Batches, learning rates and losses are functions of the step,
so that a killed run continues from its last checkpoint to the same weights.
"""

import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from nuwa.command import argument, command
from nuwa.tiny.base import TinyModel
from nuwa.tiny.data import TrainingBatch, draw_batches
from nuwa.tiny.layers import Network
from nuwa.tiny.losses import (
    Answers,
    AttentionSupervision,
    Metrics,
    alignment_loss,
    caption_loss,
    naming_loss,
    patch_loss,
)
from nuwa.tiny.packed import packed_forward
from nuwa.tiny.recipe import Recipe, TrainingStage
from nuwa.tiny.shipped import TINY_MODELS
from nuwa.tiny.training_log import TrainingLog

HIDDEN, TOWER = ("layers", "projector", "blocks", "merger"), ("vision_tower", "visual.blocks", "visual.patch")
"""Parts of the names of hidden matrices and of the tower's weights, what projects its features not among them."""
SAVE_EVERY = 100


class Training(lightning.LightningModule):
    """Model, training heads and their losses; Muon for the hidden matrices, AdamW for everything else."""

    def __init__(self, tiny: TinyModel, recipe: Recipe):
        super().__init__()
        self.automatic_optimization = False
        self.tiny, self.recipe = tiny, recipe
        self.model = tiny.build_model(recipe.seed)
        self.heads: Network = tiny.new_heads()

    def train_dataloader(self) -> Iterator[TrainingBatch]:
        """Batches from the step that the run has reached."""
        trainer = self.trainer
        return draw_batches(self.tiny, self.recipe, trainer.global_step, trainer.global_rank, trainer.world_size)

    def configure_optimizers(self):
        """Muon and AdamW, each with one group for the tower, whose rate the stages scale, and one for the rest."""
        groups: dict[tuple[bool, bool], list[Tensor]] = defaultdict(list)  # (hidden matrix, tower) -> weights
        for name, weight in self.named_parameters():
            hidden = weight.ndim == 2 and any(part in name for part in HIDDEN)
            groups[hidden, any(part in name for part in TOWER)].append(weight)
        matrices, others = (
            [{"params": groups[hidden, vision], "vision": vision} for vision in (True, False)]
            for hidden in (True, False)
        )
        muon = torch.optim.Muon(matrices, lr=self.recipe.muon_lr, weight_decay=0.01)
        return muon, torch.optim.AdamW(others, lr=self.recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)

    def training_step(self, batch: TrainingBatch, _index: int) -> Metrics:
        """One step of the stage that the run is in; returns its losses and metrics for the log."""
        stage, _ = self.recipe.stage_at(self.global_step)
        muon, adam = cast(list[LightningOptimizer], self.optimizers())  # two of them come as a list
        factor = self.recipe.rate(self.global_step)
        for optimizer, base in ((muon, self.recipe.muon_lr), (adam, self.recipe.adam_lr)):
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = base * factor * (stage.vision_lr if group["vision"] else 1.0)
        losses, metrics = self._losses(batch, stage)
        weights = {"answer": 1.0, **stage.weights}
        loss = sum((weights[name] * value for name, value in losses.items()), start=torch.zeros(()))
        self.manual_backward(loss)
        self.clip_gradients(adam.optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        muon.optimizer.step()  # only the wrapped step below counts, so that global_step is the number of batches
        adam.step()
        return {name: value.detach() for name, value in {"loss": loss, **losses, **metrics}.items()}

    def _losses(self, batch: TrainingBatch, stage: TrainingStage) -> tuple[Metrics, Metrics]:
        with torch.set_grad_enabled(stage.vision_lr > 0):
            patches, summary = self.tiny.encode(self.model, batch)
        losses: Metrics = {}
        metrics: Metrics = {}
        if stage.vision_lr > 0:
            losses["patch"], metrics = patch_loss(self.heads, patches, batch)
        if summary is not None and "caption" in stage.weights:
            losses["caption"], more_metrics = caption_loss(self.heads, summary, batch)
            metrics |= more_metrics
        if stage.questions:
            visual = self.tiny.project(self.model, patches)
            more_losses, more_metrics = self._language_losses(batch, visual, stage)
            losses, metrics = losses | more_losses, metrics | more_metrics
        return losses, metrics

    def _language_losses(self, batch: TrainingBatch, visual: Tensor, stage: TrainingStage) -> tuple[Metrics, Metrics]:
        tiny, recipe, words = self.tiny, self.recipe, self.tiny.vocabulary
        attention = AttentionSupervision(batch, recipe.attention_layers, words)
        taps = (recipe.position_tap, recipe.align_tap)
        text, states = packed_forward(tiny, self.model, visual, batch["cells"], batch["ids"], taps, attention)
        answers = Answers(batch, words)
        logits = self.model.lm_head(text[batch["targets"].flatten(1) >= 0]).float()
        image = slice(len(words.before), len(words.before) + visual.shape[1])
        seen = states[recipe.position_tap][:, image]
        position, place = tiny.place_loss(self.heads, seen, batch)
        losses = {"answer": answers.loss(logits, recipe.number_sigma), "position": position, **attention.means()}
        if "naming" in stage.weights:
            losses["naming"] = naming_loss(self.heads, seen, batch)
        if "align" in stage.weights:
            middle = states[recipe.align_tap]
            losses["align"] = alignment_loss(middle[:, image], middle[:, image.stop :], batch)
        return losses, answers.metrics(logits.detach(), tiny.kinds) | place


def train(
    tiny: TinyModel, recipe: Recipe, out: Path, resume: bool = False, processes: int = 1, accelerator: str = "cpu"
) -> Training:
    """Run the recipe, checkpoints and log.csv in ``out``; ``resume`` continues from ``out/last.ckpt``.

    ``processes`` share every batch; on a few cores this is faster than threads, as the matrices are small.
    ``accelerator`` is Lightning's: cpu or gpu.
    """
    lightning.seed_everything(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    saver = ModelCheckpoint(out, filename="last", every_n_train_steps=SAVE_EVERY, enable_version_counter=False)
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=processes,
        strategy="auto" if processes == 1 else "ddp_find_unused_parameters_true",
        precision="bf16-mixed",
        max_steps=recipe.steps,
        callbacks=[saver, TrainingLog(out / "log.csv")],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Training(tiny, recipe)
    last = out / "last.ckpt"
    trainer.fit(module, ckpt_path=last if resume and last.exists() else None)
    return module


@command(
    __doc__,
    argument("model", choices=TINY_MODELS),
    argument("--recipe", type=Path, help="default: the one that the shipped weights were trained with"),
    argument("--out", type=Path, help="default: outputs/tiny_<model>"),
    argument("--resume", action="store_true"),
    argument("--processes", type=int, default=1),
    argument("--threads", type=int, default=1, help="of every process"),
    argument("--accelerator", choices=("cpu", "gpu"), default="cpu"),
)
def main(options: Namespace) -> None:
    """Command line."""
    torch.set_num_threads(options.threads)
    tiny = TINY_MODELS[options.model]
    recipe = Recipe.load(options.recipe or tiny.recipe)
    train(
        tiny,
        recipe,
        options.out or Path("outputs", f"tiny_{tiny.name}"),
        options.resume,
        options.processes,
        options.accelerator,
    )


if __name__ == "__main__":
    sys.exit(main())

"""CDPruner (arXiv 2506.10967; code Theia-4869/CDPruner, commit 9541616): diverse tokens that matter to the question.

A determinantal point process over projected features whose kernel is weighted with each token's relevance; greedy MAP
inference picks the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import LLMContext, MethodInfo, MisfitError, Tower, VisionContext, VisionDecision
from nuwa.pruners.divprune import similarity_to
from nuwa.pruners.tiles import TileByTile
from nuwa.pruning.flops import ModelShape, norm_flops
from nuwa.pruning.schedules import Schedule
from nuwa.pruning.selection import strongest, text_relevance


def unit_range(relevance: Tensor) -> Tensor:
    """Stretch every row to about [0, 1], the smallest staying above zero: (..., N) -> same shape."""
    low, high = relevance.amin(-1, keepdim=True), relevance.amax(-1, keepdim=True)
    return (relevance - low + 1e-6) / (high - low)


def greedy_map(features: Tensor, relevance: Tensor, keep: int) -> Tensor:
    """Greedy MAP of DPPs with kernels r_i cos(f_i, f_j) r_j: (..., N, D), (..., N) -> picks (..., keep), in order.

    Cholesky updates with one kernel row per pick, no N x N kernel. Once a kernel's rank is used up (never more than D),
    the most relevant of the rest follow. No pick is read: all images go on at once, and a GPU does not wait.
    """
    direction = functional.normalize(features.float(), dim=-1) * relevance.float()[..., None]
    gain = direction.square().sum(-1)
    spent = torch.finfo(gain.dtype).eps * gain.amax(-1, keepdim=True)
    by_relevance = -strongest(relevance, relevance.shape[-1]).argsort(-1).to(gain.dtype)
    rows = gain.new_zeros(*gain.shape[:-1], keep, gain.shape[-1])
    picks = torch.empty_like(rows[..., :0, 0], dtype=torch.long)
    for step in range(keep):
        before = rows[..., :step, :]
        left = gain.scatter(-1, picks, float("-inf"))
        over = left.amax(-1, keepdim=True) <= spent
        best = torch.where(over, by_relevance.scatter(-1, picks, float("-inf")), left).argmax(-1, keepdim=True)
        known = before.gather(-1, best[..., None].expand(*before.shape[:-1], 1))
        row = similarity_to(direction, best) - (known.mT @ before)[..., 0, :]
        rows[..., step, :] = torch.where(over, 0, row / gain.gather(-1, best).sqrt())
        gain = gain - rows[..., step, :].square()
        picks = torch.cat([picks, best], -1)
    return picks


def joint_spaces() -> ModuleType:
    """`nuwa.models.joint`, imported when it is needed: transformers takes seconds."""
    return import_module("nuwa.models.joint")


@dataclass
class CDPruner(TileByTile):
    """Keep tokens that differ and matter to the question: with the authors' relevance if ``clip`` names a CLIP.

    ``clip`` is the CLIP whose picture half is the model's vision tower (`nuwa.models.joint`): relevance is minus the
    mean cosine of a patch and the pieces of the question in CLIP's joint space (minus, because patch and text are
    anti-correlated there), tokens leave before the LLM, on LLaVA-NeXT 128, 64, 32 of every crop (``tiles``) for 640,
    320, 160. The session has to be told the questions. The release stretches relevance over all crops of a batch, so
    that its images depend on each other; here every crop stands alone.

    A LLaVA checkpoint has no text half of CLIP. With ``clip: null`` relevance is the cosine of a projected token with
    the question's mean embedding, and the choice is made on entry of the LLM's first layer, which reads the question,
    among all tokens of an image. Numbers are then not the authors'; the selection for a given relevance is.
    """

    clip: str | None = None

    name: ClassVar[str] = "cdpruner"
    native_position: ClassVar[str] = "perc"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2506.10967",
        source="Theia-4869/CDPruner@9541616",
        signal="DPP of projected features, weighted by the question's embedding (pruner.clip: as published, by CLIP)",
        text_aware=True,
        counts="authors'",
    )

    @property
    def prunes_vision(self) -> bool:
        """With CLIP's relevance."""
        return self.clip is not None

    @property
    def prunes_llm(self) -> bool:
        """Without."""
        return self.clip is None

    def check_tower(self, tower: Tower) -> None:
        if self.clip is None:
            return
        if tower.kind != "clip_vision_model":
            raise MisfitError(f"pruner.clip={self.clip}: this model's vision tower is no CLIP, but a {tower.kind}")
        joint_spaces().check_joint_space(self.clip, tower.sizes)

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        target = self.budget.tokens(n_tokens)
        schedule = Schedule(round(target))
        if self.prunes_llm:
            schedule = Schedule(n_tokens, ((0, round(target)),) if round(target) < n_tokens else ())
        return self.reached(schedule, target, layers, "it keeps whole tokens, one or more")

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        """Before the LLM, with CLIP's relevance."""
        if context.questions is None:
            raise ValueError(
                "pruner cdpruner with pruner.clip reads questions: call the model inside "
                "session.about(questions=[...]), one for each image of a call"
            )
        joint = joint_spaces().load_joint_space(self.clip, context.features.device)
        patches, texts = joint.patches(context.features), [joint.segments(text) for text in context.questions]
        relevance = torch.stack([-(image @ text.T).mean(-1) for image, text in zip(patches, texts, strict=True)])
        chosen = greedy_map(context.project(context.features), unit_range(relevance), keep)
        return VisionDecision(chosen.sort(dim=1).values, extras={"relevance": relevance})

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        """On entry of layer 0, where visual tokens are projected features and text tokens embeddings."""
        relevance = context.scores["relevance"] = text_relevance(context.hidden, context.question)
        hidden, relevance, kept = context.hidden.flatten(0, 1), relevance.flatten(), context.valid.flatten() & False
        for _, places, count in context.images_alike(keep):
            chosen = greedy_map(hidden[places], unit_range(relevance[places]), count)
            kept = kept.index_fill(0, places.gather(1, chosen).flatten(), True)
        return kept.view_as(context.valid)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Relevance, and per pick one kernel row and its Cholesky update."""
        kept = self.schedule(n_tokens, shape.layers).per_layer(shape.layers)[0]
        relevance = norm_flops(n_tokens, shape.hidden)
        if self.clip is not None:
            relevance = joint_spaces().relevance_flops(self.clip, n_tokens, shape.vision_hidden)
        return relevance + kept * n_tokens * (2 * shape.hidden + kept)

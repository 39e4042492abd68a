"""The contract of a pruning method: a dataclass whose fields are its config, with two optional stages.

A method states what it needs and decides which tokens stay. It never touches hooks, masks, caches or transformers;
`nuwa.engine.session` does that, and hands it the contexts of `nuwa.pruners.contexts`. The batch dimension is always
present, and a batch of N must give what N batches of one give.

Shape letters: B prompts, L sequence length, I images of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar

import torch
from torch import Tensor

from nuwa.pruners.contexts import LLMContext, LLMDecision, Tap, Tower, VisionContext, VisionDecision
from nuwa.pruning.budget import Budget, ModelShape, Schedule, share_out
from nuwa.pruning.layout import Grid, ImageLayout, VisionView
from nuwa.pruning.segments import Prompt, Segment

KINDS: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (int, float)}


class MisfitError(ValueError):
    """A method asks for what a model does not have; the message says what."""


def require(holds: bool, key: str, rule: str, value: object) -> None:
    """Refuse an option's value by name.

    Raises:
        ValueError: ``holds`` is false.
    """
    if not holds:
        raise ValueError(f"pruner.{key} must be {rule}, not {value!r}")


@dataclass(frozen=True)
class Facts:
    """What a table of methods says about one: where it was published, what it looks at, what it does with the rest.

    ``source``: the authors' repository and the commit that was read. ``signal``: what tokens are scored by. ``counts``:
    whose the numbers of tokens are that a budget becomes. ``merges``: dropped tokens live on in others. ``text_aware``:
    the choice depends on the question. ``needs_cls``: it needs a vision tower with a CLS token.
    """

    paper: str = ""
    source: str = ""
    signal: str = ""
    counts: str = ""
    merges: bool = False
    text_aware: bool = False
    needs_cls: bool = False


@dataclass
class Pruner:
    """Base of every method. Subclasses are dataclasses; a field is an option of ``conf/pruner/<name>.yaml``.

    ``budget`` says what an image may cost; ``seed`` feeds methods that draw at random. ``native_position`` is the
    position strategy of the method's authors. ``looks_back`` asks for the context of the layer before each LLM stage.
    ``all_newlines`` lets newlines into the LLM whose row has no token left. ``counts_by_itself``: the method may keep
    other numbers of tokens than it is asked for, because an image or its shape decides; the engine then checks none.
    """

    budget: Budget = field(default_factory=Budget, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    name: ClassVar[str]
    native_position: ClassVar[str] = "pesp"
    looks_back: ClassVar[bool] = False
    all_newlines: ClassVar[bool] = False
    counts_by_itself: ClassVar[bool] = False
    facts: ClassVar[Facts] = Facts()

    def __post_init__(self) -> None:
        """Check the type of every plain field; subclasses add the ranges (``require``) after calling this."""
        for option in fields(self):
            value, kinds = getattr(self, option.name), KINDS.get(getattr(option.type, "__name__", option.type))
            if kinds is not None:
                typed = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
                require(typed, option.name, f"of type {option.type}", value)

    @classmethod
    def position_on(cls, axes: int, asked: str = "native") -> str:
        """The position strategy ``asked`` for; ``native`` is that of the method's authors.

        On a model whose position ids have several ``axes`` (M-RoPE) it is PESP: published code for Qwen keeps the ids,
        and a rank shared by all axes would put every token on one diagonal.
        """
        if asked != "native":
            return asked
        return cls.native_position if axes == 1 else "pesp"

    @property
    def taps(self) -> tuple[Tap, ...]:
        """What the vision tower has to hand over to ``prune_vision``."""
        return ()

    @property
    def prunes_vision(self) -> bool:
        """Whether ``prune_vision`` is to be called."""
        return type(self).prune_vision is not Pruner.prune_vision

    @property
    def prunes_llm(self) -> bool:
        """Whether there is an LLM stage."""
        return type(self).prune_llm is not Pruner.prune_llm

    def check_tower(self, tower: Tower) -> None:
        """Refuse a model whose vision tower does not have what the method needs.

        Raises:
            MisfitError: it does not; the message says what is missing.
        """
        if self.facts.needs_cls and not tower.cls:
            raise MisfitError(f"pruner {self.name} scores with the CLS token, and a {tower.kind} has none")

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """Turn the budget into counts for an image of ``n_tokens`` in an LLM of ``layers`` layers.

        Raises:
            BudgetError: the method cannot reach the budget; the message names what it can reach.
        """
        raise NotImplementedError

    def counts_near(self, count: float, n_tokens: int) -> list[int]:
        """Numbers of tokens next to ``count`` that `prune_vision` can keep of ``n_tokens``, nearest first."""
        return [max(1, round(count))]

    def highest(self, n_tokens: int, layers: int) -> Schedule:
        """The most that an image of ``n_tokens`` can cost."""
        return Schedule(n_tokens)

    def arrange(self, layout: ImageLayout) -> ImageLayout:
        """The views that the method sees of an image."""
        return layout

    def pieces(self, layout: ImageLayout) -> Sequence[VisionView]:
        """The grids that ``prune_vision`` is shown of an image, each by itself: its views."""
        return layout.views

    def shares(self, total: int, pieces: Sequence[VisionView]) -> list[int]:
        """How many of ``total`` tokens each piece of an image keeps: in proportion to its cells."""
        return share_out(total, [len(piece.tokens) for piece in pieces])

    def join(self, kept: Sequence[Tensor]) -> Tensor:
        """The tokens of an image in the order in which the LLM sees them, from those (K,) of each of its pieces."""
        return torch.cat(list(kept))

    def reframe(self, prompt: Prompt, segment: Segment, strategy: str) -> tuple[Prompt, Segment]:
        """The prompt and what enters layer 0 of it, as the method understands them: roles and position ids."""
        return prompt, segment

    def image_grid(self, grid: Grid | None, layers: int) -> Grid | None:
        """The grid of patches that the vision tower shall see in place of ``grid`` (None: images differ), or None.

        ``prune_vision`` then gets the features of the smaller image, and has to place them in the whole grid.
        """
        return None

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        """Keep ``keep`` tokens of every image before the LLM."""
        raise NotImplementedError

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor | LLMDecision:
        """Keep ``keep`` (B, I) visual tokens of each image on entry of a layer: (B, L) bool.

        Visual tokens only: the engine keeps the text and what follows a token. A method that also makes new states
        returns an `LLMDecision`. Called at the layers that ``schedule`` names, in order. I is the largest number of
        images in a row.
        """
        raise NotImplementedError

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """FLOPs spent on deciding, by the paper's formulas (Appendix C, Table 4)."""
        return 0.0

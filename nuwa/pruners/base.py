"""The contract of a pruning method: a dataclass whose fields are its config, with two optional stages.

A method says what it needs and decides which tokens stay. It never touches hooks, masks, caches or transformers;
`nuwa.engine.session` does that, and hands it the contexts of `nuwa.pruners.contexts`. The batch dimension is always
present, and a batch of N must give what N batches of one give.

An ordinary method defines ``prune_vision`` alone, or derives from `LLMPruner` and defines ``prune_llm`` alone.

Shape letters: B prompts, L sequence length, I images of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from torch import Tensor

from nuwa.pruners.contexts import LLMContext, LLMDecision, VisionContext, VisionDecision
from nuwa.pruners.tower import Tap, Tower
from nuwa.pruning.budget import Budget, BudgetError, Dial
from nuwa.pruning.flops import ModelShape
from nuwa.pruning.layout import Grid
from nuwa.pruning.schedules import Schedule, act_at, layer_at, one_stage
from nuwa.pruning.tiling import Tiling

_KINDS: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float)}


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
class MethodInfo:
    """What a table of methods says about one: where it was published, what it looks at, what it does with the rest.

    ``source``: the authors' repository and the commit that was read. ``signal``: what tokens are scored by. ``counts``:
    who found the numbers of tokens that a budget becomes. ``merges``: dropped tokens live on in others; ``merging``: of
    a method for videos, which in which. ``text_aware``:
    the choice depends on the question. ``needs_cls``: it needs a vision tower with a CLS token. ``nominal``: what an
    image of 576 tokens keeps where the authors write 64, if not what `schedule` makes of that.
    """

    paper: str = ""
    source: str = ""
    signal: str = ""
    counts: str = ""
    merges: bool = False
    merging: str = ""
    text_aware: bool = False
    needs_cls: bool = False
    nominal: Schedule | None = None


@dataclass
class Pruner:
    """Base of every method. Subclasses are dataclasses; a field is an option of ``conf/pruner/<name>.yaml``.

    ``budget`` says what an image may cost; ``seed`` feeds methods that draw at random. ``native_position`` and
    ``native_calibration`` are the position strategy and the calibration of the method's authors. ``behind_vision`` are
    options that say nothing to `prune_vision` but how many tokens are to stay: jobs that differ in these share it.
    """

    budget: Budget = field(default_factory=Budget, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    name: ClassVar[str]
    native_position: ClassVar[str] = "pesp"
    native_calibration: ClassVar[str] = "none"
    behind_vision: ClassVar[Set[str]] = frozenset()
    info: ClassVar[MethodInfo] = MethodInfo()

    def __post_init__(self) -> None:
        """Check types, and the values of Literal fields; subclasses call this first and add ranges (``require``)."""
        hints = get_type_hints(type(self))
        for option in fields(self):
            value, hint = getattr(self, option.name), hints[option.name]
            if get_origin(hint) is Literal:
                *others, last = get_args(hint)
                require(value in (*others, last), option.name, f"{', '.join(others)} or {last}", value)
            elif hint in _KINDS:
                typed = isinstance(value, _KINDS[hint]) and (hint is bool or not isinstance(value, bool))
                require(typed, option.name, f"of type {hint.__name__}", value)

    def to_dict(self) -> dict[str, Any]:
        """The method as plain data, in the groups of a run's config: ``pruner``, ``budget`` and ``seed``."""
        options = asdict(self)
        budget, seed = options.pop("budget"), options.pop("seed")
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        return {"pruner": {"_target_": kind, **options}, "budget": budget, "seed": seed}

    def save(self, path: str | Path) -> None:
        """Write `to_dict` as YAML; ``nuwa.load_pruner(path)`` makes the method again."""
        Path(path).write_text(OmegaConf.to_yaml(self.to_dict()), encoding="utf-8")

    @classmethod
    def position_on(cls, axes: int, asked: str = "native") -> str:
        """The position strategy ``asked`` for; ``native`` is that of the method's authors.

        On a model whose position ids have several ``axes`` (M-RoPE) it is PESP: published code for Qwen keeps the ids,
        and a rank shared by all axes would put every token on one diagonal.
        """
        if asked != "native":
            return asked
        return cls.native_position if axes == 1 else "pesp"

    def calibration_of(self, asked: str = "native") -> str:
        """The calibration ``asked`` for; ``native`` is that of the method's authors, none where all tokens may stay."""
        if asked != "native":
            return asked
        return "none" if self.budget.full else self.native_calibration

    @property
    def taps(self) -> Mapping[str, Tap]:
        """What the vision tower has to hand over to ``prune_vision``, by the name it has in ``context.taps``."""
        return {}

    @property
    def needs(self) -> Set[str]:
        """What ``prune_llm`` reads besides its layer's input: contexts ``previous`` and ``first``, ``transitions``.

        ``attention``: attention or keys of its own layer. Of other layers only the previous one's can be read.
        """
        return frozenset()

    @property
    def tiling(self) -> Tiling:
        """How the method is shown an image of several crops (LLaVA-NeXT)."""
        return Tiling()

    @property
    def counts_by_itself(self) -> bool:
        """Whether an image or its shape decides how many tokens stay: the engine then does not count them."""
        return False

    @property
    def dial(self) -> Dial | None:
        """With what option a mean budget is met, where every image decides on its number of tokens; None elsewhere."""
        return None

    def turned(self, value: float) -> Pruner:
        """The method with its dial at a value; a budget has no more meaning."""
        assert self.dial is not None
        changed: dict[str, Any] = {"budget": Budget(), self.dial.option: value}
        return replace(self, **changed)

    @property
    def merges(self) -> bool:
        """Whether dropped tokens live on in others."""
        return self.info.merges

    @property
    def vision_key(self) -> str:
        """Names the method and all of its options that `prune_vision` reads, for decisions that jobs share.

        Empty for a method of another package, whose code may change unseen: its decisions are not shared.
        """
        kind = type(self)
        if not kind.__module__.startswith("nuwa."):
            return ""
        options = {name: value for name, value in asdict(self).items() if name not in self.behind_vision}
        return f"{kind.__module__}.{kind.__qualname__} {options}"

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
        if self.info.needs_cls and not tower.cls:
            raise MisfitError(f"pruner {self.name} scores with the CLS token, and a {tower.kind} has none")

    def check_llm(self, shape: ModelShape) -> None:
        """Refuse a model whose layers do not have what the method needs.

        Raises:
            MisfitError: it reads what attention does in layers that have none.
        """
        if "transitions" in self.needs and shape.attention is not None:
            raise MisfitError(f"pruner {self.name} reads what attention does in layers that have none on this model")

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """Turn the budget into counts for an image of ``n_tokens`` in an LLM of ``layers`` layers.

        By default all of the budget is spent before the LLM.

        Raises:
            BudgetError: the method cannot reach the budget; the message names what it can reach.
        """
        if self.prunes_llm:
            raise NotImplementedError(f"pruner {self.name} has an LLM stage: its schedule has to say at which layer")
        target = self.budget.tokens(n_tokens)
        return self.reached(Schedule(round(target)), target, layers, "it keeps whole tokens, one or more")

    def reached(self, schedule: Schedule, target: float, layers: int, reachable: str) -> Schedule:
        """Return ``schedule`` if it spends ``target`` on average (to 1 %, or half a token).

        Raises:
            BudgetError: it does not; ``reachable`` is named in the message.
        """
        spent = schedule.average(layers)
        if abs(spent - target) > max(0.5, 0.01 * target) or min(schedule.per_layer(layers)) < 1:
            name = self.name
            raise BudgetError(f"pruner {name} cannot reach budget.average={target:g} on {layers} layers; {reachable}")
        return schedule

    def reachable_counts(self, count: float, n_tokens: int) -> list[int]:
        """Numbers of tokens next to ``count`` that `prune_vision` can keep of ``n_tokens``, nearest first."""
        return [max(1, round(count))]

    def schedule_on(self, n_tokens: int, shape: ModelShape, most: bool = False) -> Schedule:
        """`schedule` (or, if ``most``, `max_schedule`) in an LLM of this shape, whose layers may lack attention.

        A stage that reads attention acts at the next layer that has some to read.

        Raises:
            BudgetError: the method cannot reach the budget.
            ValueError: stages that the model or the method does not have.
        """
        schedule = (self.max_schedule if most else self.schedule)(n_tokens, shape.layers)
        schedule.check(self.name, shape.layers, self.prunes_llm)
        behind = int("previous" in self.needs)
        reads = self.needs & {"previous", "attention"}
        if shape.attention is None or not reads or not schedule.llm:
            return schedule
        allowed = [layer + behind for layer in shape.attention if layer + behind < shape.layers]
        if not allowed:
            raise MisfitError(f"pruner {self.name} reads attention inside the LLM where this model has none")
        moved = act_at(schedule, allowed, shape.layers, self.prunes_vision)
        reachable = f"its stages act at layers {', '.join(str(at) for at, _ in moved.llm)}, behind those with attention"
        return self.reached(moved, schedule.average(shape.layers), shape.layers, reachable)

    def max_schedule(self, n_tokens: int, layers: int) -> Schedule:
        """The most that an image of ``n_tokens`` can cost."""
        return Schedule(n_tokens)

    def image_grid(self, grid: Grid | None, layers: int) -> Grid | None:
        """The grid of patches that the vision tower is to see in place of ``grid`` (None: images differ), or None.

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
        """FLOPs spent on deciding about a picture, by the paper's formulas (Appendix C, Table 4)."""
        return 0.0


@dataclass
class LLMPruner(Pruner):
    """Base of methods that prune once, inside the LLM: on entry of ``layer``, a fraction of its depth.

    All tokens enter the LLM; from ``layer`` on as many stay as spend the budget. The default is layer 2 of 32.
    """

    layer: float = 1 / 16

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.layer < 1, "layer", "a fraction of the depth in (0, 1)", self.layer)

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        target, layer = self.budget.tokens(n_tokens), layer_at(self.layer, layers)
        floor = (layer * n_tokens + layers - layer) / layers
        reachable = f"the first {layer} see all {n_tokens} tokens, so that it needs {floor:.1f} or more"
        return self.reached(one_stage(target, n_tokens, layers, layer), target, layers, reachable)

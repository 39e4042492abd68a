"""Token budgets and what they cost: counts per layer, FLOPs, cache bytes. Pure functions.

The average token count is the Nüwa paper's: the mean over LLM layers of an image's visual tokens *entering* the layer.
SparseVLM's authors count the tokens *leaving* each layer; both are reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


class BudgetError(ValueError):
    """A budget that a method cannot reach; the message says which it can."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a vision-language model that budgets, FLOPs and cache bytes depend on.

    ``image_tokens`` is the number of visual tokens of one image, None under dynamic resolution. ``attention`` are the
    layers with attention, None where all have it; in the others a token costs ``linear_flops`` in place of attention.
    """

    layers: int
    hidden: int
    intermediate: int
    kv_heads: int
    head_dim: int
    vision_hidden: int
    image_tokens: int | None = None
    attention: tuple[int, ...] | None = None
    linear_flops: float = 0.0

    @property
    def attention_layers(self) -> Sequence[int]:
        """The layers with attention, which are those that cache keys and values."""
        return range(self.layers) if self.attention is None else self.attention


@dataclass(frozen=True)
class Budget:
    """How many visual tokens an image may cost: ``average`` over layers, or ``ratio`` of the image's tokens.

    Tokens are patches: the newlines between rows of LLaVA-NeXT's tiles cost nothing here (640 of 2,880 in the paper
    counts none either), though the counts that are measured in every layer include them. Under dynamic resolution an
    image for which ``average`` is more than its method can spend (`Pruner.max_schedule`) costs that, or stays whole,
    and so does one of so few tokens that its method cannot come near ``ratio``.
    """

    average: float | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.average is not None and self.ratio is not None:
            raise BudgetError("budget.average and budget.ratio exclude each other: set one of them to null")
        if self.average is not None and self.average <= 0:
            raise BudgetError(f"budget.average must be positive, not {self.average}")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise BudgetError(f"budget.ratio must be in (0, 1], not {self.ratio}")

    @property
    def full(self) -> bool:
        """No budget was set: every token may stay."""
        return self.average is None and self.ratio is None

    @property
    def asked(self) -> float:
        """The number that was set, in tokens or as a share of the image's; 1 if none was."""
        return next((number for number in (self.average, self.ratio) if number is not None), 1.0)

    def spent(self, entering: float, n_tokens: int) -> float:
        """What an image of ``n_tokens`` spends, in the unit of ``asked``, if ``entering`` of them do on average."""
        return entering if self.average is not None else entering / n_tokens

    def tokens(self, n_tokens: int) -> float:
        """The average number of tokens that an image of ``n_tokens`` may keep.

        Raises:
            BudgetError: the budget is larger than the image.
        """
        target = self.average if self.average is not None else (self.ratio or 1.0) * n_tokens
        if target > n_tokens:
            raise BudgetError(f"budget.average={target:g} is more than the {n_tokens} visual tokens of an image")
        return target


@dataclass(frozen=True)
class Dial:
    """The option of a method with which fewer or more tokens stay, where every image decides on its number.

    ``fewest`` and ``most`` are the values at which the fewest and the most stay; in between the mean only rises.
    """

    option: str
    fewest: float
    most: float


@dataclass(frozen=True)
class Share:
    """How many tokens stay at a layer of the LLM: a share, rounded up, of those of the image that entered it.

    For methods whose number is not known before they have seen the image.

    >>> Share(0.3).of(11), Share(0.1).of(30)
    (4, 3)
    """

    share: float

    def of(self, entering: int) -> int:
        """The tokens that stay of ``entering``."""
        return math.ceil(round(self.share * entering, 6))


@dataclass(frozen=True)
class Schedule:
    """How many visual tokens of one image enter the LLM, and how many stay at each pruning layer.

    ``vision`` tokens enter layer 0; from each (layer, count) of ``llm`` on, ``count`` tokens enter, or a `Share` of
    what entered layer 0 in truth. ``asked``: the layers at which a method would have acted, had they attention to
    read.
    """

    vision: int
    llm: tuple[tuple[int, int | Share], ...] = ()
    asked: tuple[int, ...] = ()

    def stages(self, entering: int) -> dict[int, int]:
        """The tokens that stay at each pruning layer, where ``entering`` entered layer 0.

        >>> Schedule(10, ((1, 6), (3, Share(0.5)))).stages(8)
        {1: 6, 3: 4}
        """
        return {layer: count.of(entering) if isinstance(count, Share) else count for layer, count in self.llm}

    def per_layer(self, layers: int) -> list[int]:
        """Visual tokens entering each of ``layers`` LLM layers.

        >>> Schedule(10, ((1, 6), (3, 2))).per_layer(5)
        [10, 6, 6, 2, 2]
        """
        counts = [self.vision] * layers
        for layer, count in self.stages(self.vision).items():
            counts[layer:] = [count] * (layers - layer)
        return counts

    def average(self, layers: int) -> float:
        """Mean of ``per_layer``: the budget this schedule spends."""
        return average_entering(self.per_layer(layers))

    def before_stages(self) -> list[int]:
        """Visual tokens that each pruning layer chooses from."""
        return [self.vision, *self.stages(self.vision).values()][: len(self.llm)]


def share_out(total: int, sizes: Sequence[int]) -> list[int]:
    """Divide ``total`` in proportion to ``sizes``: the largest remainders are rounded up, the first of equals.

    >>> share_out(5, [10, 20, 5])
    [1, 3, 1]
    """
    whole = sum(sizes)
    shares = [total * size // whole for size in sizes]
    remainders = [total * size % whole for size in sizes]
    for i in sorted(range(len(sizes)), key=lambda i: (-remainders[i], i))[: total - sum(shares)]:
        shares[i] += 1
    return shares


def layer_at(depth: float, layers: int) -> int:
    """The layer at a fraction of the LLM's depth, halves upwards; never the first, so that a layer lies before it.

    Raises:
        BudgetError: the LLM has one layer only.

    >>> layer_at(1 / 16, 32), layer_at(0.5, 5), layer_at(0.01, 16)
    (2, 3, 1)
    """
    if layers < 2:
        raise BudgetError(f"pruning inside the LLM needs 2 layers or more, this LLM has {layers}")
    return min(max(math.floor(depth * layers + 0.5), 1), layers - 1)


def staged(n_tokens: int, depths: Sequence[float], counts: Sequence[int], layers: int) -> Schedule:
    """All ``n_tokens`` enter the LLM, ``counts[i]`` go on at the fraction ``depths[i]`` of its depth.

    Counts only fall. In a shallow LLM two stages may meet in one layer: the later one counts.

    >>> staged(576, depths=(1 / 4, 1 / 2, 3 / 4), counts=(288, 144, 72), layers=32).llm
    ((8, 288), (16, 144), (24, 72))
    """
    stages: dict[int, int] = {}
    before = n_tokens
    for depth, count in zip(depths, counts, strict=True):
        if count < before:
            stages[layer_at(depth, layers)] = before = count
    return Schedule(n_tokens, tuple(stages.items()))


def one_stage(target: float, n_tokens: int, layers: int, at: int, least: int = 0) -> Schedule:
    """All ``n_tokens`` enter the LLM; from layer ``at`` on as many stay, ``least`` or more, as spend ``target``.

    >>> one_stage(64, 576, layers=32, at=2)
    Schedule(vision=576, llm=((2, 30),), asked=())
    """
    count = max(least, round((target * layers - n_tokens * at) / (layers - at)))
    return Schedule(n_tokens, ((at, count),) if count < n_tokens else ())


def two_stages(target: float, n_tokens: int, layers: int, at: int, ratio: float) -> Schedule:
    """Some of ``n_tokens`` enter the LLM, and about ``ratio`` of these stay from layer ``at`` on, to spend ``target``.

    The ratio gives way where more tokens would have to enter than there are.

    >>> two_stages(64, 576, layers=32, at=16, ratio=1 / 7)
    Schedule(vision=112, llm=((16, 16),), asked=())
    """
    entering = round(target * layers / (at + ratio * (layers - at)))
    return one_stage(target, min(n_tokens, max(1, entering)), layers, at, least=1)


def fit_schedule(make: Callable[[float], Schedule], target: float, layers: int, high: float = 1.0) -> Schedule:
    """The schedule ``make(x)``, 0 <= x <= ``high``, that comes closest to ``target``; more x must mean more tokens."""
    low = 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if make(middle).average(layers) < target else (low, middle)
    return min(make(high), make(low), key=lambda schedule: abs(schedule.average(layers) - target))


def act_at(schedule: Schedule, allowed: Sequence[int], layers: int, entering: bool = False) -> Schedule:
    """The schedule with every stage at the next of the ``allowed`` layers, and other counts there to spend the same.

    Where none follows, it is the last of them. Stages that meet become the later one. ``entering``: fewer tokens enter
    the LLM, too.

    >>> act_at(Schedule(10, ((1, 4), (3, 2))), allowed=(2, 5), layers=8)
    Schedule(vision=10, llm=((2, 2), (5, 1)), asked=(1, 3))
    """
    stages = {next((at for at in allowed if at >= layer), allowed[-1]): count for layer, count in schedule.llm}
    asked = tuple(layer for layer, _ in schedule.llm)
    if tuple(stages) == asked:
        return schedule

    counts = {at: count for at, count in stages.items() if isinstance(count, int)}
    if len(counts) < len(stages):  # shares of what is not known yet
        return Schedule(schedule.vision, tuple(stages.items()), asked)

    def make(share: float) -> Schedule:
        first = min(schedule.vision, max(1, round(share * schedule.vision))) if entering else schedule.vision
        return Schedule(first, tuple((at, min(first, max(1, round(share * n)))) for at, n in counts.items()), asked)

    most = schedule.vision / min(counts.values())  # more stay where a stage has to act earlier
    return fit_schedule(make, schedule.average(layers), layers, high=most)


def turn_dial(mean_at: Callable[[float], float], dial: Dial, target: float, steps: int = 40) -> float:
    """The value of a dial at which ``mean_at`` comes closest to ``target``, by bisection; within 1 % is close enough.

    Raises:
        BudgetError: the target lies outside of what the ends of the dial give; the message names both.
    """
    low, high = dial.fewest, dial.most
    ends = {low: mean_at(low), high: mean_at(high)}
    if not ends[low] <= target <= ends[high]:
        reached = " to ".join(f"{mean:.4g} ({dial.option}={value:g})" for value, mean in ends.items())
        raise BudgetError(f"a mean of {target:g} is out of reach; it reaches {reached}")
    tried = dict(ends)
    for _ in range(steps):
        best = min(tried, key=lambda value: abs(tried[value] - target))
        if abs(tried[best] - target) <= 0.01 * target:
            break
        middle = math.sinh((math.asinh(low) + math.asinh(high)) / 2)  # ends may be orders of magnitude apart
        tried[middle] = mean_at(middle)
        low, high = (middle, high) if tried[middle] < target else (low, middle)
    return min(tried, key=lambda value: abs(tried[value] - target))


def average_entering(per_layer: Sequence[float]) -> float:
    """Mean number of visual tokens entering a layer (the Nüwa paper's average)."""
    return sum(per_layer) / len(per_layer)


def average_leaving(per_layer: Sequence[float]) -> float:
    """Mean number of visual tokens leaving a layer (the count of SparseVLM's released code, commit 26a5f48)."""
    return average_entering([*per_layer[1:], per_layer[-1]])


def llm_flops(per_layer: Sequence[float], shape: ModelShape) -> float:
    """FLOPs of the LLM on visual tokens alone: sum over layers of 8SH^2 + 4S^2H + 4SHI (Nüwa paper, Appendix C).

    The paper's formula counts two of the three matrices of a gated feed-forward block; it is kept for comparison. A
    layer without attention costs ``shape.linear_flops`` a token in place of 8SH^2 + 4S^2H; that is not the paper's.
    """
    hidden, attending = shape.hidden, set(shape.attention_layers)
    total = 0.0
    for layer, s in enumerate(per_layer):
        mixing = 8 * s * hidden**2 + 4 * s**2 * hidden if layer in attending else s * shape.linear_flops
        total += mixing + 4 * s * hidden * shape.intermediate
    return total


def gated_delta_flops(hidden: int, key_heads: int, key_width: int, heads: int, width: int, kernel: int) -> float:
    """FLOPs of one token in a layer of linear attention by the gated delta rule (Qwen3.5), token by token. Ours.

    Projections to queries and keys (``key_heads`` of ``key_width``), values and gates (``heads`` of ``width``), two
    rates a head, and back; a convolution over ``kernel`` tokens; and seven operations on every entry of a head's state
    (``key_width`` x ``width``): one to decay it, two each to read, to write and to answer. Norms and activations are
    not counted, as in the paper's formula.
    """
    keys, values = key_heads * key_width, heads * width
    projections = 2 * hidden * (2 * keys + 3 * values + 2 * heads)
    return projections + 2 * kernel * (2 * keys + values) + 7 * heads * key_width * width


def attention_score_flops(queries: int, visual: float, hidden: int) -> float:
    """Metric overhead of attention scores: 2 * Sq * Sv * H (Nüwa paper, Appendix C)."""
    return 2 * queries * visual * hidden


def cosine_flops(visual: float, width: int) -> float:
    """Metric overhead of all-pairs cosine similarity: Sv^2 * D (Nüwa paper, Appendix C)."""
    return visual**2 * width


def norm_flops(visual: int, width: int) -> float:
    """Metric overhead of an L2 norm per token: 2 * Sv * H (Nüwa paper, Appendix C)."""
    return 2 * visual * width


def kv_cache_bytes(per_layer: Sequence[float], shape: ModelShape, bytes_per_value: int) -> float:
    """Bytes of keys and values that the visual tokens occupy in the cache. A layer without attention keeps none."""
    cached = [per_layer[layer] for layer in shape.attention_layers]
    return sum(2 * s * shape.kv_heads * shape.head_dim * bytes_per_value for s in cached)

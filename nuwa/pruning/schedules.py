"""How many of an image's visual tokens enter which layer, and the arithmetic that fits them to a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nuwa.pruning.budget import BudgetError, average_entering


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

    def check(self, method: str, layers: int, stages: bool) -> None:
        """Refuse pruning layers that an LLM of ``layers`` layers, or a ``method`` without ``stages``, does not have.

        Raises:
            ValueError: there are some, or they do not rise.
        """
        named = [layer for layer, _ in self.llm]
        if named and not stages:
            raise ValueError(f"pruner {method}: its schedule has stages in the LLM, but it defines no prune_llm")
        if named != sorted({*range(layers)} & {*named}):
            raise ValueError(f"pruner {method}: its schedule names layers {named}; they rise, from 0 to {layers - 1}")

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

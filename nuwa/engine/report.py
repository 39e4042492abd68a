"""What a session saw: visual tokens per layer, and which tokens of each image stayed where.

Everything stays on the device until somebody asks.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from nuwa.pruning.budget import average_entering
from nuwa.pruning.flops import ModelShape, llm_flops
from nuwa.pruning.layout import Grid
from nuwa.pruning.prompt import Prompt
from nuwa.pruning.segments import Segment


@dataclass
class ImageReport:
    """One image of the last call, or one video of several ``frames``.

    ``stages``: (layer, kept, positions) for every layer at which tokens left, layer 0 being what entered the LLM;
    ``kept`` are token indices in the order the LLM saw them, ``positions`` their ids on the first axis. ``asked``: the
    layers at which the method would have acted, had they had attention to read (Qwen3.5); empty where it did.
    """

    id: str
    row: int
    n_tokens: int
    grid: Grid
    per_layer: list[int]
    stages: list[tuple[int, list[int], list[int]]]
    extras: dict[str, Tensor]
    asked: tuple[int, ...] = ()
    frames: int = 1


@dataclass(repr=False)
class Report:
    """Counts over every image since the session began, details of the last call. ``print`` makes three lines of it.

    ``mask_bytes``: the most that calibration's masks of numbers took in a prefill, all queries by all keys; without it
    there are none.
    """

    method: str
    position: str
    shape: ModelShape
    images_seen: int = 0
    mask_bytes: int = 0
    _unpruned: int = 0
    _videos: int = 0
    _sums: dict[tuple, Tensor] = field(default_factory=dict)
    _last: tuple[Prompt, list[Segment]] | None = None
    _images: list[ImageReport] | None = None
    _lock: Any = field(default_factory=threading.Lock)

    def note(self, prompt: Prompt, segments: Sequence[Segment], mask_bytes: int = 0) -> None:
        """Count the images of a prompt that went through the layers as ``segments``; the device is not read."""
        text = (prompt.whole.valid & (prompt.whole.image < 0)).sum(1).tolist()  # all of it stays
        rows = range(0, len(text), prompt.expanded)
        counts = torch.tensor([sum(segment.lengths[row] - text[row] for row in rows) for segment in segments])
        plans = [plan for row in prompt.rows[:: prompt.expanded] for plan in row]
        key = tuple(segment.start for segment in segments)
        with self._lock:
            self._sums[key] = self._sums[key] + counts if key in self._sums else counts
            self.images_seen += len(plans)
            self._unpruned += sum(plan.layout.n_tokens for plan in plans)
            self._videos += sum(plan.layout.frames > 1 for plan in plans)
            self.mask_bytes = max(self.mask_bytes, mask_bytes)
            self._last, self._images = (prompt, list(segments)), None

    @property
    def tokens_per_layer(self) -> list[float]:
        """Mean visual tokens of an image entering each LLM layer, measured; nothing before the first image."""
        totals = torch.zeros(self.shape.layers, dtype=torch.long)
        for starts, counts in self._sums.items():
            totals += torch.tensor(_per_layer(starts, counts.tolist(), self.shape.layers))
        return [total / self.images_seen for total in totals.tolist()] if self.images_seen else []

    @property
    def average_entering(self) -> float:
        """The Nüwa paper's average token count."""
        return average_entering(self.tokens_per_layer)

    @property
    def flops_share(self) -> float:
        """What the visual tokens cost the LLM, by the Nüwa paper's formula, over what they cost without pruning."""
        whole = [self._unpruned / self.images_seen] * self.shape.layers
        return llm_flops(self.tokens_per_layer, self.shape) / llm_flops(whole, self.shape)

    @property
    def cache_share(self) -> float:
        """What the visual tokens take of the KV cache, over what they take without pruning."""
        return self.average_entering * self.images_seen / self._unpruned

    @property
    def images(self) -> list[ImageReport]:
        """The images of the last call, in prompt order."""
        if self._images is None:
            self._images = [] if self._last is None else image_reports(*self._last, self.shape.layers)
        return self._images

    def places(self, layer: int) -> Tensor:
        """Where in the prompt the tokens stand that a layer of the last prefill saw: (B, P), -1 on padding.

        The rows of ``attentions[layer]``, and of ``hidden_states[layer + 1]``, which left it. Both have fewer rows, the
        last ones of these, where the session shares prefixes.

        Raises:
            ValueError: there is no such layer, or there was no image yet.
        """
        if not 0 <= layer < self.shape.layers or self._last is None:
            raise ValueError(f"layer {layer} of {self.shape.layers}, after {self.images_seen} images, saw nothing")
        segment = next(segment for segment in reversed(self._last[1]) if segment.start <= layer)
        return segment.index.masked_fill(~segment.valid, -1)

    def __str__(self) -> str:
        if not self.images_seen:
            return f"{self.method}, position ids {self.position}: no image yet"
        runs, layer, counts, whole = [], 0, self.tokens_per_layer, self._unpruned / self.images_seen
        for count, group in groupby(counts):
            last = layer + len(list(group)) - 1
            runs.append(f"{count:.4g} in layers {layer}-{last}" if last > layer else f"{count:.4g} in layer {layer}")
            layer = last + 1
        return (
            f"{self.method}, position ids {self.position}, {self._seen()} of {whole:.4g} visual tokens\n"
            f"{', '.join(runs)}: {average_entering(counts):.4g} on average\n"
            f"{self.flops_share:.1%} of their FLOPs in the LLM, {self.cache_share:.1%} of their KV cache{self._moved()}"
        )

    def _seen(self) -> str:
        """How many images, and how many videos."""
        counts = {"image": self.images_seen - self._videos, "video": self._videos}
        return " and ".join(f"{count} {what}{'s' * (count > 1)}" for what, count in counts.items() if count)

    def _moved(self) -> str:
        """A line about stages that act at other layers than the method asked for, if any do."""
        image = next((image for image in self.images if image.asked), None)
        if image is None:
            return ""
        acts = ", ".join(str(layer) for layer, _, _ in image.stages if layer)
        asked = ", ".join(map(str, image.asked))
        return f"\nits stages act at {acts} instead of {asked}, where there is attention to read"

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain numbers, strings and lists."""
        names = ("method", "position", "images_seen", "mask_bytes", "tokens_per_layer")
        shares = ("average_entering", "flops_share", "cache_share") if self.images_seen else ()
        images = [asdict(image) | {"extras": _as_lists(image.extras)} for image in self.images]
        return {name: getattr(self, name) for name in (*names, *shares)} | {"images": images}


def _as_lists(tensors: dict[str, Tensor]) -> dict[str, list]:
    return {name: values.tolist() for name, values in tensors.items()}


def _per_layer(starts: Sequence[int], counts: Sequence[int], layers: int) -> list[int]:
    """How many tokens are in each layer, if from each of ``starts`` on there are as many as ``counts`` says."""
    per_layer = [0] * layers
    for start, count in zip(starts, counts, strict=True):
        per_layer[start:] = [count] * (layers - start)
    return per_layer


def image_reports(prompt: Prompt, segments: list[Segment], layers: int) -> list[ImageReport]:
    """Describe every image of a prompt, once per prompt (not per beam)."""
    moved = [(s.start, s.image.cpu(), s.token.cpu(), s.ids[0].cpu()) for s in segments]
    reports = []
    for row in range(0, len(prompt.rows), prompt.expanded):
        for ordinal, plan in enumerate(prompt.rows[row]):
            stages: dict[int, tuple[int, list[int], list[int]]] = {}
            for start, image, token, ids in moved:  # a stage before layer 0: what it leaves is what enters
                mine = image[row] == ordinal
                stages[start] = start, token[row, mine].tolist(), ids[row, mine].tolist()
            per_layer = _per_layer(list(stages), [len(kept) for _, kept, _ in stages.values()], layers)
            size, grid = plan.layout.n_tokens, plan.layout.views[0].grid
            place = plan.id, row // prompt.expanded, size, grid
            seen = per_layer, list(stages.values()), plan.extras, plan.schedule.asked
            reports.append(ImageReport(*place, *seen, plan.layout.frames))
    return reports

"""What a session saw: visual tokens per layer, and which tokens of each image stayed where."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from nuwa.pruning.budget import average_entering
from nuwa.pruning.layout import Grid
from nuwa.pruning.segments import Prompt, Segment


@dataclass
class ImageReport:
    """One image of the last call.

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


@dataclass
class Report:
    """Counts over every image since the session began, details of the last call.

    ``tokens_per_layer``: mean visual tokens of an image entering each LLM layer, measured. ``mask_bytes``: the most
    that calibration's masks of numbers took in a prefill, all queries by all keys; without it there are none.
    """

    tokens_per_layer: list[float] = field(default_factory=list)
    images_seen: int = 0
    images: list[ImageReport] = field(default_factory=list)
    mask_bytes: int = 0

    @property
    def average_entering(self) -> float:
        """The Nüwa paper's average token count."""
        return average_entering(self.tokens_per_layer)


def image_reports(prompt: Prompt, segments: list[Segment], layers: int) -> list[ImageReport]:
    """Describe every image of a prompt, once per prompt (not per beam)."""
    moved = [(s.start, s.image.cpu(), s.token.cpu(), s.ids[0].cpu()) for s in segments]
    reports = []
    for row in range(0, len(prompt.rows), prompt.expanded):
        for ordinal, plan in enumerate(prompt.rows[row]):
            stages: list[tuple[int, list[int], list[int]]] = []
            per_layer: list[int] = [0] * layers
            for start, image, token, ids in moved:
                mine = image[row] == ordinal
                kept = token[row, mine].tolist()
                if stages and stages[-1][0] == start:  # a stage before layer 0: what it leaves is what enters
                    stages.pop()
                stages.append((start, kept, ids[row, mine].tolist()))
                per_layer[start:] = [len(kept)] * (layers - start)
            seen = row // prompt.expanded, plan.layout.n_tokens, plan.layout.views[0].grid, per_layer, stages
            reports.append(ImageReport(plan.id, *seen, plan.extras, plan.schedule.asked))
    return reports

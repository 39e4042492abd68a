"""Towers of CLIP's architecture, which see every crop of an image by itself, with a CLS token or (SigLIP) without.

Shape letters: C crops of all images, N patches of a crop, H heads, D width, d head width; V rows asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from nuwa.models.registers import with_register
from nuwa.models.towers import NEED_CLS, LayerRun, Recording, SelfAttention
from nuwa.pruners.base import Tap
from nuwa.pruning.scores import CHUNK, Heads, received_attention, softmax_rows, split_heads


@dataclass(eq=False, repr=False)
class CropRecording(Recording):
    """Quantities of a tower that saw ``counts[i]`` crops of image i; the other arguments are those of `Recording`."""

    counts: Sequence[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = torch.tensor(self.counts).cumsum(0).tolist()
        self.crops = [slice(end - count, end) for end, count in zip(ends, self.counts, strict=True)]

    @contextmanager
    def reading(self, taps: Sequence[Tap], watch: Callable[[LayerRun], None] | None = None) -> Iterator[None]:
        """As in `Recording`; with a register token in the tower, if a tap asks for one."""
        neurons = next((tap.register for tap in taps if tap.register), ())
        with super().reading(taps, watch), with_register(self.layers, self.reader, neurons, self.cls):
            yield

    def view(self, tap: Tap, image: int, rows: Tensor) -> Tensor | None:
        if tap.kind not in NEED_CLS or not self.has(tap):
            return super().view(tap, image, rows)
        crop, rows = (part(rows, self.selected.shape[1]) for part in (torch.floor_divide, torch.remainder))
        if bool((crop != crop[0]).any()):
            return None  # several crops, each with a CLS token of its own
        values = self.value(tap)[self.crops[image]][int(crop[0])]
        return torch.cat([values[:1], values[1:][rows.to(values.device)]]) if tap.kind == "reader_keys" else values

    def project(self, run: LayerRun) -> Heads:
        attention = cast(SelfAttention, run.layer.self_attn)
        normed = run.layer.get_submodule("layer_norm1")(run.hidden)
        queries, keys = (split_heads(part(normed), attention.head_dim) for part in (attention.q_proj, attention.k_proj))
        return Heads(queries, keys, attention.head_dim**-0.5)

    def received(self, run: LayerRun, heads: Heads) -> Tensor:
        return received_attention(*heads) / heads.queries.shape[2]

    def tokens(self, values: Tensor) -> Tensor:
        return values[:, self.cls :]

    def as_features(self, states: Tensor) -> Tensor:
        return self.tokens(states).to(self.selected.dtype)

    def rows(self, values: Tensor, image: int, rows: Tensor) -> Tensor:
        return values[self.crops[image]].flatten(0, 1)[rows.to(values.device)]

    def expand_to(self, owners: Sequence[int]) -> None:
        self.crops = [self.crops[owner] for owner in owners]

    def attention_chunks(self, run: LayerRun, image: int, chunk: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
        queries, keys, scale = self.heads(run)
        queries, keys = (x[self.crops[image]] for x in (queries, keys))
        for first in range(0, queries.shape[2] - self.cls, chunk):
            part = queries[:, :, self.cls + first : self.cls + first + chunk]
            yield first, softmax_rows(part, keys, scale)[..., self.cls :].mean(1)

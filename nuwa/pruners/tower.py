"""The vision tower as methods know it: what it is, and what they can have read off it (`Tap`).

Shape letters: B views, N tokens of a view, D tower width, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nuwa.pruning.layout import Grid


@dataclass(frozen=True)
class Tower:
    """What a model's vision tower is, known from its config before any weights are read.

    ``kind`` is transformers' name of its architecture, ``sizes`` are its sizes as its config names them. ``cls``: every
    crop has a CLS token. ``grid`` is the token grid of every image, None where images differ.
    """

    kind: str
    sizes: Mapping[str, int]
    cls: bool = False
    grid: Grid | None = None


@dataclass(frozen=True)
class Tap:
    """One quantity that a vision-stage method wants read off the vision tower while it runs.

    Kinds, of the layer that ends at ``layer`` (fraction of the tower's depth; None: the layer whose output are the
    features): ``cls_attention`` (B, H, N) float32: attention of the CLS token to every patch, per head; towers without
    CLS give the attention each token receives, mean over queries. ``received_attention`` (B, N) float32: attention that
    each patch receives, mean over heads and over all queries, CLS included. ``keys`` (B, N, D): key projections of the
    patches, heads concatenated. ``cls_feature`` (B, 1, D): the CLS token at the feature layer.

    Of the layer that reads the features (the last one where they are the tower's last output): ``reader_query``
    (B, 1, D): query projection of the CLS token; ``reader_keys`` (B, 1 + N, D): key projections, CLS first.

    The last three are None where a view has no CLS token, or several: a view stitched from tiles has one per tile, and
    its ``cls_attention`` is that of every patch from its own tile's.

    ``states`` (B, N, D): what leaves the layer, before any merger; the mean of the patches that one token is made of.

    ``hidden_mean`` (B, N, D): mean of the hidden states from ``start`` to ``stop`` (fractions of the tower's depth).

    ``register``: the tower runs with a register token (`nuwa.models.registers`). ``register_attention`` (B, H, 1) is
    the CLS token's attention to it, in the softmax of ``cls_attention``; ``register_feature`` (B, 1, D) its feature.

    ``windowed`` takes the place of ``layer`` in towers most of whose layers see windows only (Qwen2.5-VL).
    """

    kind: str
    start: float = 0.0
    layer: float | None = None
    stop: float = 1.0
    windowed: float | None = None
    register: tuple[tuple[int, int], ...] = ()

    def layer_in(self, depth: int, default: int, windows: bool = False) -> int:
        """The layer that is read in a tower of ``depth`` layers, of ``windows`` or not."""
        at = self.windowed if windows and self.windowed is not None else self.layer
        return default if at is None else max(round(at * depth) - 1, 0)

    def layers_in(self, depth: int) -> range:
        """The layers whose outputs ``hidden_mean`` averages: state i of a tower is the output of layer i - 1."""
        return range(max(round(self.start * depth) - 1, 0), round(self.stop * depth))

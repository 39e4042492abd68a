"""Reads a vision tower while it runs, once for methods (`Tap`) and for analyses (``watch``).

CLIP and SigLIP see every crop as a sequence of its own; Qwen2.5-VL sees the patches of all images as one sequence.

Shape letters: C sequences, P places of a sequence (a CLS token, if there is one, comes first), N tokens of an image,
V rows asked for, Q queries, H heads, D tower width, d head width.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from nuwa.pruners.base import Tap
from nuwa.pruning.scores import CHUNK, Heads, softmax_rows

NEED_CLS = ("cls_feature", "reader_query", "reader_keys", "register_attention", "register_feature")
"""Taps of the CLS token."""
TAP_KINDS = ("cls_attention", "received_attention", "keys", "states", "hidden_mean", *NEED_CLS)


class SelfAttention(Protocol):
    """What is read of transformers' attention modules, in towers and decoders."""

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    head_dim: int
    scaling: float


@dataclass
class LayerRun:
    """Layer ``index`` of a tower after it ran: what entered and left it (C, P, D), and its other arguments.

    ``projected``: what `Recording.projections` computed of it.
    """

    index: int
    layer: nn.Module
    hidden: Tensor
    output: Tensor
    kwargs: dict[str, Any]
    projected: Heads | None = None


@dataclass(eq=False, repr=False)
class Recording(ABC):
    """What was read off one run of a vision tower. Images may differ in size.

    Rows (V,) are row numbers among an image's vision features (`ImageLayout.source`). ``selected`` are the features of
    all images as the tower returned them. What is costly is computed once for all images and kept.

    Args:
        layers: the layers of the tower.
        reader: the module that reads the tower's features.
        feature_layer: the layer that taps read by default, whose output are the features.
        cls: whether every sequence begins with a CLS token.
    """

    layers: Sequence[nn.Module]
    reader: nn.Module
    feature_layer: int
    cls: bool = field(default=False, kw_only=True)

    windows: ClassVar[bool] = False
    """Whether most layers see windows only."""

    def __post_init__(self) -> None:
        self._features: dict[str, Tensor] = {}
        self._runs: dict[int, LayerRun] = {}
        self._sums: dict[Tap, Tensor] = {}
        self._computed: dict[Tap, Tensor] = {}

    @contextmanager
    def reading(self, taps: Sequence[Tap], watch: Callable[[LayerRun], None] | None = None) -> Iterator[None]:
        """Read ``taps``, and call ``watch`` after each layer, while the context is open."""
        depth = len(self.layers)
        means = {tap: tap.layers_in(depth) for tap in taps if tap.kind == "hidden_mean"}
        read = means | {tap: [self.layer_of(tap)] for tap in taps if tap not in means and self.has(tap)}

        def leave(index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            states = output if torch.is_tensor(output) else output[0]
            hidden, states = (x if x.dim() == 3 else x[None] for x in (args[0], states))
            run = LayerRun(index, module, hidden, states, kwargs)
            for tap in (tap for tap, layers in read.items() if index in layers):
                if tap in means:
                    self._sums[tap] = states.float() + self._sums.get(tap, 0)
                else:
                    self._runs[index] = run
            if watch is not None:
                watch(run)

        with ExitStack() as stack:
            stack.callback(self.reader.register_forward_hook(self._leave_reader).remove)
            for index, layer in enumerate(self.layers):
                if watch is not None or any(index in layers for layers in read.values()):
                    hook = functools.partial(leave, index)
                    stack.callback(layer.register_forward_hook(hook, with_kwargs=True).remove)
            yield

    @property
    def selected(self) -> Tensor:
        """The features of all images as the tower returned them."""
        return self._features["selected"]

    def has(self, tap: Tap) -> bool:
        """Whether this tower has what a tap asks for."""
        return self.cls or tap.kind not in NEED_CLS

    def layer_of(self, tap: Tap) -> int:
        """The layer a tap reads."""
        if tap.kind.startswith("reader"):
            return min(self.feature_layer + 1, len(self.layers) - 1)
        return tap.layer_in(len(self.layers), self.feature_layer, self.windows)

    def features(self, image: int, rows: Tensor) -> Tensor:
        """(V, D) features at which tokens are kept or merged."""
        return self.rows(self.selected, image, rows)

    def view(self, tap: Tap, image: int, rows: Tensor) -> Tensor | None:
        """The tapped quantity of some rows of an image: shapes as in `nuwa.pruners.base.Tap`, without the batch.

        Raises:
            ValueError: there is no such kind of tap.
        """
        if tap.kind not in TAP_KINDS:
            raise ValueError(f"a vision tower has no tap {tap.kind!r}")
        if not self.has(tap):
            return None
        values = self.rows(self.value(tap), image, rows)
        return values.T if tap.kind == "cls_attention" else values

    def states(self, run: LayerRun, image: int, rows: Tensor) -> Tensor:
        """What left a layer for some rows of an image: (V, D)."""
        return self.rows(self.tokens(run.output), image, rows)

    def value(self, tap: Tap) -> Tensor:
        """The tapped quantity of all images, in the tower's shape and order."""
        if tap not in self._computed:
            self._computed[tap] = self._compute(tap)
        return self._computed[tap]

    def _compute(self, tap: Tap) -> Tensor:
        if tap.kind == "hidden_mean":
            return self.as_features(self._sums[tap] / len(tap.layers_in(len(self.layers))))
        run = self._runs[self.layer_of(tap)]
        if tap.kind == "cls_feature":
            return run.output[:, :1]
        if tap.kind == "register_feature":
            return run.output[:, -1:]
        if tap.kind == "register_attention":
            heads = self.heads(run)
            return softmax_rows(heads.queries[:, :, :1], heads.keys, heads.scale)[:, :, 0, -1:]
        if tap.kind == "states":
            return self.tokens(run.output)
        if tap.kind.endswith("attention"):
            return self._attention(tap, run)
        queries, keys = (x.transpose(1, 2).flatten(2) for x in self.projections(run)[:2])
        if tap.kind == "reader_query":
            return queries[:, :1]
        return self.tokens(keys) if tap.kind == "keys" else torch.cat([keys[:, :1], self.tokens(keys)], 1)

    def _attention(self, tap: Tap, run: LayerRun) -> Tensor:
        """Attention of the CLS token, or received by tokens: by token and head, or their mean."""
        heads = self.heads(run)
        if tap.kind == "cls_attention" and self.cls:
            return self.tokens(softmax_rows(heads.queries[:, :, :1], heads.keys, heads.scale)[:, :, 0].transpose(1, 2))
        received = self.tokens(self.received(run, heads).transpose(1, 2))
        return received if tap.kind == "cls_attention" else received.mean(-1)

    def state_dict(self, taps: Sequence[Tap]) -> dict[str, Tensor]:
        """All that can be asked of this recording, if nothing but ``taps`` is, as tensors by name."""
        return self._features | {str(tap): self.value(tap) for tap in taps if self.has(tap)}

    def load_state_dict(self, tensors: Mapping[str, Tensor], taps: Sequence[Tap]) -> None:
        """Fill an empty recording of the same images with what `state_dict` gave."""
        self._features = {name: tensors[name] for name in ("selected", "projected") if name in tensors}
        self._computed = {tap: tensors[str(tap)] for tap in taps if self.has(tap)}

    def _leave_reader(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep the features; the reader's first run counts."""
        self._features.setdefault("selected", inputs[0])

    def heads(self, run: LayerRun) -> Heads:
        """Queries and keys of a layer as its attention multiplies them: (C, H, P, d) each."""
        return self.projections(run)

    def projections(self, run: LayerRun) -> Heads:
        """What `project` makes of a layer, computed once."""
        if run.projected is None:
            run.projected = self.project(run)
        return run.projected

    @abstractmethod
    def project(self, run: LayerRun) -> Heads:
        """Queries and keys of a layer before their rotation, if they are rotated: (C, H, P, d) each."""

    @abstractmethod
    def received(self, run: LayerRun, heads: Heads) -> Tensor:
        """Attention that each place receives in every head, mean over the queries of its image: (C, H, P) float32."""

    @abstractmethod
    def tokens(self, values: Tensor) -> Tensor:
        """Values by place (C, P, ...) as values by token, in the tower's shape and order."""

    @abstractmethod
    def as_features(self, states: Tensor) -> Tensor:
        """Float32 hidden states (C, P, D) as features of tokens."""

    @abstractmethod
    def rows(self, values: Tensor, image: int, rows: Tensor) -> Tensor:
        """Rows (V,) of an image out of values by token: (V, ...)."""

    @abstractmethod
    def expand_to(self, owners: Sequence[int]) -> None:
        """Show as image i what was read of image ``owners[i]``."""

    @abstractmethod
    def attention_chunks(self, run: LayerRun, image: int, chunk: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
        """The first query of each chunk, and its attention rows between tokens, head mean: (S, Q, N).

        S are the sequences of the image: its crops, or one.
        """

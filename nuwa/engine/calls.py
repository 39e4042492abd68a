"""Reads each decoder layer while a model runs, and recomputes one layer's attention rows at a time.

The model keeps its kernel (sdpa, FlashAttention); no map of all tokens by all tokens and heads exists at any time.

Shape letters: B rows (prompts), H heads, Q queries, L tokens of a row, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nuwa.engine.arguments import cache_of
from nuwa.engine.conversation import conversation_of, held
from nuwa.engine.groups import token_groups
from nuwa.engine.guards import SessionError
from nuwa.engine.llm import sees_at
from nuwa.engine.session import PruningSession
from nuwa.models.base import Family
from nuwa.pruning.prompt import Prompt
from nuwa.pruning.scores import CHUNK, llm_attention_rows
from nuwa.pruning.segments import Segment


@dataclass
class LayerCall:
    """Decoder layer ``index`` at a prefill, within a session.

    ``hidden`` and ``output`` (B, L, D): what entered and what left it; ``rotary``: cos and sin of its positions;
    ``segment`` and ``prompt`` say which tokens these are (a pruner may have dropped some before). ``kwargs`` are the
    layer's own arguments.
    """

    family: Family
    index: int
    layer: nn.Module
    hidden: Tensor
    output: Tensor
    rotary: tuple[Tensor, Tensor]
    segment: Segment
    prompt: Prompt
    kwargs: dict[str, Any]

    def groups(self, answers: Tensor | None = None) -> Tensor:
        """The group of every token (B, L); ``answers`` (B,) tokens of an answer end each row."""
        return token_groups(self.segment.image, self.segment.valid, answers)

    def rows(self, query: Tensor) -> Tensor:
        """Attention rows (B, H, Q, L) float32 of the positions ``query`` (Q,), zeros where padding asks."""
        valid = self.segment.valid
        parts = self.family.queries_keys, self.layer, self.hidden, self.rotary, valid, query
        rows = llm_attention_rows(*parts, sees=sees_at(self.family, self.index, self.segment))
        return rows.masked_fill_(~valid[:, None, query, None], 0)

    def attention_chunks(self, chunk: int = CHUNK) -> Iterator[tuple[Tensor, Tensor]]:
        """All positions, ``chunk`` at a time: (Q,) and their attention rows, head mean, (B, Q, L)."""
        for query in torch.arange(self.hidden.shape[1], device=self.hidden.device).split(chunk):
            yield query, self.rows(query).mean(1)

    def places(self, row: int, ordinal: int) -> Tensor:
        """Where the tokens of an image stand in the row, in the image's order: (n_tokens,), -1 where one is gone."""
        image, token = self.segment.image[row], self.segment.token[row]
        mine = (image == ordinal).nonzero()[:, 0]
        places = image.new_full((self.prompt.rows[row][ordinal].layout.n_tokens,), -1)
        return places.index_put((token[mine],), mine)


def check_session(session: PruningSession) -> None:
    """Refuse a session that is not open: nothing would be seen, and nothing said about it."""
    if session.adapter.encoder not in vars(session.adapter.multimodal):
        raise SessionError("open the session first: with nuwa.prune(model, pruner) as session: ...")


def choose_layers(adapter: Family, layers: range | list[int] | None) -> list[int]:
    """The asked layers, by default all that have attention.

    Raises:
        ValueError: the model has no such layer, or the layer has no attention.
    """
    depth, attending = len(adapter.layers), adapter.shape.attention_layers
    chosen = list(attending if layers is None else layers)
    for layer in chosen:
        if not 0 <= layer < depth:
            raise ValueError(f"layer {layer}: this model has layers 0 to {depth - 1}")
        if layer not in attending:
            named = ", ".join(map(str, attending))
            raise ValueError(f"layer {layer}: this model has linear attention there; full attention at {named}")
    return chosen


@contextmanager
def hook_layers(
    session: PruningSession, hook: Callable[..., Any], layers: range | list[int] | None, before: bool = False
) -> Iterator[None]:
    """Inside it, ``hook`` gets a layer's index and what torch gives a hook with kwargs, after (or before) each layer.

    Raises:
        SessionError: the session is not open, or not every token of every row would be seen in the layers.
    """
    check_session(session)
    if session.share:
        raise SessionError("rows that share their beginnings cannot be looked into: open the session with share=False")
    with ExitStack() as hooks:
        for index in choose_layers(session.adapter, layers):
            layer = session.adapter.layers[index]
            register = layer.register_forward_pre_hook if before else layer.register_forward_hook
            hooks.enter_context(register(functools.partial(hook, index), with_kwargs=True))
        yield


def watch_layers(
    session: PruningSession, watch: Callable[[LayerCall], None], layers: range | list[int] | None = None
) -> AbstractContextManager[None]:
    """Call ``watch`` after each layer, inside an open session, whenever a prompt with images is read.

    The model must run with its cache, as `generate` does by default: what the tokens are travels with it.
    """

    def leave(index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> None:
        cache, hidden = cache_of(kwargs), args[0]
        state = conversation_of(cache)
        if cache is not None and state is not None and state.prompt and held(cache, index) == hidden.shape[1]:
            rotary, segment = kwargs["position_embeddings"], state.at(index)
            watch(LayerCall(session.adapter, index, module, hidden, output, rotary, segment, state.prompt, kwargs))

    return hook_layers(session, leave, layers)


@torch.no_grad()
def read_prompt_once(session: PruningSession, inputs: Mapping[str, Any]) -> Any:
    """Run the model over a batch of prompts, with a cache so that hooks know its tokens."""
    return session.adapter.model(**inputs, use_cache=True)

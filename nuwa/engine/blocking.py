"""Attention blocking (paper B.5, Table 15): some tokens cannot attend to the image in a range of layers.

Only masks change, and only in those layers. A token always sees itself, so that no row is left empty.

Shape letters: B rows (prompts), Q queries, K keys.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nuwa.engine.arguments import cache_of
from nuwa.engine.calls import hook_layers
from nuwa.engine.conversation import conversation_of, held
from nuwa.engine.groups import GROUPS, LAST, VISION, token_groups
from nuwa.engine.guards import SessionError
from nuwa.engine.session import PruningSession
from nuwa.pruning.masks import format_mask

SOURCES = GROUPS[VISION:]
"""The groups that can be blocked; what stands before an image never sees it."""
_RANGE, _PART = re.compile(r"(\d+)-(\d+)"), re.compile(r"(\d+)/(\d+)")


def layer_range(text: str, depth: int) -> range:
    """Layers as a person writes them: ``8-15``, both included, or ``2/4``, the second of four equal parts.

    >>> layer_range("8-15", 32), layer_range("2/4", 32)
    (range(8, 16), range(8, 16))

    Raises:
        ValueError: not written so, out of order, or layers that a model of ``depth`` layers does not have.
    """
    between, part = _RANGE.fullmatch(text), _PART.fullmatch(text)
    if between:
        first, last = map(int, between.groups())
        if not first <= last < depth:
            raise ValueError(f"layers={text}: the first must not lie after the last, nor the last after {depth - 1}")
        return range(first, last + 1)
    if part:
        number, parts = map(int, part.groups())
        if not 1 <= number <= parts <= depth:
            raise ValueError(f"layers={text}: expected a part k/n with 1 <= k <= n <= {depth}")
        return range((number - 1) * depth // parts, number * depth // parts)
    raise ValueError(f"layers={text}: expected a range like 8-15 or a part like 2/4")


def blocked_pairs(queries: Tensor, keys: Tensor, source: str) -> Tensor:
    """Which queries (B, Q) lose which keys (B, K), given their groups: (B, Q, K) bool.

    The queries are the last Q keys; none loses itself.
    """
    lost = (queries == GROUPS.index(source))[..., None] & (keys == VISION)[:, None]
    own = torch.arange(keys.shape[1], device=keys.device)
    return lost & (own != own[-queries.shape[1] :, None])


def cut(mask: Tensor | None, lost: Tensor, implementation: str, valid: Tensor, dtype: torch.dtype) -> Tensor:
    """A layer's own mask (None, or (B or 1, 1, Q, K) bool or additive) without the ``lost`` (B, Q, K) entries."""
    if mask is None:
        mask = format_mask(implementation, valid, lost.shape[1], True, dtype)
    assert mask is not None  # eager and sdpa have one for padded rows
    if mask.dtype == torch.bool:
        return mask & ~lost[:, None]
    return torch.where(lost[:, None], torch.finfo(dtype).min, mask)


def block(
    session: PruningSession, source: str, layers: range | list[int] | None = None
) -> AbstractContextManager[None]:
    """Inside it, tokens of group ``source`` do not see the image in ``layers`` (all by default), also when decoding.

    Works inside an open session, for any method; ``vision`` blocks the image's tokens from each other, ``text`` the
    question, ``last`` the last token of the prompt and every token of the answer.

    Raises:
        ValueError: an unknown source, a layer that the model lacks, or an attention kernel without masks.
        SessionError: the session is not open; later, a call without a cache.
    """
    if source not in SOURCES:
        raise ValueError(f"source {source!r} is unknown; choose one of {', '.join(SOURCES)}")
    config: Any = session.adapter.language_model.config
    implementation: str = config._attn_implementation
    if implementation not in ("sdpa", "eager"):
        raise ValueError(f"model.attention={implementation} takes no masks to block with; use sdpa or eager")

    def enter(index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple | None:
        cache = cache_of(kwargs)
        if cache is None:
            raise SessionError("attention blocking needs the model's cache: call it with use_cache=True")
        state = conversation_of(cache)
        past = held(cache, index)
        if state is None or (past and source != GROUPS[LAST]):
            return None
        segment, hidden = state.at(index), args[0]
        new = past + hidden.shape[1] - segment.length
        keys = nn.functional.pad(token_groups(segment.image, segment.valid), (0, new), value=LAST)
        valid = nn.functional.pad(segment.valid, (0, new), value=True)
        lost = blocked_pairs(keys[:, past:], keys, source)
        mask = cut(kwargs.get("attention_mask"), lost, implementation, valid, hidden.dtype)
        return args, kwargs | {"attention_mask": mask}

    return hook_layers(session, enter, layers, before=True)


def configured_block(session: PruningSession, source: str | None, layers: str) -> AbstractContextManager[None]:
    """`block` as conf/blocking asks for it; without a source nothing is blocked."""
    if source is None:
        return nullcontext()
    return block(session, source, layer_range(layers, len(session.adapter.layers)))

"""Attention times the gradient of an answer's log-likelihood, layer by layer, with one layer in memory at a time.

Reverse mode by hand: a first pass without gradients keeps each layer's input, then the layers are run again one by one
from the last to the first, each passing the gradient of its input on. Where attention A mixes the values V of a head,
O = A V, its gradient is dA = dO V^T, so that rows of A * dA come from the gradient of the layer's own output
projection, and the layer keeps its own kernel.

Shape letters: B rows (prompts), H heads, Q queries, L tokens, D width, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nuwa.engine.arguments import with_cache
from nuwa.engine.calls import LayerCall, read_prompt_once, watch_layers
from nuwa.engine.session import PruningSession
from nuwa.pruning.scores import CHUNK, split_heads


@dataclass
class GradientCall:
    """A layer's input, its values (B, H', L, d) and the gradient (B, H, L, d) of what its heads put out."""

    call: LayerCall
    values: Tensor
    gradient: Tensor

    def attention_chunks(self, chunk: int = CHUNK) -> Iterator[tuple[Tensor, Tensor]]:
        """All positions in portions: (Q,) and ReLU(A * dA), head mean, (B, Q, L) float32."""
        repeats = self.gradient.shape[1] // self.values.shape[1]
        values = self.values.float().repeat_interleave(repeats, 1).mT
        for query in torch.arange(self.gradient.shape[2], device=values.device).split(chunk):
            slope = self.gradient[:, :, query].float() @ values
            yield query, (self.call.rows(query) * slope).relu_().mean(1)


def answer_log_likelihood(session: PruningSession, hidden: Tensor, ids: Tensor, answers: Tensor) -> Tensor:
    """Sum over rows of log p(answer | prompt) from the last layer's output (B, L, D).

    ``ids`` (B, L + 1): the prompts, left-padded, and their answers; the model read all but the last token of each row.
    ``answers`` (B,): how many tokens of a row are its answer.
    """
    adapter = session.adapter
    last = int(answers.max())
    states = adapter.final_norm(hidden[:, -last:])
    scores = adapter.model.get_output_embeddings()(states).float().log_softmax(-1)
    chosen = scores.gather(-1, ids[:, -last:, None])[..., 0]
    counted = torch.arange(last, 0, -1, device=chosen.device) <= answers.to(chosen.device)[:, None]
    return (chosen * counted).sum()


def watch_gradients(
    session: PruningSession,
    inputs: Mapping[str, Any],
    ids: Tensor,
    answers: Tensor,
    watch: Callable[[GradientCall], None],
) -> float:
    """Call ``watch`` for every layer, from the last to the first; returns the log-likelihood of the answers.

    Args:
        inputs: what the model reads: left-padded prompts followed by all but the last token of their answers.
        ids, answers: as in `answer_log_likelihood`.

    Raises:
        ValueError: a method drops tokens inside the LLM, or layers have no attention: gradients cannot follow there.
    """
    if session.adapter.shape.attention is not None:
        raise ValueError(f"gradients are not followed through linear attention ({session.adapter.model_type})")
    calls: list[LayerCall] = []
    with watch_layers(session, calls.append):
        read_prompt_once(session, inputs)
    if any(call.segment.start > 0 for call in calls):
        raise ValueError("gradients cannot follow a method that drops tokens inside the LLM")
    with torch.enable_grad():
        hidden = calls[-1].output.detach().requires_grad_()
        total = answer_log_likelihood(session, hidden, ids, answers)
        (slope,) = torch.autograd.grad(total, hidden)
    while calls:
        call = calls.pop()
        slope, watched = _step_back(call, slope)
        with torch.no_grad():
            watch(watched)
    return float(total.detach())


def _step_back(call: LayerCall, slope: Tensor) -> tuple[Tensor, GradientCall]:
    """The gradient of a layer's input, from that of its output, and what is to be seen of the layer's attention."""
    attention = call.layer.get_submodule("self_attn")
    seen: dict[str, Tensor] = {}
    values, mixed = attention.get_submodule("v_proj"), attention.get_submodule("o_proj")
    with (
        torch.enable_grad(),
        values.register_forward_hook(lambda module, args, output: seen.update(values=output)),
        mixed.register_forward_pre_hook(lambda module, args: seen.update(mixed=args[0])),
    ):
        hidden = call.hidden.detach().requires_grad_()
        kwargs = with_cache(call.layer, call.kwargs, None) | {"use_cache": False}
        # not called as a module: sessions and blocks have had their say when the prompt was read
        output = call.layer.forward(hidden, **kwargs)
        below, above = torch.autograd.grad(output, [hidden, seen["mixed"]], grad_outputs=slope)
    width = call.family.shape.head_dim
    return below, GradientCall(call, split_heads(seen["values"].detach(), width), split_heads(above, width))

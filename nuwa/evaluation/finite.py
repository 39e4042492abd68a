"""Whether a model's numbers are numbers: NaN in the logits would pass for an answer, and for a score of 0."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

NOT_FINITE = "the model's logits are NaN or infinite: its weights are broken, or its numbers overflow (try model.dtype)"


class FiniteLogits(LogitsProcessor):
    """Notes, without waiting for the device, which rows of a `generate` have logits that are NaN or +inf."""

    def __init__(self) -> None:
        self.bad: Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """The scores as they are; -inf is what other processors forbid tokens with."""
        bad = (scores.isnan() | scores.isposinf()).any(-1)
        self.bad = bad if self.bad is None else self.bad | bad
        return scores

    def broken(self, samples: int) -> list[bool]:
        """For each sample, whether any of its rows (beams) had such logits; waits for the device."""
        return [False] * samples if self.bad is None else self.bad.view(samples, -1).any(-1).tolist()

"""The step of the loop where vLLM answers: scored answers go to the journal, without a word of what was kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning

from nuwa.benchmarks.base import Benchmark
from nuwa.evaluation.journal import Journal, Row
from nuwa.evaluation.module import Evaluation, failed_row
from nuwa.samples import Sample, SampleError
from nuwa.serve.engine import Engine


class EngineEvaluation(Evaluation):
    """As `Evaluation`, without a session; ``max_new_tokens`` takes precedence over the benchmark's."""

    def __init__(
        self, engine: Engine, benchmark: Benchmark, journal: Journal, max_new_tokens: int | None, record: bool
    ) -> None:
        lightning.LightningModule.__init__(self)
        self.engine, self.loaded, self.benchmark, self.journal = engine, engine.loaded, benchmark, journal
        self.max_new_tokens, self.record, self.reports = max_new_tokens, record, []

    def _prepared(self, samples: Sequence[Sample]) -> Any:
        return self.engine.prompts(samples)

    def _answered(self, samples: Sequence[Sample], inputs: Any) -> list[Row]:
        longest = self.max_new_tokens or self.benchmark.max_new_tokens(samples[0].task)
        try:
            answers = self.engine.answer(inputs, longest)
        except ValueError as error:  # of one prompt, whichever it is
            if len(samples) > 1:
                pairs = zip(samples, inputs, strict=True)
                return [row for sample, prompt in pairs for row in self._answered([sample], [prompt])]
            if not self.record:
                raise SampleError(f"sample {samples[0].id}: {error}") from error
            return [failed_row(samples[0].id, str(error), samples[0].task)]
        return [self._row(sample, answer, []) for sample, answer in zip(samples, answers, strict=True)]

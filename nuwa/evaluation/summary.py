"""What the answered rows of a run add up to: its quality and its costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nuwa.benchmarks.base import Benchmark
from nuwa.evaluation.journal import Row
from nuwa.evaluation.statistics import retention, share_intervals, standard_errors
from nuwa.pruners.base import Pruner
from nuwa.pruning.budget import average_entering, average_leaving
from nuwa.pruning.flops import ModelShape, flashvid_flops, kv_cache_bytes, llm_flops
from nuwa.pruning.schedules import Schedule

NAMED = 5  # unknown words in a warning


def summarise(benchmark: Benchmark, rows: Sequence[Row], unpruned: Sequence[Row] | None) -> dict[str, Any]:
    """Metrics with their errors and intervals, and the retention if there are rows of the ``unpruned`` run.

    The keys are those of result.json (`nuwa.evaluation.runs.Run`).
    """
    found: dict[str, Any] = {
        "metrics": benchmark.metrics(rows),
        "standard_errors": standard_errors(rows, benchmark),
        "intervals": share_intervals(rows),
    }
    return found if unpruned is None else found | {"retention": retention(rows, unpruned, benchmark)}


def doubts(rows: Sequence[Row], model: str) -> Iterator[str]:
    """Why the numbers of these answered rows may say little about the model."""
    if not any(row["prediction"] for row in rows):
        yield f"all {len(rows)} answers are empty"
    foreign = [row["unknown"] for row in rows if "unknown" in row]
    if foreign:
        words = list(dict.fromkeys(word for unknown in foreign for word in unknown))
        named = ", ".join(words[:NAMED]) + (" ..." if len(words) > NAMED else "")
        yield (
            f"{len(foreign)} of {len(rows)} prompts hold words that {model} does not know ({named}); "
            f"ask in its own words (dataset.prompt, or dataset.vqa_prompt and vg_prompt)"
        )
    noted = [row["notes"][0] for row in rows if "notes" in row]
    if noted:
        yield f"{len(noted)} of {len(rows)} samples have a note on their video, the first: {noted[0]}"


def costs(rows: Sequence[Row], pruner: Pruner, shape: ModelShape, value_bytes: int) -> dict[str, Any]:
    """What the visual tokens of an image cost, as measured: means over all images of the rows.

    ``llm_tflops`` and ``metric_mflops`` follow the Nüwa paper (Appendix C, Table 4), ``flashvid_tflops`` FlashVID's
    table of run times; visual tokens only. What choosing costs is counted for pictures: among videos there is no
    ``metric_mflops``, since methods see them frame by frame, in segments, or whole.
    """
    stages = [stages for row in rows for stages in row["kept"]]
    images = [Schedule(first[1], tuple(map(tuple, later))).per_layer(shape.layers) for first, *later in stages]
    if not images:
        return {}
    per_layer = [sum(counts) / len(images) for counts in zip(*images, strict=True)]
    tokens = [count for row in rows for count in row["image_tokens"]]
    found = {
        "tokens_per_layer": per_layer,
        "tokens_entering": average_entering(per_layer),
        "tokens_leaving": average_leaving(per_layer),
        "tokens_per_image": sum(tokens) / len(tokens),
        "llm_tflops": sum(llm_flops(image, shape) for image in images) / len(images) / 1e12,
        "flashvid_tflops": sum(flashvid_flops(image, shape) for image in images) / len(images) / 1e12,
        "kv_cache_bytes": kv_cache_bytes(per_layer, shape, value_bytes),
    }
    if not any("frames" in row for row in rows):
        found["metric_mflops"] = sum(pruner.metric_flops(count, shape) for count in tokens) / len(tokens) / 1e6
    return found

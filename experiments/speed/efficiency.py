"""The paper's Table 4 with measured times: what `python launch.py experiment=efficiency` found, as Markdown.

    python experiments/speed/efficiency.py [outputs/efficiency] [--batch 1]

TFLOPs and MFLOPs are the paper's formulas on the visual tokens that entered each layer. Times are medians over rounds;
a speed-up is the median over rounds of the ratio within a round (its quartiles in brackets); `promised` is the ratio of
the paper's FLOPs of all tokens that the layers cached, text included, and `reached` the measured share of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEADER = (
    "method", "tokens", "LLM TFLOPs", "metric MFLOPs", "prefill, ms", "unpruned, ms", "speed-up", "promised", "reached",
    "compression, ms", "first token, speed-up", "decoding, speed-up",
)  # fmt: skip


def read_speeds(folder: Path) -> list[dict[str, Any]]:
    """The finished results of a folder of runs that were probed, by method and tokens."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]
    probed = [result for result in results if result["status"] == "done" and result.get("speed")]
    return sorted(probed, key=lambda result: (result["method"], result["tokens_entering"]))


def row(result: dict[str, Any], batch: int) -> list[str] | None:
    """The cells of a pruned run at one batch size; None if it was not measured there."""
    entry = next((entry for entry in result["speed"] if entry["batch"] == batch), {})
    if "speedup" not in entry:
        return None
    prefill = {name: parts["prefill_ms"]["median"] for name, parts in entry["variants"].items()}
    return [
        result["method"],
        f"{result['tokens_entering']:.1f}",
        f"{result['llm_tflops']:.4g}",
        f"{result['metric_mflops']:.3g}",
        f"{prefill['pruned']:.1f}",
        f"{prefill['vanilla']:.1f}",
        ratio(entry["speedup"]["prefill_ms"]),
        f"{entry['theoretical_prefill_speedup']:.2f}",
        f"{entry['reached']:.0%}",
        f"{entry['compression_ms']['median']:.1f}",
        ratio(entry["speedup"]["ttft_ms"]),
        ratio(entry["speedup"]["decode_ms_per_token"]),
    ]


def ratio(quartiles: dict[str, float]) -> str:
    """Median and quartiles of a speed-up."""
    return f"{quartiles['median']:.2f} ({quartiles['q1']:.2f} to {quartiles['q3']:.2f})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Print where it was measured, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("outputs/efficiency"))
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    results = read_speeds(options.folder)
    rows = [cells for result in results if (cells := row(result, options.batch)) is not None]
    if not rows:
        parser.exit(1, f"{options.folder}: no finished run was probed (probe=speed) at batch {options.batch}\n")
    place, entry = results[0]["environment"], results[0]["speed"][0]
    print(f"{results[0]['model']}, batch {options.batch}, {place['device']}, {place['threads']} thread(s),")
    print(f"{place['dtype']}, {place['attention']}, {entry['warmup']} warm-up and {entry['repeats']} timed rounds\n")
    print(table(rows))


if __name__ == "__main__":
    main()

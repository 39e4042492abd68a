"""The paper's D.1: are the three visual tokens of highest norm those that the text attends to most?

    python experiments/analysis/registers.py                              # the tiny LLaVA, 48 scenes
    python experiments/analysis/registers.py model=tiny_qwen
    python experiments/analysis/registers.py model=llava_1_5_7b dataset=refcoco_test limit=100

Words are overrides as for launch.py. Writes results/registers_<model>, CSV and PNG: share of the three that are the
same, by norms of the tower's features and of the states that enter the LLM's layer.
"""

import sys

from common import plot_layers, survey, write_csv

from nuwa.analysis.structure import registers
from nuwa.analysis.survey import average


def main(overrides: list[str]) -> None:
    """Averages over samples."""
    model, records = survey(lambda loaded, benchmark, sample: registers(loaded, sample), overrides)
    rows = average(records, ("task", "measure", "layer"))
    print(write_csv(f"registers_{model}", rows))
    print(plot_layers("registers", model, rows, ("task",), ("measure",), "share of the same three"))


if __name__ == "__main__":
    main(sys.argv[1:])

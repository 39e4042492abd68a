"""The paper's Fig. 8 and 9: cosine of visual tokens with the mean text vector, layer by layer.

    python experiments/analysis/text_alignment.py                         # the tiny LLaVA, 48 scenes
    python experiments/analysis/text_alignment.py model=tiny_qwen
    python experiments/analysis/text_alignment.py model=llava_1_5_7b dataset=refcoco_test limit=100

Words are overrides as for launch.py. Writes results/text_alignment_<model>, CSV and PNG: all tokens; for samples with
a box those inside and outside of it.
"""

import sys

from common import plot_layers, survey, write_csv

from nuwa.analysis.structure import text_relation
from nuwa.analysis.survey import average


def main(overrides: list[str]) -> None:
    """Averages over samples."""
    model, records = survey(text_relation, overrides)
    rows = average(records, ("task", "measure", "layer"))
    print(write_csv(f"text_alignment_{model}", rows))
    print(plot_layers("text_alignment", model, rows, ("task",), ("measure",), "cosine with the text"))


if __name__ == "__main__":
    main(sys.argv[1:])

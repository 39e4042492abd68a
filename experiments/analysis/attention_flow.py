"""The paper's Fig. 3 and 7: where the tokens of each group look, layer by layer, and what of it the answer hangs on.

    python experiments/analysis/attention_flow.py                         # the tiny LLaVA, 48 scenes
    python experiments/analysis/attention_flow.py model=tiny_qwen
    python experiments/analysis/attention_flow.py model=llava_1_5_7b dataset=refcoco_test limit=100

Words are overrides as for launch.py. Writes results/attention_flow_<model> and results/gradient_flow_<model>, CSV, PNG.
"""

import sys

from common import plot_layers, survey, write_csv

from nuwa.analysis.survey import attention_flow, average, gradient_flow

KEYS = ("task", "per", "source", "target", "layer")
SHOWN = {("vision", "vision"), ("text", "vision"), ("last", "vision"), ("last", "text"), ("vision", "system")}


def main(overrides: list[str]) -> None:
    """Both flows."""
    flows = {
        "attention_flow": (lambda loaded, benchmark, sample: attention_flow(loaded, sample), ("token",), "share"),
        "gradient_flow": (gradient_flow, ("token", "group"), "ReLU(attention x gradient)"),
    }
    for name, (measure, per, label) in flows.items():
        model, records = survey(measure, overrides)
        records.sort(key=lambda entry: entry["layer"])
        rows = [row for row in average(records, KEYS) if row["per"] in per]
        print(write_csv(f"{name}_{model}", rows))
        shown = [row for row in rows if (row["source"], row["target"]) in SHOWN]
        print(plot_layers(name, model, shown, ("task", "per"), ("source", "target"), label))


if __name__ == "__main__":
    main(sys.argv[1:])

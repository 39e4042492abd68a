"""The paper's Eq. 1 and 2 by layer: Visual Attention Entropy and Object-Centric Cohesion, of the tower and of the LLM.

    python experiments/analysis/spatial_structure.py                      # the tiny LLaVA, 48 scenes
    python experiments/analysis/spatial_structure.py model=tiny_qwen
    python experiments/analysis/spatial_structure.py model=llava_1_5_7b dataset=refcoco_test limit=100

Words are overrides as for launch.py. Writes results/spatial_structure_<model>, CSV and PNG, and says how many samples
have no box to measure cohesion on.
"""

import sys
from collections import Counter

from common import plot_layers, survey, write_csv

from nuwa.analysis.structure import spatial_structure
from nuwa.analysis.survey import average

LABELS = {"vae": "bits", "vae_all": "bits", "occ": "IoU"}


def main(overrides: list[str]) -> None:
    """Averages over samples; cohesion over all views of an image."""
    model, records = survey(spatial_structure, overrides)
    without = Counter(entry["reason"] for entry in records if entry["measure"] == "no_occ")
    rows = average([r for r in records if r["measure"] != "no_occ"], ("measure", "part", "layer"))
    print(write_csv(f"spatial_structure_{model}", rows))
    print(plot_layers("spatial_structure", model, rows, ("measure",), ("part",), LABELS))
    for reason, count in without.items():
        print(f"no cohesion for {count} views: {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])

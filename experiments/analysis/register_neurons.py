"""Finds the register neurons of a model's vision tower, for ``pruner=occamtoken pruner.register=<file>``.

    python experiments/analysis/register_neurons.py --threshold 30 --write neurons.json model=llava_1_5_7b dataset=gqa

Words are overrides as for launch.py. The threshold is a norm of the tower's features that outliers exceed; the message
about a tower without any names the largest norm there is. Nothing is published for CLIP-L at 336 pixels: half of the
tower's layers count unless --depth says otherwise.
"""

import sys
from pathlib import Path

from common import parts_of

from nuwa.analysis.register_neurons import find_neurons, write_neurons
from nuwa.command import argument, command


@command(
    "Find the register neurons of a vision tower.",
    argument("--threshold", type=float, required=True, help="norm above which a patch is an outlier"),
    argument("--write", type=Path, required=True, help="the file for pruner.register"),
    argument("--top", type=int, default=10, help="how many neurons (10)"),
    argument("--depth", type=float, default=0.5, help="the part of the tower's layers that counts (0.5)"),
    argument("overrides", nargs="*", help="model, dataset, limit ..., as for launch.py"),
)
def main(options):
    """Write the file and say what is in it."""
    loaded, benchmark, count = parts_of(options.overrides)
    samples = [benchmark[i] for i in range(count)]
    content = find_neurons(loaded, samples, options.threshold, options.top, options.depth)
    write_neurons(options.write, content)
    print(f"{options.write}: {content['neurons']}, outliers in {content['images_with_outliers']} of {count} images")


if __name__ == "__main__":
    sys.exit(main())

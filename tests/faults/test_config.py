"""Values that cannot work, on the command line: one line that names the key, exit status 1, no folder."""

import pytest
from helpers.faults import launch

CASES = [
    launch("unknown pruner", "pruner=magic", says=("pruner/magic",)),
    launch("wrong number", "seed=abc", says=("seed",)),
    launch("fine", status=0, rows=2),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_config(case, server, tmp_path):
    print(case.check(server, tmp_path))

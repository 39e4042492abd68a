"""The mistakes that the mutation run makes, and that a fork imports the one it should."""

from __future__ import annotations

import ast
from importlib.util import module_from_spec

from mutation.forks import ROOT, Task, run
from mutation.judging import Mutated
from mutation.mutants import mutants_of

import nuwa.pruning.flops as flops

SOURCE = b'''
def share(values: list[int], scale=2):
    """Not 1, not max."""
    if len(values) < 3 and scale:
        raise ValueError(f"{len(values) + 1} values")
    values.sort(reverse=True)
    return max(values[1:scale]) - 0.5
'''
CHANGES = {
    "2 to 3", "2 to 1", "operator to or", "operand 0 left out", "operand 1 left out", "condition turned round",
    "< to <=", "< to >=", "3 to 4", "3 to 2", "statement left out", "argument reverse left out", "True to False",
    "max to min", "1 to 2", "1 to 0", "upper bound plus 1", "operator to +", "0.5 to 1.0",
}  # fmt: skip


def test_every_kind_of_change_once():
    """Types, docstrings and messages stay."""
    mutants = mutants_of("share.py", SOURCE)
    assert {mutant.what for mutant in mutants} == CHANGES
    assert len({mutant.id for mutant in mutants}) == len(mutants) == len(CHANGES) + 1  # two statements
    trees = {ast.dump(ast.parse(mutant.apply(SOURCE))) for mutant in mutants}
    assert len(trees - {ast.dump(ast.parse(SOURCE))}) == len(mutants)


def test_a_mutant_is_the_same_wherever_its_function_moves():
    moved = b"import os\n\n\ndef other():\n    return 1\n" + SOURCE
    ids = {mutant.id for mutant in mutants_of("share.py", SOURCE)}
    assert ids < {mutant.id for mutant in mutants_of("share.py", moved)}
    assert not ids & {mutant.id for mutant in mutants_of("other.py", SOURCE)}


def test_a_fork_imports_the_mistake():
    file = "nuwa/pruning/flops.py"
    wrong = [
        m for m in mutants_of(file, (ROOT / file).read_bytes()) if m.scope == "cosine_flops" and m.what == "2 to 3"
    ]
    finder = Mutated(*wrong)
    assert finder.find_spec("nuwa.pruning.masks") is None
    module = module_from_spec(finder.find_spec("nuwa.pruning.flops"))
    module.__spec__.loader.exec_module(module)
    assert (module.cosine_flops(3, 2), flops.cosine_flops(3, 2)) == (54, 18)


def test_forks_give_their_results_and_end_at_their_limit(tmp_path):
    def spin(scratch):
        while True:
            pass

    tasks = [Task("spins", spin, 1), Task("fails", lambda scratch: 1 / 0, 9), Task("works", lambda scratch: [3], 9)]
    results = dict(run(lambda: tasks and tasks.pop(), 2, tmp_path))
    assert results.pop("fails")["error"].endswith("ZeroDivisionError: division by zero\n")
    assert results == {"works": [3], "spins": None}

"""The house itself: imports run one way, a name stands for one thing, files and functions are short and described."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMMON_NAMES = {"main", "log"}
"""Names that every script, and every module with something to say, has its own of."""


def module(path: Path) -> str:
    """``nuwa.models.base``; a package goes by its folder's name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {module(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("nuwa/**/*.py"))}


def imported(nodes) -> set[str]:
    """The package's modules that the import statements among some nodes name."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} & set(TREES) or {node.module}
    return names & set(TREES)


def functions():
    """Every function and method with its place and what it stands in, a module or a class."""
    for name, tree in TREES.items():
        for owner in (tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))):
            for node in (node for node in owner.body if isinstance(node, FUNCTIONS)):
                yield f"{name}:{node.lineno} {node.name}", owner, node


def lines_of(node) -> int:
    return node.end_lineno - node.lineno + 1


def test_imports_between_folders_run_one_way():
    """Those inside functions count, too."""
    graph = defaultdict(set)
    for name, tree in TREES.items():
        for other in imported(ast.walk(tree)):
            room, needed = (".".join(m.split(".")[:2]) for m in (name, other))
            if room != needed and "nuwa" not in (room, needed):
                graph[room].add(needed)
    assert len(graph) > 10
    TopologicalSorter(graph).prepare()  # CycleError names the folders of a circle


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: imported(tree.body) - {name} for name, tree in TREES.items()}
    assert sum(map(len, graph.values())) > 200
    TopologicalSorter(graph).prepare()


def test_a_public_name_stands_for_one_thing():
    places = defaultdict(list)
    for name, tree in TREES.items():
        for node in tree.body:
            found = []
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                found = [node.name]
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found = [x.id for target in targets for x in ast.walk(target) if isinstance(x, ast.Name)]
                found = [constant for constant in found if constant.isupper()]
            for public in found:
                if not public.startswith("_") and public not in COMMON_NAMES:
                    places[public].append(name)
    assert len(places) > 300
    twice = {public: where for public, where in places.items() if len(where) > 1}
    assert not twice, "\n".join(f"{public}: {', '.join(where)}" for public, where in sorted(twice.items()))


def test_files_and_functions_are_short():
    long = [place for place, _, node in functions() if lines_of(node) > 50]
    assert not long, "\n".join(long)
    assert median(len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.glob("nuwa/**/*.py")) <= 120


def test_public_functions_say_what_they_do():
    """A method may leave it to the one it overrides."""
    described = {node.name for _, owner, node in functions() if ast.get_docstring(node) and owner not in TREES.values()}
    silent = [
        place
        for place, owner, node in functions()
        if lines_of(node) > 8 and not node.name.startswith("_") and not ast.get_docstring(node)
        if owner in TREES.values() or node.name not in described
    ]
    assert not silent, "\n".join(silent)

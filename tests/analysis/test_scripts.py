"""The scripts of experiments/analysis run on a toy model and write what they say."""

import csv
import importlib
import json
import sys

import pytest
from helpers.jobs import ROOT, compose

from nuwa.config import run_key
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job

pytest.importorskip("matplotlib")
TOY = [
    "model=llava_1_5_random", "model.layers=4", "model.hidden_size=32", "model.intermediate_size=64",
    "model.vision_hidden_size=32", "model.vision_layers=2", "model.image_size=112", "model.name=toy", "trainer=cpu",
    "dataset.samples=2",
]  # fmt: skip
QUIET = ["budget.average=16", "callbacks=none", "logger=none", "baseline=skip"]


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Imports a script as `python experiments/analysis/<name>.py` does, its results below ``tmp_path``."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments/analysis"))

    def load(name):
        module = importlib.import_module(name)
        for part in (module, sys.modules["common"]):
            if hasattr(part, "RESULTS"):
                monkeypatch.setattr(part, "RESULTS", tmp_path)
        return module

    before = set(sys.modules)
    yield load
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and "experiments/analysis" in str(sys.modules[name].__file__):
            del sys.modules[name]


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("name", "written", "keys"),
    [
        ("attention_flow", ["attention_flow_toy", "gradient_flow_toy"], {"task", "per", "source", "target", "layer"}),
        ("spatial_structure", ["spatial_structure_toy"], {"measure", "part", "layer"}),
        ("text_alignment", ["text_alignment_toy"], {"task", "measure", "layer"}),
        ("registers", ["registers_toy"], {"task", "measure", "layer"}),
    ],
)
def test_surveys(script, tmp_path, name, written, keys):
    script(name).main(TOY)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{w}.{e}" for w in written for e in ("csv", "png")
    )
    for stem in written:
        rows = rows_of(tmp_path / f"{stem}.csv")
        assert set(rows[0]) == keys | {"mean", "error", "n"}
        assert {int(row["layer"]) for row in rows} == set(range(4))


def test_register_neurons_make_a_job(script, tmp_path, capsys):
    """The file that the command writes runs OccamToken with its register, and is part of the run's key."""
    file = tmp_path / "neurons.json"
    command = script("register_neurons").main
    assert command(["--threshold", "1e9", "--write", str(file), *TOY]) == 1
    assert "none of 2 images has a patch with a norm above --threshold 1e+09" in capsys.readouterr().err
    assert command(["--threshold", "1", "--top", "3", "--write", str(file), *TOY]) == 0
    job = compose(*TOY, "pruner=occamtoken", f"pruner.register={file}", f"paths.outputs={tmp_path}", *QUIET)
    result = read_result(run_job(job))
    assert (result["status"], result["n_failed"]) == ("done", 0)
    key = run_key(job)
    file.write_text(file.read_text().replace("[", "[ "))
    assert run_key(job) != key


def test_table_of_blocked_runs(script, tmp_path, capsys):
    runs = tmp_path / "runs"
    for number, (source, layers, right) in enumerate([("text", "2/4", 0.5), (None, "1/1", 0.9), ("text", "1/4", 0.7)]):
        folder = runs / f"run{number}"
        folder.mkdir(parents=True)
        result = {
            "status": "done", "model": "toy", "dataset": "scenes", "n": 4, "metrics": {"vqa/exact_match": right},
            "standard_errors": {"vqa/exact_match": 0.1}, "config": {"blocking": {"source": source, "layers": layers}},
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(result))
    (runs / "failed").mkdir()
    (runs / "failed/result.json").write_text('{"status": "failed"}')
    script("blocking").main(str(runs))
    rows = rows_of(tmp_path / "blocking_toy.csv")
    assert [(row["blocked"], row["layers"], row["vqa/exact_match"]) for row in rows] == [
        ("nothing", "1/1", "0.9"), ("text to vision", "1/4", "0.7"), ("text to vision", "2/4", "0.5")
    ]  # fmt: skip
    assert (tmp_path / "blocking_toy.png").exists() and "text to vision" in capsys.readouterr().out

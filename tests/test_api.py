"""What ``import nuwa`` offers: models and methods by name, saved, and as a run used them."""

import re

import pytest
from helpers.jobs import ROOT, compose, small
from PIL import Image

import nuwa
from nuwa.benchmarks.scenes import Scenes
from nuwa.evaluation.answers import read_answers
from nuwa.evaluation.run import run_job
from nuwa.evaluation.runs import Run
from nuwa.pruners.catalogue import conf_folder

QUESTION = "is there a red circle ?"


def test_the_lines_of_the_page_run_on_the_tiny_model(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/use.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 12 and '"llava_1_5_7b"' in code
    Image.new("RGB", (96, 96), "red").save(tmp_path / "dog.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("llava_1_5_7b", "tiny_llava"), "use.md", "exec"), {})
    assert "of 576 visual tokens" in capsys.readouterr().out


def test_a_model_by_its_name_answers_as_in_a_run(tmp_path):
    """``nuwa run`` loads, encodes and decodes by its config; here by hand."""
    folder = run_job(
        compose("pruner=none", "dataset.samples=2", "callbacks=none", "logger=none", f"paths.outputs={tmp_path}")
    )
    loaded, scenes = nuwa.load_model("tiny_llava", device="cpu"), Scenes(samples=2)
    for number, row in enumerate(read_answers(folder)):
        inputs = loaded.encode([scenes[number]])
        ids = loaded.model.generate(**inputs, max_new_tokens=scenes.max_new_tokens(row["task"]), do_sample=False)
        assert loaded.decode(ids, inputs["input_ids"].shape[1]) == [row["prediction"]]


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("magic", {}, "model/magic"),
        ("tiny_llava", {"pth": 1}, "model.pth: unknown option"),
        ("tiny_llava", {"path": "/no/such/folder"}, "/no/such/folder"),
        ("tiny_llava", {"dtype": "int3"}, "model.dtype"),
    ],
)
def test_models_that_do_not_exist(name, options, named):
    with pytest.raises(ValueError, match=named):
        nuwa.load_model(name, **options)


def test_methods_are_the_files_of_conf():
    assert nuwa.list_pruners() == sorted(path.stem for path in conf_folder().glob("pruner/*.yaml"))


@pytest.mark.parametrize("name", nuwa.list_pruners())
def test_a_saved_method_is_the_same(name, tmp_path):
    for budget in (64, nuwa.Budget(ratio=0.25), None):
        pruner = nuwa.load_pruner(name, budget, seed=3)
        pruner.save(tmp_path / "mine.yaml")
        assert nuwa.load_pruner(tmp_path / "mine.yaml") == pruner


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("a: [", "no YAML"),
        ("name: nuwa", "no saved method"),
        ("pruner: {_target_: os.system}\nbudget: {}\nseed: 0", "os.system"),
        ("pruner: {_target_: nuwa.pruners.nuwa.Nuwa, d_tresh: 1}\nbudget: {}\nseed: 0", "pruner.d_tresh"),
        ("pruner: {_target_: nuwa.pruners.nuwa.Nuwa}\nbudget: {average: -1}\nseed: 0", "budget.average"),
    ],
)
def test_files_that_are_no_saved_method(content, named, tmp_path):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(ValueError, match=named):
        nuwa.load_pruner(tmp_path / "mine.yaml")


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(OSError, match=r"away\.yaml"):
        nuwa.load_pruner(tmp_path / "away.yaml")
    with pytest.raises(ValueError, match="no finished run"):
        nuwa.load_pruner(run=tmp_path)
    for given in ({}, {"name": "nuwa", "run": tmp_path}):
        with pytest.raises(ValueError, match="one of them"):
            nuwa.load_pruner(**given)
    with pytest.raises(ValueError, match=r"dataclasses\.replace"):
        nuwa.load_pruner("mine.yaml", budget=3)


def test_the_method_of_a_run_is_the_one_it_used(tmp_path):
    """One that was fitted has the value that was found."""
    folder = run_job(small(tmp_path, "pruner=nuwa", "pruner.d_thresh=18", "seed=2", "baseline=skip"))
    assert nuwa.load_pruner(run=folder) == nuwa.load_pruner("nuwa", budget=16, d_thresh=18, seed=2)
    fitted = run_job(small(tmp_path, "pruner=prumerge", "pruner.adaptive=true", "baseline=skip", "budget.samples=6"))
    option, value = (Run.read(fitted).fitted[key] for key in ("option", "value"))
    expected = nuwa.load_pruner("prumerge", adaptive=True, **{option: value})
    assert nuwa.load_pruner(run=fitted) == expected != nuwa.load_pruner("prumerge", adaptive=True)

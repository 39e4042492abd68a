"""An exported run, as Python and as a config file, finds the answers of its journal."""

import pytest
from helpers.jobs import CONF, compose, small
from hydra import compose as compose_here
from hydra import initialize_config_dir
from omegaconf import open_dict
from PIL import Image

import nuwa
from nuwa import export
from nuwa.benchmarks.scenes import Scenes
from nuwa.config import register, run_key
from nuwa.evaluation.answers import read_answers
from nuwa.evaluation.check import build_pruner
from nuwa.evaluation.recorded import config_of_run, pruner_of_run
from nuwa.evaluation.run import run_job

RUNS = [
    ("pruner=nuwa", "pruner.d_thresh=18", "position=perc"),
    ("pruner=random", "seed=3", "budget.average=null", "budget.ratio=0.25", "limit=2"),
    ("pruner=none", "budget.average=null", "blocking=text_to_vision", "generation=beam", "generation.max_new_tokens=3"),
    ("pruner=visionzip", "coordinates=grid", "calibration=size", "dataset.tasks=[vg]"),
    ("pruner=prumerge", "pruner.adaptive=true", "budget.samples=3"),
]


@pytest.mark.parametrize("overrides", RUNS, ids=lambda overrides: overrides[0])
def test_the_lines_find_the_same_answers(overrides, tmp_path):
    folder = run_job(small(tmp_path, "baseline=skip", "dataset.samples=3", *overrides))
    assert export.main([str(folder), "--out", str(tmp_path / "again")]) == 0
    printed = []
    code = (tmp_path / "again" / f"{folder.name}.py").read_text(encoding="utf-8")
    exec(compile(code, "again.py", "exec"), {"print": lambda *words: printed.append(words)})
    assert printed and dict(printed) == {row["id"]: row["prediction"] for row in read_answers(folder)}


def test_a_run_by_vllm_draws_at_random_as_it_did():
    """By the pictures, not by their names; tests/serve/test_vision.py has that vLLM lets in what a session does so."""
    cfg = compose("trainer=vllm", "pruner=random", "dataset.samples=4", "dataset.tasks=[vg]")
    loaded, benchmark, pruner = nuwa.load_model("tiny_llava"), Scenes(samples=4, tasks=("vg",)), build_pruner(cfg)
    expected, printed = [], []
    for index in range(4):
        inputs = loaded.encode([benchmark[index]])
        with nuwa.prune(loaded.model, pruner):
            ids = loaded.model.generate(**inputs, max_new_tokens=32)
        expected.append((benchmark[index].id, *loaded.decode(ids, inputs["input_ids"].shape[1])))
    exec(compile(export.as_python(cfg, pruner), "again.py", "exec"), {"print": lambda *words: printed.append(words)})
    assert printed == expected


def test_options_that_are_records_are_imported(tmp_path):
    """As the frames of ``dataset=local``."""
    Image.new("RGB", (96, 96), "red").save(tmp_path / "a.png")
    (tmp_path / "data.jsonl").write_text('{"image": "a.png", "question": "is it red ?", "answer": "yes"}')
    local = ("dataset=local", f"dataset.path={tmp_path}", "baseline=skip", "callbacks=none", "logger=none")
    folder = run_job(compose("model=tiny_llava", "frames=uniform8", *local, f"paths.outputs={tmp_path / 'out'}"))
    code, printed = export.as_python(config_of_run(folder)[0], pruner_of_run(folder)), []
    exec(compile(code, "again.py", "exec"), {"print": lambda *words: printed.append(words)})
    assert printed == [(row["id"], row["prediction"]) for row in read_answers(folder)] and "Config(count=8" in code


@pytest.mark.parametrize("overrides", RUNS, ids=lambda overrides: overrides[0])
def test_the_file_is_the_same_run(overrides, tmp_path):
    (tmp_path / "again.yaml").write_text(export.as_yaml(compose(*overrides), "again"))
    register()
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        cfg = compose_here("again", [f"hydra.searchpath=[file://{CONF}]"])
    assert run_key(cfg) == run_key(compose(*overrides))


def test_what_is_printed_is_what_is_written(tmp_path, capsys):
    folder = run_job(small(tmp_path, "baseline=skip", "dataset.samples=1", "generation=sample"))
    assert export.main([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "tokens are drawn at random" in printed and f"--config-name={folder.name}" in printed
    assert export.main([str(folder), "--out", str(tmp_path / "again")]) == 0
    written = [(tmp_path / "again" / f"{folder.name}.{ending}").read_text() for ending in ("yaml", "py")]
    assert printed == "\n".join(written)


def test_a_model_that_conf_does_not_have(tmp_path, capsys):
    cfg = small(tmp_path, "baseline=skip", "dataset.samples=1")
    with open_dict(cfg):
        cfg.model.name = "mine"
    assert export.main([str(run_job(cfg))]) == 1
    assert "error: model.name=mine: conf/model has no such file" in capsys.readouterr().err

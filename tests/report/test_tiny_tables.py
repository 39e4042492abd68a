"""The page of the tiny tables: what it runs, and what it makes of results."""

import importlib.util

from helpers.jobs import ROOT, compose
from helpers.made_up import result, write

from nuwa.evaluation.runs import collect, find_runs


def script():
    spec = importlib.util.spec_from_file_location("tiny_tables", ROOT / "experiments" / "tiny_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_commands_compose(tmp_path):
    tiny = script()
    for experiment in tiny.TABLES.values():
        words = tiny.command(experiment, 100, 1, tmp_path)[2:]
        cfg = compose(*words)
        assert (cfg.name, cfg.dataset.samples, cfg.paths.outputs) == (tiny.NAME, 100, str(tmp_path))


def test_runs_of_another_size_are_left_out(tmp_path, monkeypatch):
    """All runs lie below one name, however many scenes they have seen."""
    tiny = script()
    runs = [result("nuwa", {"vqa/exact_match": 0.5}, "scenes", average=64, run_key=str(n)) for n in (100, 1000)]
    for run, samples in zip(runs, (100, 1000), strict=True):
        run["config"]["dataset"]["samples"] = samples
    write(tmp_path / tiny.NAME, runs)
    monkeypatch.setattr(tiny, "run_tables", lambda *_: 0.0)
    seen = []
    monkeypatch.setattr(tiny, "write_page", lambda runs, *_: seen.append(runs))
    for samples in (100, 1000, 7):
        assert tiny.main(["--samples", str(samples), "--outputs", str(tmp_path)]) == (samples == 7)
    assert [[run.config["dataset"]["samples"] for run in runs] for runs in seen] == [[100], [1000]]


def test_page(tmp_path):
    tiny = script()
    kept = {name: {"value": 0.9, "low": 0.8, "high": 0.95} for name in ("vqa/exact_match", "vg/acc@0.5")}
    common = {"dataset": "scenes", "model": "tiny_llava", "retention": kept, "environment": {"git_commit": "abc"}}
    scores = {"vqa/exact_match": 0.8, "vg/acc@0.5": 0.4}
    runs = [
        result("none", scores, **common), result("nuwa", scores, average=64, **common),
        result("visionzip", scores, average=64, **common),
        result("prumerge_plus", {}, average=64, status="failed", reason="no such layer", **common),
    ]  # fmt: skip
    results = collect(find_runs(write(tmp_path / "runs", runs)))
    page = tiny.write_page(results, tmp_path / "page", tiny.conditions(results, 100, 2, 3.0))
    text = page.read_text(encoding="utf-8")
    assert (
        "commit abc" in text and "no such layer" in text and "| nuwa:d_thresh=280 | 64 | 90.0 [80.0, 95.0] / 9" in text
    )
    pictures = [part.split(")")[0] for part in text.split("](plots/")[1:]]
    assert pictures and all((tmp_path / "page" / "plots" / picture).is_file() for picture in pictures)
    assert (tmp_path / "page" / "runs.csv").read_text(encoding="utf-8").count("\n") == 5

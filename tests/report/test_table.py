"""The table says what differs between runs, what each found, and why some found nothing."""

import csv
import io
import json
import re

import pytest
from helpers.made_up import result as made_up
from helpers.made_up import row, runs_of, write

from nuwa.evaluation.result import write_result
from nuwa.evaluation.runs import collect, find_runs
from nuwa.report.__main__ import main
from nuwa.report.tables.formats import markdown_text
from nuwa.report.tables.latex import latex_text
from nuwa.report.tables.runs import runs_section, runs_sections


def rows_of(results, **options):
    """The rows as they are printed."""
    section = runs_section(runs_of(results), "", **options)
    return section.texts(section.rows)


def result(method, score, **pruner):
    target = {"none": "none.KeepAll", "nuwa": "nuwa.Nuwa", "fastv": "fastv.FastV"}[method]
    return {
        "status": "done",
        "method": method,
        "config": {"pruner": {"_target_": f"nuwa.pruners.{target}", **pruner}, "budget": {"average": 64.0}, "seed": 0},
        "n": 10,
        "n_failed": 0,
        "metrics": {"vqa/exact_match": score, "vg/acc@0.5": score / 2, "vg/miou": 0.1},
        "standard_errors": {"vqa/exact_match": 0.01, "vg/acc@0.5": 0.02, "vg/miou": 0.01},
        "retention": {"vqa/exact_match": {"value": 0.5, "low": 0.4, "high": 0.6}},
        "tokens_entering": 64.0,
        "llm_tflops": 0.6476,
        "timings": {"seconds_per_sample": 0.1},
    }


@pytest.fixture
def runs(tmp_path):
    failed = {"status": "failed", "reason": "a | b [bold]", "config": result("nuwa", 0, d_thresh=9.0)["config"]}
    results = [result("nuwa", 0.5, d_thresh=280.0), result("nuwa", 0.4, d_thresh=18.0), failed, result("none", 0.9)]
    for number, content in enumerate(results):
        (tmp_path / f"run{number}").mkdir()
        write_result(tmp_path / f"run{number}", content)
    (tmp_path / "run9").mkdir()
    (tmp_path / "run9" / "predictions.jsonl").write_text(json.dumps(row("a")) + '\n{"torn')
    return tmp_path


def test_rows(runs):
    section = runs_section(collect(find_runs(runs)), "")
    rows = section.texts(section.rows)
    assert [row["method"] for row in rows] == ["none", "?", "nuwa", "nuwa", "nuwa"]
    assert [row["d_thresh"] for row in rows] == ["", "", "9", "18", "280"]
    assert [row["status"] for row in rows] == ["done", "unfinished", "failed", "done", "done"]
    assert rows[1]["reason"] == "1 samples computed, no result yet"
    assert rows[0]["vqa/exact_match"] == "0.900 ±0.010" and rows[0]["vqa retained"] == "50.0% [40.0%, 60.0%]"
    assert "vg/acc@0.5" in rows[0] and "vg/miou" not in rows[0] and "seed" not in rows[0]


def test_runs_scored_by_other_rules_are_told_apart():
    rows = rows_of([result("nuwa", 0.5), result("nuwa", 0.4) | {"protocol": 2}])
    assert [row["protocol"] for row in rows] == ["1", "2"] and "protocol" not in rows_of([result("nuwa", 0.5)])[0]


def test_full_rows(runs, capsys):
    sure = result("fastv", 0.0) | {"intervals": {"vqa/exact_match": [0.0, 0.278]}}
    costs = {"tokens_leaving": 47.0, "metric_mflops": 4.7186}
    (row,) = rows_of([sure | costs], full=True)
    assert row["vqa/exact_match"] == "0.000 [0.000, 0.278]" and row["vg/acc@0.5"] == "0.000 ±0.020"
    assert (row["tokens"], row["leaving"], row["metric MFLOPs"]) == ("64.0", "47.0", "4.72") and "s/sample" not in row
    assert main([str(runs), "--full", "--format", "markdown"]) == 0
    assert "metric MFLOPs" not in capsys.readouterr().out  # empty columns are not shown
    with pytest.raises(SystemExit):
        main([str(runs), "--full", "--expected", "table5"])


def test_values_of_a_choice_side_by_side(capsys):
    def run(method, score, position, **more):
        found = result(method, score) | more
        return found | {"config": {**found["config"], "position": {"strategy": position}}}

    failed = {"status": "refused", "reason": "no", "metrics": {}, "standard_errors": {}}
    results = [run("fastv", 0.5, "native"), run("fastv", 0.25, "rpme"), run("nuwa", 0.1, "rpme", **failed)]
    rows = rows_of([run("none", 0.9, "native"), *results], full=True, choice="position")
    assert [row["method"] for row in rows] == ["none", "fastv", "nuwa"]
    assert (rows[1]["vqa/exact_match, pesp"], rows[1]["vg/acc@0.5, rpme"]) == ("0.500 ±0.010", "0.125 ±0.020")
    assert rows[0]["vqa/exact_match, rpme"] == "" and rows[1]["tokens"] == "64.0" and rows[1]["LLM TFLOPs"] == "0.6476"
    assert (rows[2]["status"], rows[2]["reason"], rows[2]["vqa/exact_match, rpme"]) == ("refused", "no", "")
    with pytest.raises(ValueError, match="--beside budget: runs differ in position only"):
        rows_of(results, choice="budget")


def test_answers_that_could_not_be_read_stand_beside_their_scores(tmp_path, capsys):
    def run(method, parsed, **more):
        metrics = {"pope/f1_score": 1.0, "pope/parsed": parsed, "pope/f1_score/random": 1.0}
        return result(method, 0.5, **more) | {"metrics": metrics}

    whole, half = run("none", 1.0), run("nuwa", 0.5)
    assert [row["pope unread"] for row in rows_of([whole, half])] == ["", "50.0%"]
    assert "pope unread" not in runs_section(runs_of([whole]), "").columns
    assert "vqa unread" not in runs_section(runs_of([result("nuwa", 0.5)]), "").columns
    others = [run("nuwa", 0.75, d_thresh=9.0), run("nuwa", 0.5, d_thresh=18.0)]
    (row,) = rows_of(others, choice="d_thresh")
    assert row["pope unread"] == "25.0% / 50.0%"
    write_result(tmp_path, half | {"run_key": "run0"})
    main([str(tmp_path), "--expected", "table5"])
    assert "answers that could not be read: nuwa pope 50.0% (run0)" in capsys.readouterr().out


def test_formats(runs, capsys):
    section = runs_section(collect(find_runs(runs)), "")
    assert "a | b [bold]" in section.text("markdown")
    assert "a &lt;b>x&lt;/b> \\| &amp; c |" in markdown_text([{"one": "a <b>x</b>\n| & c"}], ["one"], ["<script>\nx"])
    assert markdown_text([{"one": ""}], ["one"], ["<script>\nx"]).endswith("\n\n&lt;script> x")
    assert markdown_text([{"a|<b": ""}], ["a|<b"]).startswith("| a\\|&lt;b |\n")
    assert r"\textless{}b\textgreater{} \textbar{} \_" in latex_text([{"one": "<b> | _"}], ["one"])
    assert next(csv.DictReader(io.StringIO(section.text("csv"))))["method"] == "none"
    for form in ("table", "markdown", "csv"):
        assert main([str(runs), "--format", form]) == 0
        assert "a " in (printed := capsys.readouterr().out) and "[bold]" in printed


def test_an_empty_folder_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "no runs below" in capsys.readouterr().err


def test_beside_names_the_costs_of_all_and_runs_without_the_choice():
    small, large = result("nuwa", 0.5), result("nuwa", 0.6)
    large["config"]["budget"] = {"average": 192.0}
    large |= {"tokens_entering": 192.0, "llm_tflops": 1.95}
    whole = result("none", 0.9)
    whole["config"]["budget"] = {"average": None}
    runs = [{"run_key": str(i)} | run for i, run in enumerate((small, large, whole))]
    first, second = rows_of(runs, choice="budget")
    assert first["vqa/exact_match"] == "0.900 ±0.010" and first["vqa/exact_match, 192"] == ""
    assert (second["vqa/exact_match, 64"], second["vqa/exact_match, 192"]) == ("0.500 ±0.010", "0.600 ±0.010")
    assert (second["tokens"], second["LLM TFLOPs"], second["n"]) == ("64.0 / 192.0", "0.6476 / 1.95", "10")


def test_runs_that_were_cut_short_all_stand_beside(runs):
    cut = [{"run_key": name, "status": "unfinished", "reason": "cut"} for name in "ab"]
    section = runs_section([*collect(find_runs(runs)), *runs_of(cut)], "", choice="d_thresh")
    rows = section.rows
    assert [row["run"] for row in rows if row["status"] == "unfinished"] == ["run9", "a", "b"]


def test_choices_of_one_model_and_of_one_name_stay_apart():
    runs = [result("nuwa", score) for score in (0.1, 0.2, 0.3, 0.4, 0.5)]
    scenes = {"name": "scenes", "seed": 0}
    models = [{"name": "small", "dtype": "float32"}, {"name": "small", "dtype": "bfloat16"}, {"name": "large"}]
    for run, model in zip(runs, [*models, models[0], models[0]], strict=True):
        run["config"] |= {"model": model, "dataset": scenes}
    runs[3]["config"]["seed"] = 1
    runs[4]["config"]["dataset"] = scenes | {"seed": 1}
    rows = rows_of(runs)
    choices = [(row["model"], row["dtype"], row["seed"], row["dataset.seed"]) for row in rows]
    assert len(set(choices)) == 5
    assert ("small", "float32", "0", "1") in choices and ("small", "float32", "1", "0") in choices


def test_runs_on_other_frames_of_videos_say_in_what_they_differ():
    runs = [result("nuwa", 0.9), result("nuwa", 0.5)]
    for run, count in zip(runs, (8, 32), strict=True):
        run["config"] |= {"dataset": {"name": "videomme", "frames": {"count": count, "fps": None, "time": "absolute"}}}
    rows = rows_of(runs)
    assert [row["frames.count"] for row in rows] == ["8", "32"] and not {"frames.time", "seed"} & set(rows[0])


def test_methods_on_different_data_say_so():
    runs = [result("none", 0.9), result("nuwa", 0.5)]
    for run, name in zip(runs, ("easy", "hard"), strict=True):
        run["config"] |= {"dataset": {"name": name}}
    assert [row["dataset"] for row in rows_of(runs)] == ["easy", "hard"]


def test_no_error_is_zero_and_every_row_has_its_key():
    """Where all samples agree a bootstrap sees no spread: the interval stands there, or nothing if there is none."""
    sure = result("nuwa", 1.0) | {"run_key": "0123456789ab", "intervals": {"vqa/exact_match": [0.72, 1.0]}}
    sure["standard_errors"] |= {"vqa/exact_match": 0.0, "vg/acc@0.5": 0.0}
    section = runs_section(runs_of([sure]), "")
    (shown,) = section.texts(section.rows)
    assert (shown["vqa/exact_match"], shown["vg/acc@0.5"]) == ("1.000 [0.720, 1.000]", "0.500")
    assert shown["run"] == "0123456789ab" and section.columns[-1] == "run"


@pytest.fixture
def several():
    """Two models and two data sets, with position ids in one model's runs alone."""
    metrics = {"vqa/exact_match": 0.8, "vg/acc@0.5": 0.5}
    kept = {name: {"value": 0.9, "low": 0.812, "high": 1.0} for name in metrics}
    places = [("small", "scenes"), ("small", "gqa"), ("large", "scenes")]
    runs = [
        made_up(method, metrics, dataset, model, average, retention=kept, run_key=f"{number}{average or 0:011d}")
        for number, (model, dataset) in enumerate(places)
        for method, average in (("none", None), ("nuwa", 64), ("nuwa", 128))
    ]
    options = {"position": "perc", "retention": kept, "run_key": "3" * 12}
    return [*runs, made_up("nuwa", metrics, "scenes", "large", 64, **options)]


def test_every_model_and_data_set_has_a_table(several):
    sections = runs_sections(runs_of(several), "outputs/main")
    titles = ["outputs/main: small, scenes", "outputs/main: small, gqa", "outputs/main: large, scenes"]
    assert [section.title for section in sections] == titles
    assert [len(section.rows) for section in sections] == [3, 3, 4]
    assert not any({"model", "dataset"} & set(section.columns) for section in sections)
    assert ["position" in section.columns for section in sections] == [False, False, True]
    assert [section.keys for section in sections] == [2, 2, 3]
    beside = runs_sections(runs_of(several), "main", choice="model")
    assert [section.title for section in beside] == ["main: scenes", "main: gqa"]
    assert "vqa/exact_match, large" in beside[0].columns
    by_ids = runs_sections(runs_of(several), "main", choice="position")
    assert ["vqa/exact_match, perc" in section.columns for section in by_ids] == [False, False, True]
    with pytest.raises(ValueError, match="--beside seed: runs differ in"):
        runs_sections(runs_of(several), "main", choice="seed")


def test_a_spreadsheet_gets_one_table(several, tmp_path, capsys):
    assert main([str(write(tmp_path, several)), "--format", "csv"]) == 0
    rows = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert len(rows) == len(several) and {row["model"] for row in rows} == {"small", "large"}


@pytest.mark.parametrize("columns", [80, 100, 120, 200])
def test_no_cell_is_broken_on_a_terminal(several, tmp_path, capsys, monkeypatch, columns):
    """Each row is a line, in tables one below the other that all begin with what it is about."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("COLUMNS", str(columns))
    folder = write(tmp_path, several)
    capsys.readouterr()
    assert main([str(folder)]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= columns
    body = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert all(cells[0] in ("none", "nuwa") for cells in body)
    shown = {cell for cells in body for cell in cells}
    assert {"0.800 ±0.010", "90.0% [81.2%, 100.0%]", "3" * 12} <= shown
    blocks = len(body) / len(several)
    assert blocks == int(blocks) and (blocks > 1) == (columns < 200)


def test_parts_stand_behind_their_metric_and_only_if_asked_for(tmp_path, capsys):
    metrics = {"read/exact_match": 0.5, "read/exact_match/small": 0.25, "read/exact_match/large": 0.75,
               "read/parsed": 1.0, "vqa/exact_match": 0.9}  # fmt: skip
    kept = {name: {"value": value, "low": value, "high": value} for name, value in metrics.items()}
    write(tmp_path, [made_up("nuwa", metrics, "plates", "tiny_text", 64, retention=kept)])
    for options in ([], ["--parts"]):
        assert main([str(tmp_path), "--format", "csv", *options]) == 0
        (found,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
        parts = ["read/exact_match/small", "read/exact_match/large"] if options else []
        names = ["read/exact_match", *parts, "vqa/exact_match"]
        assert [name for name in found if "/exact" in name] == names
        told = {name: found[name] for name in found if name.endswith("retained")}
        more = {"read small retained": "25.0%", "read large retained": "75.0%"} if options else {}
        assert told == {"read retained": "50.0%", "vqa retained": "90.0%"} | more
    assert main([str(tmp_path), "--format", "latex", "--parts"]) == 0
    printed = capsys.readouterr().out
    assert r"\shortstack{reading \\ exact match \\ small}" in printed and "25.0" in printed


def test_parts_side_by_side(tmp_path, capsys):
    both = {"read/exact_match": 0.5, "read/exact_match/small": 0.25}
    write(tmp_path, [made_up("nuwa", both, "plates", "tiny_text", 64, position=ids) for ids in ("perc", "pesp")])
    assert main([str(tmp_path), "--format", "csv", "--parts", "--beside", "position"]) == 0
    (found,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert {"read/exact_match/small, perc", "read/exact_match/small, pesp"} < set(found)

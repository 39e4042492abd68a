"""The printed tables are whole, and shown as they are printed."""

import csv
import io

import pytest
from helpers.made_up import result, write

from nuwa.report.__main__ import main
from nuwa.report.paper import printed
from nuwa.report.paper.printed import load_table, printed_benchmark, table_names


def row(table, method, tokens):
    return next(r for r in load_table(table).rows if (r.method, r.tokens) == (method, tokens))


def test_every_number_is_there():
    """1,218 of them; Tables 7, 8 and 15 get their unpruned row from Tables 5 and 6."""
    assert sum(len(r.cells) for name in table_names() for r in load_table(name).rows) == 1218 + 7 + 7 + 3


def test_every_number_is_shown(capsys, tmp_path):
    """As printed, and beside runs, where a number that nothing here can have is named as such."""
    assert main(["--expected", "all", "--format", "csv"]) == 0
    shown = {}
    for part in capsys.readouterr().out.split("\n\n"):
        lines = list(csv.DictReader(io.StringIO(part)))
        columns = [name for name in lines[0] if name not in ("model", "tokens", "method")]
        shown[len(shown)] = sum(line[name] != "" for line in lines for name in columns)
    assert len(shown) == len(table_names()) and sum(shown.values()) == 1218 + 17
    runs = write(tmp_path, [result("none", {"gqa/exact_match": 0.62})])
    assert main([str(runs), "--expected", "all", "--format", "csv"]) == 0
    cells = capsys.readouterr().out
    summaries = sum(column in ("retention_avg", "score_avg") for name in table_names()
                    for r in load_table(name).rows for column in r.cells)  # fmt: skip
    lines = [line for line in csv.reader(io.StringIO(cells)) if line and line[0] in table_names()]
    assert len(lines) == 1218 + 17 - summaries
    states = {line[3]: line[-2] for line in lines if line[0] == "flashvid_video"}
    assert states["flashvid"] == states["visionzip"] == "missing"


@pytest.mark.parametrize(
    ("table", "method", "tokens", "column", "value"),
    [  # as the paper prints them
        ("table1", "sparsevlm", "64", "scienceqa_img", 69.8),
        ("table3", "visionzip+rpme", "128", "refcoco_test", 21.39),
        ("table5", "nuwa", "192", "vqav2", 75.9),
        ("table6", "sparsevlm", "128", "refcoco+_testB", 4.22),
        ("table7", "nuwa:d_thresh=1058", "64", "refcocog_test", 20.54),
        ("table8", "nuwa:region=1,pillar=1,random_stage2=0", "128", "mme", 1828),
        ("table13", "nuwa", "25%", "refcocog_test", 73.96),
    ],
)
def test_numbers(table, method, tokens, column, value):
    assert row(table, method, tokens).cells[column] == value


def test_columns_have_tasks_and_known_metrics():
    assert {printed_benchmark(name).task for name in load_table("table5").columns[:-1]} == {"vqa"}
    assert {printed_benchmark(name).task for name in load_table("table6").columns[:-1]} == {"vg"}
    assert printed_benchmark("llm_tflops").allowed(5.973) == pytest.approx(0.011946)
    assert printed_benchmark("prefill_ms_a100").known and not printed_benchmark("egoschema").known
    videos = [name for name in load_table("flashvid_video").columns if printed_benchmark(name).task == "video"]
    assert videos == ["videomme", "egoschema", "longvideobench", "mvbench"]  # their mean is the printed one
    vanilla = row("flashvid_video", "vanilla", "100%").cells
    assert vanilla["score_avg"] == pytest.approx(sum(vanilla[name] for name in videos) / 4, abs=0.05)


def test_commands(capsys):
    assert main(["--expected", "table7"]) == 0 and "62.0275" in capsys.readouterr().out
    assert main(["--expected", "table99"]) == 1 and "table99: no such table" in capsys.readouterr().err
    for wrong in (
        [],
        ["outputs", "--check"],
        ["--expected", "table5", "--check"],
        ["--expected", "table5", "--plots", "x"],
    ):
        with pytest.raises(SystemExit):
            main(wrong)


def test_an_installed_wheel_says_what_it_lacks(monkeypatch, tmp_path):
    monkeypatch.setattr(printed, "EXPECTED", tmp_path)
    for cached in (printed._yaml, load_table):
        monkeypatch.setattr(printed, cached.__name__, cached.__wrapped__)
    with pytest.raises(ValueError, match="part of a clone, not of the wheel"):
        printed.load_table("table5")


def test_an_unknown_table_is_named():
    with pytest.raises(ValueError, match="table99"):
        load_table("table99")

"""Tables for papers, read back cell by cell."""

import re

import pytest
from helpers.made_up import result, runs_of, write

from nuwa.report.__main__ import main
from nuwa.report.tables.latex import latex_text
from nuwa.report.tables.publication import publication_sections

VQA, VG = "vqa/exact_match", "vg/acc@0.5"


def scenes(method, value, average=None, **extra):
    metrics = {VQA: value, VG: value / 2}
    kept = {
        name: {"value": metrics[name] / (0.9 if name == VQA else 0.45), "low": 0.1, "high": 1.0} for name in metrics
    }
    more = {"standard_errors": {VQA: 0.0123, VG: 0.0}, "retention": kept, "llm_tflops": 0.00064}
    return result(method, metrics, "scenes", "tiny_llava", average, **more | extra)


RUNS = [
    scenes("none", 0.9),
    scenes("visionzip", 0.6, 64, position="perc"),
    scenes("nuwa", 0.8, 64),
    scenes("fastv", 0.7, 64),
    scenes("fastv", 0.85, 128, n_failed=2, run_key="0123456789ab"),
    scenes("dart", 0.5, 64, status="refused", reason="no 50% & _x"),
]


def read(text):
    """Columns, and the rows of the body: headings of groups as texts, others as cells."""
    layout = re.search(r"\\begin\{tabular\}\{(.*)\}\n", text)[1]
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    lines = [line.removesuffix(r" \\") for line in body.splitlines() if line and line != r"\midrule"]
    rows = [re.search(r"\\emph\{(.*)\}\}", line)[1] if "multicolumn" in line else line.split(" & ") for line in lines]
    return layout, rows[0], rows[1:]


@pytest.fixture
def table():
    (section,) = publication_sections(runs_of(RUNS))
    return section.text("latex")


def test_a_table_of_runs(table):
    layout, head, rows = read(table)
    assert head == [
        "{Method}", "{Position ids}", "{Tokens}", "{GFLOPs}", r"{\shortstack{questions \\ exact match}}",
        r"{\shortstack{questions \\ exact match \\ kept}}", r"{\shortstack{grounding \\ accuracy at IoU 0.5}}",
        r"{\shortstack{grounding \\ accuracy at IoU 0.5 \\ kept}}",
    ]  # fmt: skip
    number = "S[table-format={}]".format
    assert layout == "ll" + "".join(map(number, ("3.1", "1.3", "2.1(2)", "3.1", "2.1", "3.1")))
    assert rows == [
        "all tokens",
        ["Unpruned", "", "576.0", "0.640", r"90.0 \pm 1.2", "100.0", "45.0", "100.0"],
        "128 tokens",
        ["FastV", "PESP", "128.0", "0.640", r"85.0 \pm 1.2", "94.4", "42.5", "94.4"],
        "64 tokens",
        ["FastV", "PESP", "64.0", "0.640", *map(underlined, (r"70.0 \pm 1.2", "77.8", "35.0", "77.8"))],
        ["Nüwa", "PESP", "64.0", "0.640", *map(r"\bfseries {}".format, (r"80.0 \pm 1.2", "88.9", "40.0", "88.9"))],
        ["VisionZip", "PERC", "64.0", "0.640", r"60.0 \pm 1.2", "66.7", "30.0", "66.7"],
    ]


def underlined(number):
    return rf"{{\underline{{\num{{{number}}}}}}}"


def test_what_is_around_it(table):
    assert r"\caption{Tiny-LLaVA on scenes: scores in percent $\pm$ their standard errors" in table
    assert table.count(r"\begin") == table.count(r"\end") == 2 and r"\label{tab:tiny-llava-on-scenes}" in table
    notes = [line for line in table.splitlines() if line.startswith("% ")][1:]
    refused = next(run for run in RUNS if run["status"] == "refused")
    assert notes == [
        f"% {refused['run_key']}: refused: no 50% & _x", "% 0123456789ab: 2 samples failed",
        "% FastV: arXiv 2403.06764", "% Nüwa: arXiv 2602.02951", "% VisionZip: arXiv 2412.04467",
    ]  # fmt: skip


def test_options_and_tasks_stay_apart():
    """Tasks of one metric have a column each, many of them a table more for what is kept; points are no percent."""
    tasks = {f"{task}/exact_match": 0.5 for task in ("order", "count", "change", "moment")}
    kept = {"retention": {name: {"value": 0.75} for name in tasks}}
    clips = [result("nuwa", tasks, "clips", "tiny_video", 64, options={"d_thresh": d}, **kept) for d in (18.0, 280.0)]
    mme = result("nuwa", {"mme/total_score": 1800.0}, "mme", "llava_1_5_7b", 64, standard_errors={})
    scores, shares, points = publication_sections(runs_of([*clips, mme]))
    names = [f"{name.partition('/')[0]}, exact match" for name in tasks]
    about = ["Budget", "Method", "Position ids", "d_thresh", "Tokens", "TFLOPs"]
    assert scores.columns == about + names and shares.columns == about + [f"{name}, kept" for name in names]
    assert [row["d_thresh"] for row in scores.rows] == [18.0, 280.0]
    assert r"\label{tab:tiny-video-on-clips}" in scores.text("latex")
    assert r"\label{tab:tiny-video-on-clips-kept}" in shares.text("latex")
    assert points.rows[0]["total score"] == "1800.0" and "percent or points" in points.title


def test_equal_numbers_are_equally_bold():
    rows = [{"m": name, "v": value} for name, value in (("a", "2.0"), ("b", "2.0"), ("c", "-10.0"), ("d", ""))]
    layout, _, body = read(latex_text(rows, ["m", "v"], ranked=["v"]))
    assert [cells[1] for cells in body] == [r"\bfseries 2.0", r"\bfseries 2.0", underlined("-10.0"), ""]
    assert layout == "lS[table-format=-2.1]"
    _, _, body = read(latex_text([{"v": "2.0 ±0.5"}, {"v": "2.0 ±0.1"}, {"v": "1.0"}], ["v"], ranked=["v"]))
    assert [cells[0] for cells in body] == [r"\bfseries 2.0 \pm 0.5", r"\bfseries 2.0 \pm 0.1", underlined("1.0")]
    assert r"\bfseries" not in latex_text(rows[:1], ["m", "v"], ranked=["v"])  # nothing to compare with


def test_texts_are_no_numbers():
    layout, head, body = read(latex_text([{"a_b": "1 (1 failed)", "n": "3"}, {"a_b": "50%", "n": ""}], ["a_b", "n"]))
    assert layout == "lS[table-format=1]" and head == [r"{a\_b}", "{n}"] and body[1] == [r"50\%", ""]


def test_no_text_is_an_option_of_the_line_before():
    for text, written in (("[2pt] a", "{[}2pt] a"), ("*a", "{*}a")):
        _, _, body = read(latex_text([{"m": "b"}, {"m": text}], ["m"]))
        assert body == [["b"], [written]]


def test_the_command(tmp_path, capsys):
    folder = str(write(tmp_path, RUNS))
    assert main([folder, "--format", "latex"]) == 0
    assert r"\emph{64 tokens}" in capsys.readouterr().out
    assert main([folder, "--format", "latex", "--full"]) == 0
    printed = capsys.readouterr().out
    assert r"vqa/exact\_match" in printed and r"\emph" not in printed
    assert main([str(write(tmp_path / "none", RUNS[-1:])), "--format", "latex"]) == 0
    assert "no 50% & _x" in capsys.readouterr().out

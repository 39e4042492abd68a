"""Ours beside the paper's: which run stands for which printed cell, and what a check makes of it."""

import csv
import io

import pytest
from helpers.made_up import result, runs_of, write

from nuwa.report.__main__ import main
from nuwa.report.figures.points import points_of
from nuwa.report.paper.cost import cost_rows
from nuwa.report.paper.matching import match_paper
from nuwa.report.paper.printed import load_table
from nuwa.report.paper.side_by_side import failed, remarks, wide_rows

GQA, MMB = "gqa/exact_match", "mmbench/circular"


def compare(table, results):
    return match_paper(table, runs_of(results))


def costs(results, table="table4"):
    return cost_rows(load_table(table), runs_of(results))


def cell(results, table, method, tokens, column="gqa", pruner=None):
    found = [c for c in compare(load_table(table), results) if (c.row.method, c.row.tokens) == (method, tokens)]
    return next(c for c in found if c.benchmark.name == column and pruner in (None, c.pruner))


def test_within_and_outside_tolerance():
    good = result("nuwa", {GQA: 0.590}, average=64)
    assert cell([good], "table5", "nuwa", "64").difference == pytest.approx(59.0 - 58.3)
    assert not cell([good], "table5", "nuwa", "64").outside
    assert not failed(compare(load_table("table5"), [good]))
    bad = result("nuwa", {GQA: 0.570}, average=64)
    assert cell([bad], "table5", "nuwa", "64").outside
    assert failed(compare(load_table("table5"), [bad]))


def test_units():
    score = {"mme/total_score": 1700.0}
    found = cell([result("nuwa", score, dataset="mme", average=64)], "table5", "nuwa", "64", "mme")
    assert found.ours == 1700 and found.difference == pytest.approx(-6) and found.error == pytest.approx(0.01)


@pytest.mark.parametrize(
    "other",
    [
        {"average": 128},
        {"average": None, "ratio": 0.5},
        {"average": 64, "options": {"d_thresh": 18.0}},
        {"average": 64, "position": "rpme"},
        {"average": 64, "model": "llava_1_5_13b"},
        {"average": 64, "dataset": "pope"},
    ],
)
def test_runs_that_do_not_stand_for_a_cell(other):
    assert cell([result("nuwa", {GQA: 0.583}, **other)], "table5", "nuwa", "64").state == "missing"


@pytest.mark.parametrize(
    ("table", "method", "tokens", "run"),
    [
        ("table5", "vanilla", "576", result("none", {GQA: 0.6})),
        ("table5", "pdrop", "64", result("pyramiddrop", {GQA: 0.6}, average=64)),
        ("table5", "visionzip", "64", result("visionzip", {GQA: 0.6}, average=64, position="perc")),
        ("table5", "nuwa", "64", result("nuwa", {GQA: 0.6}, ratio=0.1111)),
        ("table3", "visionzip+rpme", "64", result("visionzip", {GQA: 0.6}, average=64, position="rpme")),
        ("table7", "nuwa:d_thresh=148", "64", result("nuwa", {GQA: 0.6}, average=64, options={"d_thresh": 148.0})),
        ("table7", "nuwa:d_thresh=280", "64", result("nuwa", {GQA: 0.6}, average=64)),
        (
            "table8", "nuwa:region=0,pillar=1,random_stage2=1", "128",
            result("nuwa", {GQA: 0.6}, average=128, options={"region": False, "random": True}),
        ),
        ("table12", "nuwa", "160", result("nuwa", {GQA: 0.6}, average=160, model="llava_next_7b")),
        ("table14", "nuwa", "25%", result("nuwa", {GQA: 0.6}, ratio=0.25, model="qwen2_5_vl_7b")),
    ],
)  # fmt: skip
def test_runs_that_stand_for_a_cell(table, method, tokens, run):
    found = cell([run], table, method, tokens)
    assert (found.state, found.ours) == ("done", pytest.approx(60))
    assert sum(c.ours is not None for c in compare(load_table(table), [run])) == 1


def test_blocked_runs():
    """They are not the unpruned run, although they prune nothing."""
    run = result("none", {GQA: 0.55})
    run["config"]["blocking"] = {"source": "vision", "layers": "2/4"}
    assert cell([run], "table5", "vanilla", "576").state == "missing"
    assert cell([run], "table15", "block:vision_to_vision:8-15", "576").difference == pytest.approx(55 - 55.2)
    assert sum(c.ours is not None for c in compare(load_table("table15"), [run])) == 1
    run["config"]["blocking"]["layers"] = "8-15"
    assert cell([run], "table15", "block:vision_to_vision:8-15", "576").state == "done"
    free = compare(load_table("table15"), [result("none", {GQA: 0.62})])
    assert [c.row.method for c in free if c.ours is not None] == ["vanilla", *(
        f"block:{who}_to_vision:none" for who in ("vision", "text", "last"))]  # fmt: skip


def test_one_data_set_with_several_splits():
    run = result("nuwa", {"qwen_refcoco/accuracy": 0.8}, ratio=0.25, model="qwen2_5_vl_7b",
                 dataset="nuwa_qwen_refcoco", split="refcocop_testB")  # fmt: skip
    assert cell([run], "table13", "nuwa", "25%", "refcoco+_testB").ours == pytest.approx(80)
    assert cell([run], "table13", "nuwa", "25%", "refcoco_testB").state == "missing"


def test_both_variants_of_nuwa():
    runs = [result(method, {GQA: 0.58}, average=64) for method in ("nuwa", "nuwa_release")]
    assert [c.pruner for c in compare(load_table("table5"), runs[:1]) if c.row.method == "nuwa"].count("nuwa") == 30
    assert cell(runs, "table5", "nuwa", "64", pruner="nuwa_release").state == "done"
    assert "nuwa (nuwa_release)" in {row["method"] for row in wide_rows(*both(runs))}


def both(runs, table="table5"):
    return load_table(table), compare(load_table(table), runs)


def test_seeds_are_averaged():
    runs = [result("nuwa", {GQA: v}, average=64, run_key=str(v), seed=i) for i, v in enumerate((0.57, 0.59))]
    found = cell(runs, "table5", "nuwa", "64")
    assert found.ours == pytest.approx(58) and found.error == pytest.approx(2**0.5)


def test_what_is_no_seed():
    """Runs that differ in their decoding have no mean to judge; another place of the same data is no difference."""
    runs = [result("nuwa", {GQA: 0.58}, average=64, run_key=str(seed), seed=seed) for seed in range(2)]
    for run, path in zip(runs, (None, "/data"), strict=True):
        run["config"]["dataset"] |= {"hub": ["lmms-lab/GQA"], "path": path}
    assert cell(runs, "table5", "nuwa", "64").judged
    runs[0]["config"]["generation"] = {"num_beams": 5}
    found = cell(runs, "table5", "nuwa", "64")
    assert found.ours == pytest.approx(58) and "decoding" in found.note and not found.judged


def test_options_of_the_model_are_no_seed():
    """But for where it computes; another checkpoint has other scores."""
    for option, same in (("device", True), ("device_map", True), ("image_frame", False), ("path", False)):
        runs = [result("nuwa", {GQA: value}, average=64, run_key=str(value)) for value in (0.57, 0.59)]
        for run, value in zip(runs, ("one", "other"), strict=True):
            run["config"]["model"][option] = value
        assert cell(runs, "table5", "nuwa", "64").judged == same
        assert len(points_of(runs_of(runs))) == (1 if same else 2)


def test_a_run_of_all_samples_goes_before_one_of_a_part():
    part = result("nuwa", {GQA: 0.4}, average=64, limit=10, run_key="part")
    for runs in ([part, result("nuwa", {GQA: 0.59}, average=64)], [result("nuwa", {GQA: 0.59}, average=64), part]):
        found = cell(runs, "table5", "nuwa", "64")
        assert (found.state, found.ours) == ("done", pytest.approx(59))


def test_what_is_not_judged():
    """A part of the samples, and a printed number that stands for something else."""
    assert cell([result("nuwa", {GQA: 0.1}, average=64, limit=20)], "table5", "nuwa", "64").state == "limited"
    assert cell([result("nuwa", {GQA: 0.1}, average=64, n_failed=3)], "table5", "nuwa", "64").state == "limited"
    off = result("fastv", {}, average=64, llm_tflops=0.6568)
    noted = cell([off], "table4", "fastv", "64", "llm_tflops")
    assert noted.ours == 0.6568 and noted.note and not noted.outside
    assert cell([result("nuwa", {}, average=64, llm_tflops=0.66)], "table4", "nuwa", "64", "llm_tflops").outside
    assert failed(compare(load_table("table5"), [result("nuwa", {GQA: 0.583}, average=64, limit=20)]))


def test_random_weights_have_costs_and_no_scores():
    """They cost what the trained ones cost; their answers mean nothing and stand beside no printed score."""
    run = result("nuwa", {GQA: 0.583}, average=64, model="llava_1_5_7b_random", llm_tflops=0.6476)
    score, cost = cell([run], "table5", "nuwa", "64"), cell([run], "table4", "nuwa", "64", "llm_tflops")
    assert (score.state, score.ours, score.reason) == ("missing", None, "no run")
    assert (cost.state, cost.ours, cost.outside) == ("done", 0.6476, False)


def test_states_are_named():
    broken = result("fastv", {}, average=64, status="failed", reason="no memory", run_key="abc")
    short = result("visionzip", {}, average=64, status="unreachable", reason="too few", run_key="def")
    silent = result("nuwa", {}, dataset="mmvet", average=64, run_key="g")  # answers without a judge
    table, cells = both([broken, short, silent])
    text = "\n".join(remarks(cells))
    assert "failed: fastv 64: gqa (abc: no memory)" in text
    assert "unreachable: visionzip 64: gqa (def: too few)" in text
    assert "missing: nuwa 64: mmvet (g: done, without this metric)" in text
    assert "missing: vanilla 576, fastv 1" in text and ": all 10 columns; " in text
    assert "nuwa 64: gqa, mmbench_en, mmmu, mme" in text  # all but mmvet
    assert failed(cells)
    rows = wide_rows(table, cells)
    assert rows[0]["method"] == "vanilla" and rows[0]["gqa"] == "missing / 61.9"
    absent = cell([], "table1", "random@fastv", "64")
    assert absent.state == "none here" and "random@fastv" in absent.reason


def test_retention_is_taken_over_what_ours_has():
    runs = [
        result("none", {GQA: 0.6}), result("none", {MMB: 0.5}, dataset="mmbench_en_dev"),
        result("nuwa", {GQA: 0.54}, average=64), result("nuwa", {MMB: 0.5}, dataset="mmbench_en_dev", average=64),
    ]  # fmt: skip
    row = next(r for r in wide_rows(*both(runs)) if (r["method"], r["tokens"]) == ("nuwa", "64"))
    paper = (58.3 / 61.9 + 62.0 / 64.7) / 2 * 100
    assert row["retained"] == f"95.0 / {paper:.1f} / {95 - paper:+.1f} (2 columns)"
    assert row["gqa"] == "54.0 / 58.3 / -4.3!"


def test_costs_of_any_model():
    """Shares of the unpruned model's FLOPs, and its prefill over the pruned one's: Table 4 prints 124 and 46 ms."""
    quartiles = {"median": 2.5, "q1": 2.4, "q3": 2.6}
    probe = {
        "batch": 1, "speedup": {"prefill_ms": quartiles}, "theoretical_prefill_speedup": 5.0, "reached": 0.5,
        "variants": {"vanilla": {"prefill_ms": {"median": 100}, "encode_ms": {"median": 30}},
                     "pruned": {"prefill_ms": {"median": 40}, "encode_ms": {"median": 35}}},
        "compression_ms": {"median": 4},
    }  # fmt: skip
    common = {"dataset": "scenes", "model": "llava_1_5_7b_random", "environment": {"device": "cpu"}}
    runs = [result("none", {}, **common), result("nuwa", {}, average=64, speed=[probe], **common)]
    rows = {row["method"]: row for row in costs(runs)}
    ours = rows["nuwa"]
    assert ours["TFLOPs left, %"] == f"{100 * 0.64 / 5.76:.2f} / {100 * 0.6476 / 5.973:.2f}"
    assert ours["prefill speed-up"] == f"2.50 (2.40 to 2.60) / {124 / 46:.2f}" and ours["reached"] == "50%"
    assert rows["fastv"]["TFLOPs left, %"].startswith("missing / ")
    prefill = cell(runs, "table4", "nuwa", "64", "prefill_ms_a100")
    assert prefill.ours == 40 and not prefill.judged and prefill.note == "ours on cpu, batch 1"
    assert costs(runs, "table5") == []
    larger = result("none", {}, **common | {"dataset": "gqa"}, llm_tflops=11.52)
    assert ours in costs([*runs, larger])  # other images, other costs


def test_costs_of_videos_are_counted_as_their_paper_does():
    quartiles = {"median": 2.0, "q1": 1.9, "q3": 2.1}
    times = {"prefill_ms": {"median": 133.0}, "encode_ms": {"median": 840.0}, "ttft_ms": {"median": 980.0}}
    probe = {
        "batch": 1, "speedup": {"prefill_ms": {**quartiles, "median": 9.0}, "ttft_ms": quartiles}, "reached": 0.5,
        "theoretical_prefill_speedup": 9.0, "compression_ms": {"median": 60.0},
        "variants": {"vanilla": {**times, "encode_ms": {"median": 785.0}}, "pruned": times},
    }  # fmt: skip
    common = {"dataset": "clips", "model": "llava_onevision_7b_random", "environment": {"device": "cuda"}}
    runs = [
        result("none", {}, flashvid_tflops=113.43, **common),
        result("flashvid", {}, ratio=0.1, flashvid_tflops=8.73, speed=[probe], **common),
    ]
    rows = {row["method"]: row for row in costs(runs, "flashvid_efficiency")}
    assert rows["flashvid"]["TFLOPs left, %"] == f"{100 * 8.73 / 113.43:.2f} / {100 * 8.6 / 113.4:.2f}"
    assert rows["flashvid"]["first token speed-up"] == f"2.00 (1.90 to 2.10) / {2005.8 / 978.3:.2f}"
    ours = {
        column: cell(runs, "flashvid_efficiency", "flashvid", "10%", column)
        for column in ("tflops", "vision_encode_ms", "compress_ms", "llm_forward_ms", "prefill_total_ms", "ttft_ms")
    }
    assert [value.ours for value in ours.values()] == [8.73, 785.0, 60.0, 133.0, 193.0, 980.0]
    assert not ours["tflops"].outside and [value.judged for value in ours.values()] == [True] + 5 * [False]


def test_costs_of_pictures_of_several_sizes():
    """Each run beside the unpruned run with the same options."""
    runs = []
    for side, scale in ((96, 1), (560, 4)):
        for method, average in (("none", None), ("nuwa", 64)):
            run = result(method, {}, "scenes", average=average, run_key=f"{method}{side}")
            run["config"]["dataset"]["picture_side"] = side
            run["llm_tflops"] *= scale
            runs.append(run)
    rows = [row for row in costs(runs) if row["method"] in ("vanilla", "nuwa")]
    shares = [row["TFLOPs left, %"].split(" / ")[0] for row in rows if row["TFLOPs left, %"][0].isdigit()]
    assert shares == ["100.00", "100.00", "11.11", "11.11"]


def test_command(tmp_path, capsys):
    """Two folders, one run in both: a check that holds, one that does not, and all formats."""
    good = [result("none", {GQA: 0.619}), result("nuwa", {GQA: 0.583}, average=64)]
    one, other = write(tmp_path / "one", good[:1]), write(tmp_path / "other", good)
    assert main([str(one), str(other), "--expected", "table5", "--check"]) == 0
    assert "2 judged, 0 outside" in capsys.readouterr().out
    bad = write(tmp_path / "bad", [result("none", {GQA: 0.5})])
    assert main([str(bad), "--expected", "table5", "--check"]) == 1
    assert "check failed: table5" in capsys.readouterr().err
    assert main([str(bad), "--expected", "table5"]) == 0
    capsys.readouterr()
    assert main([str(other), "--expected", "table5", "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["ours"] for line in lines if line["column"] == "gqa" and line["ours"]] == ["61.9", "58.3"]
    assert main([str(other), "--expected", "table5", "--format", "markdown"]) == 0
    assert "| 58.3 / 58.3 / +0.0 |" in capsys.readouterr().out
    assert main([str(other), "--expected", "table5", "--format", "latex"]) == 0
    assert "mmbench\\_en" in capsys.readouterr().out


def test_an_experiment_by_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "outputs" / "baselines", [result("none", {GQA: 0.619})])
    assert main(["baselines"]) == 0 and "0.619" in capsys.readouterr().out

"""experiments/paper/arithmetic.py: the printed arithmetic comes out, or is explained where it does not."""

import importlib.util
import sys

import pytest
from helpers.jobs import ROOT

from nuwa.report.paper.printed import load_table, table_names


@pytest.fixture
def arithmetic(monkeypatch):
    spec = importlib.util.spec_from_file_location("arithmetic", ROOT / "experiments/paper/arithmetic.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "arithmetic", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def row(table, method, tokens):
    return next(r for r in load_table(table).rows if (r.method, r.tokens) == (method, tokens))


def test_retention_by_hand(arithmetic):
    """Table 6, Nüwa at 192 tokens, over its seven columns."""
    ours = (47.91, 46.12, 43.18, 31.86, 37.68, 37.64, 37.9)
    full = (58.3, 56.42, 59.43, 38.88, 46.32, 48.5, 48.82)
    by_hand = sum(100 * a / b for a, b in zip(ours, full, strict=True)) / 7
    check = next(
        c for c in arithmetic.retention_checks(load_table("table6")) if c.row.tokens == "192" and c.row.method == "nuwa"
    )
    assert check.computed == pytest.approx(by_hand) and check.printed == 79.29


def test_tables_5_and_6_come_out_but_for_one_row(arithmetic):
    checks = [c for name in ("table5", "table6") for c in arithmetic.retention_checks(load_table(name))]
    assert len(checks) == 27
    (off,) = [c for c in checks if not c.comes_out]
    assert (off.row.method, off.row.tokens, off.printed) == ("fastv", "64", 79.36)


def test_why_that_row_does_not_come_out():
    """Table 1's ScienceQA, MM-Vet and MME in the place of Table 5's give the printed number to its last digit."""
    cells, first = dict(row("table5", "fastv", "64").cells), row("table1", "fastv", "64").cells
    cells |= {name: first[name] for name in ("scienceqa_img", "mmvet", "mme")}
    full = load_table("table5").unpruned["llava-1.5-7b"].cells
    names = [name for name in cells if name != "retention_avg"]
    assert round(sum(100 * cells[name] / full[name] for name in names) / len(names), 2) == 79.36


def test_every_row_that_is_off_says_why(arithmetic):
    off = [c for name in table_names() for c in arithmetic.retention_checks(load_table(name)) if not c.comes_out]
    assert all(c.note for c in off) and {c.row.method for c in off} == {"fastv", "sparsevlm", "visionzip"}


def test_the_exception_of_the_video_table():
    """Its printed mean score is not that of its cells; with theirs the retention comes out."""
    cells = next(
        r.cells for r in load_table("flashvid_video").rows
        if (r.model, r.method, r.tokens) == ("qwen2.5-vl-7b", "fastv", "10%")
    )  # fmt: skip
    mean = round(sum(cells[name] for name in ("videomme", "egoschema", "longvideobench", "mvbench")) / 4, 1)
    assert (mean, cells["score_avg"]) == (56.4, 57.3)
    assert round(100 * mean / 61.6, 1) == cells["retention_avg"] == 91.6


def flops(counts):
    """Appendix C with LLaVA-1.5-7B's sizes written out."""
    return sum(8 * s * 4096**2 + 4 * s**2 * 4096 + 4 * s * 4096 * 11008 for s in counts) / 1e12


def test_table_4(arithmetic):
    rows = {check.row.method: check for check in arithmetic.cost_checks(load_table("table4"))}
    by_hand = {
        "vanilla": ([576] * 32, 0),
        "fastv": ([576] * 3 + [30] * 29, 2 * 576 * 4096),
        "sparsevlm": ([576] * 3 + [66] * 4 + [30] * 9 + [17] * 16, 2 * (576 + 66 + 30) * 4096),
        "visionzip": ([64] * 32, 2 * 576 * 4096 + 64**2 * 1024),
        "nuwa": ([112] * 16 + [16] * 16, 2 * 576 * 4096 + 112**2 * 1024),
    }
    for name, (counts, metric) in by_hand.items():
        assert rows[name].comes_out
        assert rows[name].schedule.per_layer(32) == counts
        assert rows[name].tflops == pytest.approx(flops(counts))
        assert rows[name].mflops == pytest.approx(metric / 1e6)
        assert flops(counts) == pytest.approx(rows[name].row.cells["llm_tflops"], rel=0.002)


def test_what_table_4_cannot_mean(arithmetic):
    """Neither printed number is one of 64 tokens; of SparseVLM's published lists only one gives it."""
    assert arithmetic.most_tflops(64) == pytest.approx(flops([576] * 3 + [320])) and arithmetic.most_tflops(64) < 0.67
    fastv = {
        (layer, count): abs(flops([576] * layer + [count] * (32 - layer)) / 0.8341 - 1)
        for layer in range(32) for count in range(1, 576)
    }  # fmt: skip
    near = sorted((key for key in fastv if fastv[key] <= arithmetic.COST_TOLERANCE), key=fastv.__getitem__)
    assert near == [(3, 30), (4, 10), (1, 66)]
    recycled = [66 + 16, 30 + 2, 17 + 1]
    others = {
        "recycled tokens counted": [576] * 3 + [recycled[0]] * 4 + [recycled[1]] * 9 + [recycled[2]] * 16,
        "a stage earlier": [576] * 2 + [66] * 4 + [30] * 9 + [17] * 17,
        "v2": [576] * 3 + [66] * 4 + [34] * 9 + [20] * 16,
    }
    assert all(abs(flops(counts) / 0.8141 - 1) > 0.03 for counts in others.values())


def test_the_script(arithmetic, capsys):
    assert arithmetic.main(["table5", "table6"]) == 0
    printed = capsys.readouterr().out
    assert "16 of 17" in printed and "10 of 10" in printed and "Table 1's ScienceQA 68.7" in printed
    assert arithmetic.main(["table4"]) == 0 and "0.8340 / 0.8341" in capsys.readouterr().out
    assert arithmetic.main(["table99"]) == 1 and "table99: no such table" in capsys.readouterr().err


def test_a_number_that_does_not_follow_fails(arithmetic, monkeypatch):
    monkeypatch.setattr(arithmetic, "COST_TOLERANCE", 1e-5)
    assert arithmetic.main(["table4"]) == 1

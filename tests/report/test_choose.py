"""Which way of pruning to take: the right answer is known by construction, its sureness from a slow loop."""

import csv
import io
import json
import random
import shutil

import pytest
from helpers.made_up import write_run

from nuwa.evaluation.journal import JOURNAL
from nuwa.evaluation.result import write_result
from nuwa.report.choose import main
from nuwa.report.figures import fronts

N = 200
# method, tokens, wrong samples, time relative to the unpruned model
RUNS = [
    ("none", None, [], None),
    ("visionzip", 32, range(40), 0.30),
    ("nuwa", 64, range(5), 0.45),
    ("fastv", 96, range(3, 6), 0.40),
    ("divprune", 128, range(60), 0.80),
    ("random", 192, range(2), 0.75),
]


@pytest.fixture
def runs(tmp_path):
    for run in RUNS:
        write_run(tmp_path / "out" / run[0], *run)
    return tmp_path / "out"


def chosen(capsys, *arguments):
    """The rows of the table by method, and the method of the choice."""
    assert main([*map(str, arguments), "--format", "csv"]) == 0
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    return rows, next((name for name, row in rows.items() if row[""]), None)


@pytest.mark.parametrize(("loss", "by", "best"), [
    ("2%", "tokens", "fastv"), ("3%", "tokens", "nuwa"), ("0.2", "tokens", "visionzip"), ("0", "tokens", "none"),
    ("1%", "tokens", "random"), ("2%", "ttft", "fastv"), ("3%", "ttft", "fastv"), ("20%", "prefill", "visionzip"),
])  # fmt: skip
def test_the_cheapest_within_the_loss(runs, capsys, loss, by, best):
    assert chosen(capsys, runs, "--loss", loss, "--by", by)[1] == best


def test_the_front_has_what_nothing_beats(runs, capsys):
    """By tokens Nüwa is on it, by time FastV is faster and keeps more; DivPrune never is, but --all shows it."""
    assert list(chosen(capsys, runs, "--by", "tokens")[0]) == ["visionzip", "nuwa", "fastv", "random", "none"]
    assert list(chosen(capsys, runs, "--by", "ttft")[0]) == ["visionzip", "fastv", "random", "none"]
    every, _ = chosen(capsys, runs, "--by", "tokens", "--all")
    assert len(every) == len(RUNS) and not every["divprune"]["front"] and every["fastv"]["front"] == "yes"


def test_how_sure_it_is_against_a_slow_loop(runs, capsys):
    rows, _ = chosen(capsys, runs, "--loss", "2%", "--by", "tokens")
    rng, draws = random.Random(0), 4000
    counts = dict.fromkeys(rows, 0)
    for _ in range(draws):
        places = [rng.randrange(N) for _ in range(N)]
        for method, average, wrong, _ in sorted(RUNS, key=lambda run: run[1] or 576):
            del average
            if sum(place not in wrong for place in places) / N >= 0.98 - 1e-9:
                counts[method] += 1
                break
    for method, row in rows.items():
        assert float(row["chosen in"].rstrip("%")) / 100 == pytest.approx(counts[method] / draws, abs=0.05), method


def test_times_of_other_runs_count(runs, tmp_path, capsys):
    """A run without a probe takes the time of one with the same choices; one without any is left out by name."""
    write_run(tmp_path / "more" / "saint", "saint", 80, range(2), None)
    assert main([str(runs), str(tmp_path / "more"), "--by", "ttft", "--format", "csv"]) == 0
    shown = capsys.readouterr()
    assert "left out, as ttft is not known: saint" in shown.err and "saint" not in shown.out
    write_run(tmp_path / "timed" / "saint2", "saint", 80, range(20), 0.2, samples=50)
    (tmp_path / "timed" / "saint2" / JOURNAL).unlink()
    content = json.loads((tmp_path / "timed" / "saint2" / "result.json").read_text())
    write_result(tmp_path / "timed" / "saint2", content | {"baseline": None})
    found = chosen(capsys, runs, tmp_path / "more", tmp_path / "timed", "--by", "ttft")
    assert found[1] == "saint" and found[0]["saint"]["ttft, unpruned = 1"] == "0.200"


def test_refusals(runs, tmp_path, capsys):
    write_run(tmp_path / "gpu" / "hiprune", "hiprune", 64, range(2), 0.2, device="cuda: y")
    for arguments, reason in (
        ((runs, tmp_path / "gpu", "--by", "ttft"), "times of different devices are not compared"),
        ((runs, "--by", "decode"), "--by decode: no run of llava_1_5_7b measured it; add probe=speed"),
        ((runs, "--metric", "gqa/recall"), "no finished run with gqa/recall beside its unpruned run"),
        ((tmp_path / "gpu",), "no finished run with a score beside its unpruned run"),
    ):
        assert main([*map(str, arguments)]) == 1
        assert reason in capsys.readouterr().err
    assert chosen(capsys, runs, tmp_path / "gpu", "--by", "tokens")[1] == "hiprune"
    for loss in ("120%", "-1", "much"):
        with pytest.raises(SystemExit) as stop:
            main([str(runs), "--loss", loss])
        assert stop.value.code == 2 and "give 2% or 0.02" in capsys.readouterr().err


def test_nothing_stays_within_the_loss(runs, capsys):
    assert main([str(runs), "--loss", "0", "--by", "tokens"]) == 0
    assert "no method stays within the loss" in capsys.readouterr().out
    assert main([str(runs), "--loss", "2%", "--by", "tokens"]) == 0
    assert f"nuwa export {runs / 'fastv'}" in capsys.readouterr().out.replace("\n", "")


def test_a_part_of_a_score_is_judged_by_its_own_samples(runs, capsys):
    """Half of the samples are small; FastV loses two of them, Nüwa none."""
    for method, small in (("none", []), ("nuwa", []), ("fastv", [3, 5])):
        path = runs / method / JOURNAL
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for number, row in enumerate(rows):
            row["scores"] |= {f"gqa/exact_match/{'small' if number % 2 else 'large'}": float(number not in small)}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        content = json.loads((runs / method / "result.json").read_text())
        content["metrics"]["gqa/exact_match/small"] = 1.0
        write_result(runs / method, content)
    for other in ("visionzip", "divprune", "random"):
        shutil.rmtree(runs / other)
    asked = ("--metric", "gqa/exact_match/small", "--by", "tokens", "--loss")
    assert chosen(capsys, runs, *asked, "1%")[1] == "nuwa"
    rows, best = chosen(capsys, runs, *asked, "2%", "--all")
    assert best == "nuwa" and rows["fastv"]["loss"].startswith("2.0%")
    assert main([str(runs), *asked, "2%"]) == 0 and "100 samples that all 3" in capsys.readouterr().out


def test_a_copy_that_was_cut_short_hides_nothing(runs, tmp_path, capsys):
    whole = chosen(capsys, runs, "--by", "tokens")
    for name in ("nuwa", "none"):
        (tmp_path / "out" / "z" / name).mkdir(parents=True)
        shutil.copy(runs / name / JOURNAL, tmp_path / "out" / "z" / name)
    assert chosen(capsys, runs, "--by", "tokens") == whole


def test_seeds_are_told_apart(runs, tmp_path, capsys):
    for method in ("none", "nuwa"):
        shutil.copytree(runs / method, runs / f"{method}1")
        content = json.loads((runs / method / "result.json").read_text()) | {"baseline": "none1"}
        content["config"]["seed"] = 1
        write_result(runs / f"{method}1", content | {"run_key": f"{method}1"})
    assert main([str(runs), "--by", "tokens", "--plot", str(tmp_path / "plots")]) == 0
    said = capsys.readouterr().out
    assert all(f"llava_1_5_7b, gqa, seed {seed}: gqa/exact_match" in said for seed in (0, 1))
    named = {path.name for path in (tmp_path / "plots").glob("*.png")}
    assert named == {f"front_tokens_llava_1_5_7b_gqa_seed_{seed}_gqa_exact_match.png" for seed in (0, 1)}


def test_the_plot(runs, tmp_path, capsys):
    assert main([str(runs), "--by", "ttft", "--plot", str(tmp_path / "plots")]) == 0
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == [f"front_ttft_llava_1_5_7b_gqa_gqa_exact_match.{form}" for form in ("png", "svg")]
    drawn = (tmp_path / "plots" / names[1]).read_text(encoding="utf-8")
    assert "2.0% lost" in drawn and "FastV" in drawn


def test_methods_that_keep_as_many_tokens_stand_side_by_side(runs, tmp_path, monkeypatch):
    """In the order of the legend, near their cost, and nothing outside the axes."""
    drawn = []
    write_run(runs / "prumerge", "prumerge", 64, range(9), 0.5)
    monkeypatch.setattr(fronts, "write_figure", lambda figure, stem: drawn.append(figure) or [stem])
    assert main([str(runs), "--by", "tokens", "--plot", str(tmp_path)]) == 0
    (axes,) = drawn[0].axes
    dots = [dot for container in axes.containers for dot in container.lines[0].get_xydata().tolist()]
    at_64 = [x for x, _ in dots if abs(x / (64 / 576) - 1) < 0.1]
    assert len(at_64) == len(set(at_64)) == 2 and axes.get_xscale() == "log"
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert all(left < x < right and low < y < high for x, y in dots)

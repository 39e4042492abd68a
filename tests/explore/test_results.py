"""The data of the Results tab: from runs whose wrong samples are known, and the same as the commands print."""

import csv
import io
import json
from itertools import combinations
from math import comb

import pytest
from helpers.made_up import result, write_run

from nuwa.evaluation.result import read_result, write_result
from nuwa.evaluation.runs import find_runs
from nuwa.explore.results import results_of
from nuwa.report import choose

N, METRIC = 200, "gqa/exact_match"
WRONG = {"none": range(0), "visionzip": range(40), "nuwa": range(5), "fastv": range(3, 6), "random": range(2)}
TOKENS = {"none": None, "visionzip": 32, "nuwa": 64, "fastv": 96, "random": 192}
SPEED = {"none": None, "visionzip": 0.3, "nuwa": 0.45, "fastv": 0.4, "random": 0.75}
GPU = {"divprune": 0.2}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Five runs timed on a CPU, one on a GPU, one that failed, and one that was cut short."""
    folder = tmp_path_factory.mktemp("outputs")
    for name, wrong in WRONG.items():
        write_run(folder / name, name, TOKENS[name], wrong, SPEED[name])
    write_run(folder / "divprune", "divprune", 128, range(60), GPU["divprune"], device="cuda: y")
    failed = result("hiprune", {}, run_key="hiprune") | {"status": "failed", "reason": "out of memory"}
    (folder / "hiprune").mkdir()
    write_result(folder / "hiprune", failed)
    (folder / "short").mkdir()
    (folder / "short" / "predictions.jsonl").touch()
    return folder


@pytest.fixture(scope="module")
def results(outputs):
    return json.loads(json.dumps(results_of(find_runs(outputs)), allow_nan=False))


def rows(results):
    return {row["run"]: row for row in results["runs"]}


def test_a_row_for_each_run(results):
    found = rows(results)
    assert next(iter(found)) == "none" and set(found) == {*WRONG, *GPU, "hiprune", "short"}
    for name, wrong in WRONG.items():
        value, low, high = found[name]["scores"][METRIC]
        assert value == pytest.approx(1 - len(wrong) / N) and low <= value <= high and low < high
        assert found[name]["tokens"] == (TOKENS[name] or 576) and found[name]["kv"] == 9
    assert found["nuwa"]["name"] == "nuwa 64 pesp"
    assert {key: found["nuwa"][key] for key in ("method", "budget", "position", "dataset", "model")} == {
        "method": "nuwa", "budget": "64 tokens", "position": "pesp", "dataset": "gqa", "model": "llava_1_5_7b",
    }  # fmt: skip


def test_what_has_no_result_says_why(results):
    failed, short = (rows(results)[name] for name in ("hiprune", "short"))
    assert (failed["status"], failed["remark"], failed["scores"]) == ("failed", "out of memory", {})
    assert (short["status"], short["budget"], short["position"]) == ("unfinished", "", "")
    assert "0 samples" in short["remark"]


def test_times_are_of_one_device(results):
    found = rows(results)
    assert found["nuwa"]["times"] == {"ttft": 27.0, "prefill": 18.0, "decode": pytest.approx(3.6)}
    assert found["nuwa"]["device"] != found["divprune"]["device"]
    timed = {(one["by"], one["device"]): {p["run"] for p in one["points"]} for one in results["fronts"]}
    cpu, gpu = found["nuwa"]["device"], found["divprune"]["device"]
    assert timed["ttft", cpu] == set(WRONG) and timed["ttft", gpu] == {"divprune", "none"}
    assert timed["tokens", ""] == {*WRONG, *GPU}
    assert ("decode", cpu) not in timed  # nobody measured its ratio


@pytest.mark.parametrize("by", ["tokens", "tflops", "ttft"])
def test_the_front_against_every_pair(results, by):
    one = next(one for one in results["fronts"] if one["by"] == by and "cuda" not in one["device"])
    points = [(TOKENS[p["run"]] or 576 if by != "ttft" else SPEED[p["run"]] or 1, p) for p in one["points"]
              if p["run"] in WRONG]  # fmt: skip
    right = {p["run"]: N - len(WRONG[p["run"]]) for _, p in points}
    for cost, p in points:
        beaten = [(other, right[q["run"]]) for other, q in points if q is not p]
        on_front = not any(
            (c <= cost and r > right[p["run"]]) or (c < cost and r >= right[p["run"]]) for c, r in beaten
        )
        assert p["front"] == on_front, p["run"]
        assert p["kept"] == pytest.approx(right[p["run"]] / N) and p["low"] <= p["kept"] <= p["high"]
        assert p["cost"] == pytest.approx(cost / (1 if by == "ttft" else 576))


def test_the_same_as_nuwa_choose_prints(outputs, results, capsys):
    assert choose.main([str(outputs), "--by", "tokens", "--all", "--format", "csv"]) == 0
    printed = {row["method"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    points = next(one["points"] for one in results["fronts"] if one["by"] == "tokens")
    assert {p["run"]: (p["front"], f"{1 - p['kept']:.1%}") for p in points} == {
        name: (row["front"] == "yes", row["loss"].split(" ")[0]) for name, row in printed.items()
    }


def test_tests_against_counting(results):
    """McNemar's by the tail of a binomial, Holm's by its definition."""
    (one,) = results["tests"]
    assert one["metric"] == METRIC and set(one["runs"]) == {*WRONG, *GPU}
    wrong = {**WRONG, "divprune": range(60)}
    plain = {}
    for i, j in combinations(range(len(one["runs"])), 2):
        first, second = (set(wrong[one["runs"][place]]) for place in (i, j))
        a, b = len(second - first), len(first - second)
        plain[i, j] = min(1.0, 2 * sum(comb(a + b, k) for k in range(min(a, b) + 1)) / 2 ** (a + b))
    order, expected, largest = sorted(plain, key=plain.__getitem__), {}, 0.0
    for place, pair in enumerate(order):
        largest = max(largest, min(1.0, plain[pair] * (len(order) - place)))
        expected[pair] = largest
    assert {tuple(test["pair"]): test["p"] for test in one["pairs"]} == pytest.approx(expected)
    assert f"corrected for {len(expected)} tests" in one["note"]


def test_nothing_right_without_pruning_is_said(tmp_path):
    for name in ("none", "nuwa"):
        write_run(tmp_path / name, name, None if name == "none" else 64, range(N), None)
    results = results_of(find_runs(tmp_path))
    assert {one["note"] for one in results["fronts"]} == {
        f"{METRIC} is 0 without pruning: nothing can be said of what is lost"
    }


@pytest.mark.parametrize("journal", ["", "{}\n"])
def test_answers_that_are_not_there_are_said(tmp_path, journal):
    for name in ("none", "nuwa"):
        write_run(tmp_path / name, name, None if name == "none" else 64, range(3), None)
    (tmp_path / "nuwa" / "predictions.jsonl").write_text(journal)
    results = results_of(find_runs(tmp_path))
    assert len(results["runs"]) == 2 and {len(one["points"]) for one in results["fronts"]} == {0}
    assert [one["pairs"] for one in results["tests"]] == [[]]
    assert all("predictions.jsonl" in one["note"] for one in (*results["fronts"], *results["tests"]))


def test_the_same_data_asked_in_two_ways_are_two(tmp_path):
    """Their unpruned runs differ in the seed, which tells them apart on the page."""
    for seed, name in ((0, "none"), (0, "nuwa"), (1, "none1"), (1, "nuwa1")):
        write_run(tmp_path / name, name.rstrip("1"), 64 if "nuwa" in name else None, range(seed, 9), None)
        content = read_result(tmp_path / name)
        content["config"]["seed"], content["baseline"] = seed, "none1" if seed else "none"
        write_result(tmp_path / name, content)
    results = results_of(find_runs(tmp_path))
    assert rows(results)["nuwa1"]["name"] == "nuwa 64 pesp nuwa1"
    titles = {f"llava_1_5_7b, gqa, seed {seed}" for seed in (0, 1)}
    assert {one["title"] for one in results["fronts"]} == {one["title"] for one in results["tests"]} == titles
    assert all({p["run"] for p in one["points"]} in ({"none", "nuwa"}, {"none1", "nuwa1"}) for one in results["fronts"])


def test_one_run_alone(tmp_path):
    write_run(tmp_path / "nuwa", "nuwa", 64, range(3), None)
    results = results_of(find_runs(tmp_path))
    assert (len(results["runs"]), results["fronts"], results["tests"]) == (1, [], [])

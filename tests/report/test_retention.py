"""Mean retention from run folders, against a slow loop that knows nothing of the package's statistics."""

import csv
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from helpers.jobs import compose
from helpers.made_up import result, row

from nuwa.config import typed
from nuwa.evaluation.journal import JOURNAL
from nuwa.evaluation.result import write_result
from nuwa.report.retention import main

N = 160


def gqa(rng, skill):
    return [
        {"id": f"g{i}", "task": "gqa", "target": {"answer": "yes"}, "prediction": "",
         "scores": {"gqa/exact_match": float(rng.random() < skill)}}
        for i in range(N)
    ]  # fmt: skip


def pope(rng, skill):
    rows = []
    for i in range(N):
        truth = ("yes", "no")[i % 2]
        said = truth if rng.random() < skill else ("yes", "no")[1 - i % 2]
        target = {"answer": truth, "category": "random"}
        scores = {"pope/accuracy": float(said == truth)}
        rows.append({"id": f"p{i}", "task": "pope", "target": target, "prediction": said, "scores": scores})
    return rows


def mmbench(rng, skill):
    """Two rotations of every question, both of which must be right."""
    rows = []
    for i in range(N):
        target = {"index": i // 2 + (i % 2) * 1_000_000, "answer": "A", "category": "c", "L2-category": "l"}
        scores = {"mmbench/hit": float(rng.random() < skill)}
        row = {"id": f"m{i}", "task": "mmbench", "target": target, "prediction": "A", "scores": scores}
        rows.append(row | {"meta": {"group": str(i // 2)}})
    return rows


def mean(rows):
    return sum(value for row in rows for value in row["scores"].values()) / len(rows)


def f1(rows):
    pairs = [(row["target"]["answer"], row["prediction"]) for row in rows]
    hit = sum(pair == ("yes", "yes") for pair in pairs)
    return 2 * hit / (sum(truth == "yes" for truth, _ in pairs) + sum(said == "yes" for _, said in pairs))


def circular(rows):
    """The rows of a question stand together here, also after drawing."""
    values = [row["scores"]["mmbench/hit"] for row in rows]
    return sum(min(pair) for pair in zip(values[::2], values[1::2], strict=True)) / (len(values) / 2)


@dataclass(frozen=True)
class Kind:
    make: Callable
    slow: Callable
    metric: str
    group: int = 1


KINDS = {
    "gqa": Kind(gqa, mean, "gqa/exact_match"),
    "pope": Kind(pope, f1, "pope/f1_score"),
    "mmbench_en_dev": Kind(mmbench, circular, "mmbench/circular", 2),
}


def options(name, tmp_path):
    """A data set's options as a run records them."""
    return typed(compose(f"dataset={name}", f"dataset.path={tmp_path}"), "dataset")


def write_run(folder, name, method, rows, slow, tmp_path, **choices):
    content = result(method, {KINDS[name].metric: slow(rows)}, dataset=name, run_key=folder.name, **choices)
    content["config"]["dataset"] = options(name, tmp_path)
    content |= {"dataset": name, "baseline": f"{name}-none", "n": len(rows), "n_failed": 1}
    folder.mkdir(parents=True)
    write_result(folder, content)
    lines = [json.dumps({"status": "ok", "run_key": folder.name, **row}) + "\n" for row in rows]
    failed = {"id": "bad", "task": "", "status": "failed", "scores": {}, "run_key": folder.name}
    (folder / JOURNAL).write_text("".join([*lines, json.dumps(failed) + "\n"]), encoding="utf-8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three benchmarks by two methods and without pruning: the folder, and everybody's rows."""
    place, rng, data = tmp_path_factory.mktemp("runs"), random.Random(0), {}
    for name, kind in KINDS.items():
        for method, skill in (("none", 0.9), ("nuwa", 0.8), ("fastv", 0.6)):
            if (name, method) != ("pope", "fastv"):
                data[name, method] = kind.make(rng, skill)
                average = None if method == "none" else 64
                folder = place / "out" / f"{name}-{method}"
                write_run(folder, name, method, data[name, method], kind.slow, place, average=average)
    return place / "out", data


def slow_retention(data, method, names, draws=1500):
    """(value, low, high): whole groups drawn again, both runs together, each benchmark on its own."""
    rng, means = random.Random(1), []
    ratio = lambda kind, rows, full: kind.slow(rows) / kind.slow(full)  # noqa: E731
    value = sum(ratio(KINDS[name], data[name, method], data[name, "none"]) for name in names) / len(names)
    for _ in range(draws):
        total = 0.0
        for name in names:
            kind = KINDS[name]
            places = [rng.randrange(N // kind.group) for _ in range(N // kind.group)]
            chosen = [kind.group * place + k for place in places for k in range(kind.group)]
            total += ratio(kind, *([data[name, one][i] for i in chosen] for one in (method, "none")))
        means.append(total / len(names))
    means.sort()
    return value, means[int(0.025 * draws)], means[int(0.975 * draws)]


def printed(capsys, *arguments):
    """The rows of the table, by method."""
    assert main([*map(str, arguments), "--format", "csv"]) == 0
    return {row["method"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}


def numbers(text):
    """``71.0% [60.1%, 82.3%]`` as three shares."""
    return [float(part.strip("[]%,")) / 100 for part in text.split()]


def test_against_a_slow_loop(runs, capsys):
    place, data = runs
    rows = printed(capsys, place)
    assert list(rows) == ["fastv", "nuwa"]
    for method, names in (("nuwa", list(KINDS)), ("fastv", ["gqa", "mmbench_en_dev"])):
        assert rows[method]["benchmarks"] == str(len(names))
        for cell, group in (("mean retention", names), *((name, [name]) for name in names)):
            expected = slow_retention(data, method, group)
            found = numbers(rows[method][cell])
            assert found[0] == pytest.approx(expected[0], abs=6e-4)  # as printed, to a tenth of a percent
            assert found[1:] == pytest.approx(expected[1:], abs=0.02)
    assert rows["fastv"]["pope"] == ""


def test_only_some_benchmarks_count(runs, capsys):
    place, data = runs
    rows = printed(capsys, place, "--benchmarks", "gqa,mmbench_en_dev")
    assert numbers(rows["nuwa"]["mean retention"])[0] == pytest.approx(
        slow_retention(data, "nuwa", ["gqa", "mmbench_en_dev"], draws=40)[0], abs=6e-4
    )
    assert "pope" not in rows["nuwa"]
    assert main([str(place), "--benchmarks", "gqa,mme"]) == 1
    assert "no run of mme; there is gqa" in capsys.readouterr().err


def test_two_runs_of_one_benchmark_are_refused(runs, tmp_path, capsys):
    place, data = runs
    for number in range(2):
        folder = tmp_path / f"again{number}"
        write_run(folder, "gqa", "nuwa", data["gqa", "nuwa"], mean, tmp_path, average=64)
    for name in ("result.json", JOURNAL):
        (tmp_path / "gqa-none").mkdir(exist_ok=True)
        (tmp_path / "gqa-none" / name).write_bytes((place / "gqa-none" / name).read_bytes())
    assert main([str(tmp_path)]) == 1
    assert "again1 are both gqa; name the one that counts" in capsys.readouterr().err
    assert main([str(tmp_path / "again0")]) == 0 and "nuwa" in capsys.readouterr().out


def test_seeds_have_rows_of_their_own(runs, tmp_path, capsys):
    """They are two runs of one benchmark, and neither the one that counts."""
    place, data = runs
    for seed in range(2):
        rows = data["gqa", "nuwa"][: N // (seed + 1)]
        write_run(tmp_path / f"seed{seed}", "gqa", "nuwa", rows, mean, tmp_path, average=64, seed=seed)
    assert main([str(tmp_path), str(place / "gqa-none"), "--format", "csv"]) == 0
    printed_rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["method"], row["seed"]) for row in printed_rows] == [("nuwa", "0"), ("nuwa", "1")]


def test_the_unpruned_run_of_another_machine(runs, tmp_path, capsys):
    place, data = runs
    write_run(tmp_path / "here", "gqa", "nuwa", data["gqa", "nuwa"], mean, tmp_path, average=64)
    row = printed(capsys, tmp_path, place / "gqa-none")["nuwa"]
    assert row["gqa"] == printed(capsys, place, "--benchmarks", "gqa")["nuwa"]["gqa"]


def test_nothing_to_compare(runs, tmp_path, capsys):
    place, _ = runs
    for folder in (tmp_path, place / "gqa-none"):
        assert main([str(folder)]) == 1
        assert "no finished run beside its unpruned run" in capsys.readouterr().err


def test_the_published_tasks_are_benchmarks_of_their_own(tmp_path, capsys):
    """A data set of two tasks, scenes, is two; a task's headline is its own first metric."""
    rows = [
        row(f"{task}{i}", task=task, scores={f"{task}/{metric}": float(i % every > 0)})
        for task, metric, every in (("vqa", "exact_match", 2), ("vg", "acc@0.5", 4))
        for i in range(40)
    ]
    full = [one | {"scores": {name: 1.0 for name in one["scores"]}} for one in rows]
    for name, method, own in (("none", "none", full), ("run", "nuwa", rows)):
        metrics = {"vg_padded/acc@0.5": 1.0, "vqa/exact_match": 0.5, "vg/acc@0.5": 0.5}
        content = result(method, metrics, dataset="scenes", run_key=name, average=64)
        content["config"]["dataset"] = typed(compose("dataset=scenes"), "dataset")
        (tmp_path / name).mkdir()
        write_result(tmp_path / name, content | {"dataset": "scenes", "baseline": "none", "n": len(own)})
        lines = [json.dumps(one) + "\n" for one in own]
        (tmp_path / name / JOURNAL).write_text("".join(lines), encoding="utf-8")
    (found,) = printed(capsys, tmp_path).values()
    shares = [numbers(found[cell])[0] for cell in ("scenes vqa", "scenes vg", "mean retention")]
    assert found["benchmarks"] == "2" and shares == pytest.approx([0.5, 0.75, 0.625], abs=6e-4)
    for wanted, count in (("scenes", "2"), ("scenes vg", "1")):
        (found,) = printed(capsys, tmp_path, "--benchmarks", wanted).values()
        assert found["benchmarks"] == count
    assert main([str(tmp_path), "--benchmarks", "vg"]) == 1
    assert "no run of vg; there is scenes vqa, scenes vg" in capsys.readouterr().err

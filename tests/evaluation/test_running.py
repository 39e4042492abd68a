"""Numbers of a run while it works, and the same numbers with every logger, read back by others' readers."""

import csv
import json
from types import SimpleNamespace

import pytest
from helpers.jobs import small
from helpers.wandb_files import all_records, read_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nuwa.benchmarks.base import Benchmark
from nuwa.evaluation import running
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job
from nuwa.evaluation.running import RunningMetrics, RunningScores

KINDS = ("wandb", "csv", "tensorboard")
CLOCK = ("timings/", "running/samples_per_second")


def of_wandb(folder):
    """What W&B would show: the last numbers, and the curves."""
    (path,) = folder.glob("wandb/offline-run-*")
    points = []
    for record in all_records(path):
        if record.HasField("history"):
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            if "running/samples" in row:
                step = row.pop("running/samples")
                points.append((step, {name: value for name, value in row.items() if name.startswith("running/")}))
    summary = {name: value for name, value in read_run(path).summary.items() if isinstance(value, int | float)}
    return {name: value for name, value in summary.items() if not name.startswith("_")}, points


def of_csv(folder):
    with (folder / "csv/metrics.csv").open() as file:
        lines = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    *points, last = [(line.pop("step"), line) for line in lines]
    return last[1], points


def of_tensorboard(folder):
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    series = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    last = {tag: points[-1].value for tag, points in series.items() if not tag.startswith("running/")}
    steps = sorted({point.step for tag in series if tag.startswith("running/") for point in series[tag]})
    running_ones = {tag: {p.step: p.value for p in points} for tag, points in series.items() if tag not in last}
    return last, [
        (step, {tag: values[step] for tag, values in running_ones.items() if step in values}) for step in steps
    ]


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """By logger: the result of the same run, and the last numbers and the curves that its files hold."""
    outputs = tmp_path_factory.mktemp("outputs")
    readers = dict(zip(KINDS, (of_wandb, of_csv, of_tensorboard), strict=True))
    folders = {kind: run_job(small(outputs / kind, f"logger={kind}", "limit=6")) for kind in KINDS}
    return {kind: (read_result(folder), *readers[kind](folder)) for kind, folder in folders.items()}


def by_clock(name):
    return name.startswith(CLOCK)


@pytest.mark.parametrize("kind", KINDS)
def test_every_logger_holds_the_numbers_of_the_result(logged, kind):
    result, last, _ = logged[kind]
    kept = {f"retention/{name}": kept["value"] for name, kept in result["retention"].items()}
    wanted = result["metrics"] | {name: value for name, value in kept.items() if not name.endswith("/parsed")}
    wanted |= {name: result[name] for name in ("n", "n_failed", "tokens_entering", "llm_tflops", "kv_cache_bytes")}
    wanted |= {"timings/seconds_per_sample": result["timings"]["seconds_per_sample"]}
    assert {name: last[name] for name in wanted} == pytest.approx(wanted, rel=1e-6)  # TensorBoard has float32
    assert not [name for name in last if "load_seconds" in name or (name.startswith("retention") and "parsed" in name)]


def test_loggers_agree(logged):
    _, last, points = logged["wandb"]
    for kind in ("csv", "tensorboard"):
        _, others, curve = logged[kind]
        assert others.keys() == last.keys() and [step for step, _ in curve] == [step for step, _ in points]
        exact = {name: value for name, value in last.items() if not by_clock(name)}
        assert {name: others[name] for name in exact} == pytest.approx(exact, rel=1e-6)
        for (_, mine), (_, theirs) in zip(points, curve, strict=True):
            assert mine.keys() == theirs.keys()
            same = {name: value for name, value in mine.items() if not by_clock(name)}
            assert {name: theirs[name] for name in same} == pytest.approx(same, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_curves_go_by_samples_and_end_at_the_result(logged, kind):
    result, _, points = logged[kind]
    assert [step for step, _ in points] == [2, 4, 5, 6]  # batches of two, one task each
    ends = points[-1][1]
    assert ends.pop("running/samples_per_second") > 0
    assert {name.removeprefix("running/") for name in ends} == {"vqa/exact_match", "vg/acc@0.5"}
    assert ends == pytest.approx({name: result["metrics"][name.removeprefix("running/")] for name in ends}, rel=1e-6)


class Paired(Benchmark):
    """Half a point of a pair that is right, a whole one of an answer alone; all of them, and the share of ``a``."""

    def units(self, rows):
        pairs = {}
        for row in rows:
            if "group" in row["meta"]:
                pairs.setdefault(row["meta"]["group"], []).append(row["scores"]["t/a"])
        alone = [row["scores"] for row in rows if "group" not in row["meta"]]
        return alone + [{"t/pair": min(values)} for values in pairs.values() if len(values) == 2]

    def numbers(self, means):
        return {"t/both": means["t/a"] + means["t/pair"] / 2}

    __len__ = sample_id = __getitem__ = score = max_new_tokens = None


def test_running_scores_are_the_metrics_of_all_rows_however_they_come():
    Paired.__abstractmethods__ = frozenset()
    benchmark = Paired()
    rows = [{"meta": {}, "scores": {"t/a": float(n % 2)}} for n in range(5)]
    rows += [{"meta": {"group": n // 2}, "scores": {"t/a": float(n != 3)}} for n in range(6)]
    for size in (1, 3, 11):
        scores = RunningScores(benchmark)
        assert scores.numbers() == {}  # nothing answered yet
        for start in range(0, len(rows), size):
            scores.add(rows[start : start + size])
        assert scores.numbers() == pytest.approx(benchmark.metrics(rows))
    early = RunningScores(benchmark)
    early.add(rows[:5])
    assert early.numbers() == {}  # no pair is whole


class Journal(list):
    rows = property(list)


def worked(monkeypatch, before, batches, log, total, units=lambda rows: [row["scores"] for row in rows]):
    """A run of batches of rows after those of an earlier process."""
    monkeypatch.setattr(running, "log_running", log)
    monkeypatch.setattr(running, "Evaluation", SimpleNamespace)
    journal = Journal(before)
    benchmark = SimpleNamespace(units=units, numbers=dict)
    callback = RunningMetrics(None, benchmark, journal, total)
    callback.on_test_start(None, None)
    for batch in batches:
        journal += batch
        callback.on_test_batch_end(None, SimpleNamespace(reports=[(None, None, row) for row in batch]))
    callback.on_test_end(None, None)


def rows_of(*values):
    return [{"status": "ok", "scores": {"t/a": value}} for value in values]


def test_a_run_that_goes_on_counts_what_was_answered_before(monkeypatch):
    points = []
    failed = [{"status": "failed", "scores": {}}]
    worked(monkeypatch, rows_of(1, 1) + failed, [rows_of(0), rows_of(0)], lambda *point: points.append(point), 5)
    assert [(found["t/a"], samples) for _, found, samples in points] == [(2 / 3, 4), (1 / 2, 5)]


def test_a_long_run_logs_about_fifty_times(monkeypatch):
    points = []
    worked(monkeypatch, [], [rows_of(1) for _ in range(1001)], lambda *point: points.append(point[2]), 1001)
    assert 45 <= len(points) <= 51 and points[-1] == 1001


def test_a_logger_that_fails_is_asked_once(monkeypatch, caplog):
    asked = []

    def broken(*point):
        asked.append(point)
        raise OSError("No space left on device")

    worked(monkeypatch, [], [rows_of(1)] * 3, broken, 3)
    assert len(asked) == 1 and caplog.messages == [
        "logger: nothing more is logged while the run works (OSError: No space left on device); the answers stand"
    ]


def test_a_benchmark_that_cannot_count_yet_costs_the_curves_alone(monkeypatch, caplog):
    points = []
    worked(monkeypatch, [], [rows_of(1)] * 3, points.append, 3, units=lambda rows: [rows[0]["missing"]])
    assert not points and [message.partition(" (")[2] for message in caplog.messages] == [
        "KeyError: 'missing'); the answers stand"
    ]

"""What methods retain by ability, against counting by hand; and measured speeds in tables."""

import csv
import io
import json
import re

import pytest
from helpers.jobs import compose
from helpers.made_up import result

from nuwa.config import typed
from nuwa.evaluation.journal import JOURNAL
from nuwa.evaluation.result import write_result
from nuwa.evaluation.runs import Run
from nuwa.report.profile import main
from nuwa.report.tables.speeds import speed_sections

KINDS = ("color", "exist", "relation", "vg")
SCENES = {"none": (36, 40, 20, 30), "nuwa": (36, 30, 10, 15), "random": (9, 40, 20, 0)}
"""Right answers of 40 to each kind of question about scenes."""
GQA = {"none": 40, "nuwa": 20, "random": 10}


def row(name, task, metric, right, **meta):
    return {"id": name, "task": task, "status": "ok", "target": None, "prediction": "", "meta": meta,
            "scores": {metric: float(right)}}  # fmt: skip


def scene_rows(method):
    for kind, right in zip(KINDS, SCENES[method], strict=True):
        task, metric = ("vg", "vg/acc@0.5") if kind == "vg" else ("vqa", "vqa/exact_match")
        yield from (row(f"{kind}{i}", task, metric, i < right, kind=kind) for i in range(40))


def write_run(folder, dataset, method, rows):
    metrics = {metric: 0.5 for one in rows for metric in one["scores"]}
    content = result(method, metrics, run_key=folder.name, average=None if method == "none" else 64)
    content["config"]["dataset"] = typed(
        compose(f"dataset={dataset}", *["dataset.path=/d"] * (dataset == "gqa")), "dataset"
    )
    folder.mkdir(parents=True)
    write_result(folder, content | {"dataset": dataset, "baseline": f"{dataset}-none", "n": len(rows)})
    (folder / JOURNAL).write_text("".join(json.dumps(one | {"run_key": folder.name}) + "\n" for one in rows))


@pytest.fixture
def runs(tmp_path):
    for method in SCENES:
        write_run(tmp_path / f"scenes-{method}", "scenes", method, [*scene_rows(method)])
        gqa = [row(f"g{i}", "gqa", "gqa/exact_match", i < GQA[method]) for i in range(50)]
        write_run(tmp_path / f"gqa-{method}", "gqa", method, gqa)
    return tmp_path


def table(capsys, *arguments):
    assert main([*map(str, arguments), "--format", "csv"]) == 0
    return {row["method"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}


def test_every_ability_against_counting_by_hand(runs, capsys):
    """Answering is the mean over two data sets, colours of scenes and GQA."""
    rows = table(capsys, runs)
    assert list(rows) == ["nuwa", "random"]
    for method, found in rows.items():
        ours, full = SCENES[method], SCENES["none"]
        answering = (ours[0] / full[0] + GQA[method] / GQA["none"]) / 2
        expected = {"answering": answering, "hallucination": ours[1] / full[1], "spatial relations": ours[2] / full[2],
                    "grounding": ours[3] / full[3]}  # fmt: skip
        for ability, value in expected.items():
            shown, low, high = (float(part) for part in re.findall(r"-?[\d.]+(?=%)", found[ability]))
            assert shown / 100 == pytest.approx(value, abs=6e-4) and low <= shown <= high
        assert "reading" not in found and "video" not in found


def test_what_nothing_was_right_of(runs, capsys):
    for method in SCENES:
        write_run(runs / f"more/scenes-{method}", "scenes", method, [row("v", "vg", "vg/acc@0.5", False, kind="vg")])
    assert table(capsys, runs / "more")["nuwa"]["grounding"] == "none right unpruned"


def test_the_figure(runs, tmp_path, capsys):
    assert main([str(runs), "--plot", str(tmp_path / "plots")]) == 0
    drawn = (tmp_path / "plots" / "profile.svg").read_text(encoding="utf-8")
    assert "spatial relations" in drawn and (tmp_path / "plots" / "profile.png").stat().st_size > 10_000


def test_nothing_to_show(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "no finished run beside its unpruned run" in capsys.readouterr().err


def quartiles(value):
    return {"median": value, "q1": 0.9 * value, "q3": 1.1 * value}


def timed(device, batch):
    pruned = {"ttft_ms": 50.0, "prefill_ms": 20.0, "decode_ms_per_token": 2.0, "kv_mb": 1.5}
    ratios = {"encode_ms": 1.0, "ttft_ms": 2.0, "prefill_ms": 3.0, "decode_ms_per_token": 1.25}
    entry = {
        "batch": batch, "prompt_tokens": 600, "new_tokens": 4, "warmup": 1, "repeats": 3,
        "variants": {"pruned": {name: quartiles(value) for name, value in pruned.items()}, "vanilla": {}},
        "speedup": {name: quartiles(value) for name, value in ratios.items()},
        "compression_ms": quartiles(0.7), "theoretical_prefill_speedup": 4.0, "reached": 0.75,
    }  # fmt: skip
    place = {"device": device, "threads": 2, "dtype": "float32", "attention": "sdpa"}
    return Run.of(result("nuwa", {"vqa/exact_match": 0.5}, average=64, environment=place, speed=[entry]))


def test_measured_speeds():
    one, other = speed_sections([timed("cpu: a", 1), timed("cuda: b", 8)])
    assert one.rows[0]["TTFT, ms"] == 50.0 and one.rows[0]["TTFT, speed-up"] == "2.00 [1.80, 2.20]"
    assert one.rows[0]["reached"] == "75%" and one.rows[0]["KV, MB"] == 1.5
    assert "batch" not in one.columns and "batch" in other.columns
    assert "cpu: a, 2 thread(s), float32, sdpa" in one.remarks[0] and "cuda: b" in other.remarks[0]
    assert speed_sections([Run.of(result("nuwa", {}))]) == []

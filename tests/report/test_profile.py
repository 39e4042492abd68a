"""What methods retain by ability, against counting by hand; and measured speeds in tables."""

import csv
import io
import json
import re
import shutil

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
        compose(f"dataset={dataset}", *["dataset.path=/d"] * (dataset not in ("scenes", "plates"))), "dataset"
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


def numbers(cell):
    """``71.0% [60.1%, 82.3%]`` as three shares."""
    return [float(part) / 100 for part in re.findall(r"-?[\d.]+(?=%)", cell)]


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
            shown, low, high = numbers(found[ability])
            assert shown == pytest.approx(value, abs=6e-4) and low <= shown <= high
        assert "reading" not in found and "video" not in found


PLATES = {"none": (20, 30, 36, 40, 40), "nuwa": (5, 15, 36, 20, 30)}
"""Right answers of 40 to numbers in three sizes, to colours and to how many."""
PARTS = (("read", "small"), ("read", "medium"), ("read", "large"), ("vqa", "color"), ("vqa", "count"))


@pytest.fixture
def plates(tmp_path):
    for method, found in PLATES.items():
        rows = [
            row(
                f"{part}{i}", task, f"{task}/exact_match", i < right, kind="read" if task == "read" else part, part=part
            )
            for (task, part), right in zip(PARTS, found, strict=True)
            for i in range(40)
        ]
        for one in rows:
            one["scores"] |= {f"{metric}/{one['meta']['part']}": value for metric, value in one["scores"].items()}
        write_run(tmp_path / f"plates-{method}", "plates", method, rows)
    return tmp_path


def test_parts_of_abilities_against_counting_by_hand(plates, tmp_path, capsys):
    """Every part over its own samples; a data set that tells nothing apart is one part beside those of others."""
    for method in PLATES:
        textvqa = [row(f"t{i}", "textvqa", "textvqa/exact_match", i < GQA[method]) for i in range(50)]
        write_run(tmp_path / f"textvqa_val-{method}", "textvqa_val", method, textvqa)
    assert not any(":" in name for name in table(capsys, plates)["nuwa"])
    found = table(capsys, plates, "--parts")["nuwa"]
    ours, full = PLATES["nuwa"], PLATES["none"]
    read, textvqa = sum(ours[:3]) / sum(full[:3]), GQA["nuwa"] / GQA["none"]
    expected = {"answering": sum(ours[3:]) / sum(full[3:]), "answering: vqa color": ours[3] / full[3],
                "answering: vqa count": ours[4] / full[4], "reading": (read + textvqa) / 2,
                "reading: read small": ours[0] / full[0], "reading: read medium": ours[1] / full[1],
                "reading: read large": ours[2] / full[2], "reading: textvqa_val": textvqa}  # fmt: skip
    assert [name for name in found if name != "method"] == [*expected]
    for name, value in expected.items():
        assert numbers(found[name])[0] == pytest.approx(value, abs=6e-4), name
    assert main([str(plates), "--parts"]) == 0
    assert "reading: read small 40, " in (said := capsys.readouterr().out) and "reading 170, " in said


def test_parts_in_the_figure(plates, tmp_path):
    assert main([str(plates), "--parts", "--plot", str(tmp_path / "plots")]) == 0
    drawn = (tmp_path / "plots" / "profile.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in drawn for name in ("reading", "read small", "read large", "vqa count"))


def test_a_copy_of_a_run_counts_once(runs, capsys):
    once = table(capsys, runs)
    shutil.copytree(runs / "scenes-nuwa", runs / "z" / "scenes-nuwa")
    assert table(capsys, runs) == once


def test_two_runs_of_one_data_set_are_not_averaged(runs, capsys):
    write_run(runs / "scenes-again", "scenes", "nuwa", [*scene_rows("nuwa")])
    assert main([str(runs)]) == 1
    assert "scenes-nuwa are both scenes; name the one that counts" in capsys.readouterr().err


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

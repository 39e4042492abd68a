"""Runs of another model beside a printed table: what they keep of their own unpruned scores."""

from helpers.made_up import result, runs_of

from nuwa.report.paper import other_model, sections
from nuwa.report.paper.printed import load_table


def retention_rows(table, results):
    return other_model.retention_rows(load_table(table), runs_of(results))


def paper_sections(table, results):
    return sections.paper_sections(load_table(table), runs_of(results))


def test_another_model_is_shown_by_its_retention():
    kept = {
        "vqa/exact_match": {"value": 0.9, "low": 0.8, "high": 0.95},
        "vg/acc@0.5": {"value": 0.5, "low": 0.5, "high": 0.5},
    }
    scores = {"vqa/exact_match": 0.8, "vg/acc@0.5": 0.4}
    run = result("nuwa", scores, dataset="scenes", model="tiny_llava", average=64, retention=kept)

    def rows(table, *runs):
        return {(row["method"], row["tokens"]): row for row in retention_rows(table, runs)}

    row = rows("table6", run)["nuwa", "64"]
    assert (row["questions"], row["boxes"]) == ("90.0 [80.0, 95.0]", "50.0 / 47.2")
    paper = (58.33 / 61.9 + 62.0275 / 64.7 + 1706.869 / 1862) / 3 * 100
    assert rows("table7", run)["nuwa:d_thresh=280", "64"]["questions"] == f"90.0 [80.0, 95.0] / {paper:.1f}"
    assert rows("table11", run)["nuwa", "320"]["boxes"].startswith("50.0")  # of 2,880, the share that 64 is of 576
    assert rows("table11", result("nuwa", scores, model="tiny_llava", average=192)) == {}
    assert rows("flashvid_video", run) == {}  # pictures say nothing about videos
    del kept["vg/acc@0.5"]  # 0 without pruning
    kept["vg/miou"] = {"value": 0.7, "low": 0.6, "high": 0.8}
    assert rows("table6", run)["nuwa", "64"]["boxes"] == "0 unpruned / 47.2"
    assert rows("table6", run | {"metrics": {"vqa/exact_match": 0.8}})["nuwa", "64"]["boxes"] == "not asked / 47.2"
    assert rows("table6", run | {"retention": {}})["nuwa", "64"]["boxes"] == "no unpruned run / 47.2"


def test_clips_stand_beside_every_model_of_the_printed_videos():
    """By the mean over their tasks; the paper's is that over the benchmarks of its mean score."""
    kept = {"video/mean": {"value": 0.8, "low": 0.7, "high": 0.9}}
    scores = {"video/mean": 0.8, "order/exact_match": 0.7}
    run = result("flashvid", scores, dataset="clips", model="tiny_video", ratio=0.1, retention=kept)
    own = [row for row in retention_rows("flashvid_video", [run]) if row["method"] == "flashvid" and row["n"]]
    assert [row["paper's model"] for row in own] == ["llava-onevision-7b", "llava-video-7b", "qwen2.5-vl-7b"]
    paper = 100 * (57.8 / 58.5 + 60.0 / 60.3 + 56.5 / 56.6 + 57.4 / 58.3) / 4
    assert own[0]["videos"] == f"80.0 [70.0, 90.0] / {paper:.1f}" and "questions" not in own[0]
    assert retention_rows("table5", [run]) == []


def test_rows_of_another_model_are_named_where_there_is_no_score():
    """The rest of a printed table: no run, no method, or a run that could not reach its budget."""
    common = {"dataset": "scenes", "model": "tiny_llava"}
    short = {**result("sparsevlm", {}, average=32, status="unreachable", reason="too few", run_key="abc", **common)}
    del short["tokens_per_image"]  # that of the other runs of its model counts
    runs = [result("none", {"vqa/exact_match": 0.9}, **common), short]
    found = {(row["method"], row["tokens"]): row for row in retention_rows("table12", runs)}
    assert len(found) == len(load_table("table12").rows)
    assert found["sparsevlm", "160"]["questions"] == "unreachable / 82.0"
    assert found["visionzip", "160"]["questions"] == "missing / 89.1" and found["visionzip", "160"]["boxes"] == ""
    (section,) = paper_sections("table12", runs)
    assert section.remarks[1:] == ["sparsevlm 160: abc: too few"]
    first = {row["method"]: row for row in retention_rows("table1", runs)}
    assert first["random@fastv"]["questions"].startswith("none here / ")


def test_a_run_that_was_cut_short_is_named():
    """Its choices stand in no result; a row whose first method has no run is there all the same."""
    common = {"dataset": "scenes", "model": "tiny_llava"}
    scores = {"vqa/exact_match": 0.9}
    cut = {"run_key": "abc", "status": "unfinished", "reason": "7 samples computed, no result yet"}
    for model in ("tiny_llava", "llava_1_5_7b"):
        runs = [cut, result("nuwa_release", scores, average=64, **common | {"model": model})]
        (section,) = paper_sections("table6", runs)
        assert "abc: 7 samples computed, no result yet" in section.remarks
        assert any(row["method"] == "nuwa" and row["tokens"] == "64" for row in section.rows)


def test_unread_answers_are_those_of_the_rows():
    """A run of another printed table is not named below this one."""
    common = {"dataset": "scenes", "model": "tiny_llava"}
    scores = {"vqa/exact_match": 0.9, "vqa/parsed": 0.75}
    runs = [
        result("none", {"vqa/exact_match": 0.9}, **common),
        result("nuwa", scores, average=64, run_key="here", **common),
        result("nuwa", scores, average=100, run_key="elsewhere", **common),
    ]
    (section,) = paper_sections("table7", runs)
    assert section.remarks[1:] == ["answers that could not be read: nuwa vqa 25.0% (here)"]

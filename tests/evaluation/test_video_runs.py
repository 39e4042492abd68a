"""Runs on a folder of one's own videos: shortcuts change no answer, a video is decoded once, its notes are kept."""

import json
from collections import Counter

import pytest
from helpers.jobs import small
from helpers.videos import numbered, write_video

from nuwa.benchmarks import videos
from nuwa.engine.feature_cache import FeatureCache
from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.run import run_job
from nuwa.pruners import Pruner

MODEL = (
    "model=llava_onevision_random", "model.image_size=84", "model.seed=1", "frames.count=3", "dataset=local",
    "dataset.samples=null", "budget.ratio=0.5", "budget.average=null", "trainer.batch_size=3", "baseline=skip",
    "generation.max_new_tokens=3",
)  # fmt: skip
PLAIN = ("trainer.share=false", "trainer.prefetch=0", "trainer.cache_gb=0")
ROWS = [
    *(
        {"id": f"a{k}", "video": "a.mp4", "question": f"What falls {'?' * (k + 1)}", "answer": "a cup"}
        for k in range(3)
    ),
    {"id": "cut", "video": "cut.mp4", "question": "What?", "answer": "a cup"},
    {"id": "both", "image": "x.png", "video": "a.mp4", "question": "What?", "answer": "a cup"},
    {"id": "two", "video": ["a.mp4", "clip"], "question": "<video> What? <video>", "answer": "a cup"},
    {"id": "picture", "image": "x.png", "question": "What?", "answer": "a cup"},
    {"id": "away", "video": "away.mp4", "question": "What?", "answer": "a cup"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Whole and cut videos, a folder of frames, a picture, and rows that mix them."""
    place = tmp_path_factory.mktemp("own")
    write_video(place / "a.mp4", 40)
    cut = write_video(place / "cut.mp4", 200, movflags="faststart")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    for number in range(4):
        (place / "clip").mkdir(exist_ok=True)
        numbered(number).save(place / f"clip/{number}.png")
    numbered(7).save(place / "x.png")
    (place / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return place


@pytest.fixture
def job(tmp_path, folder):
    """Run a job: its result, and its rows by id without what a batch is."""

    def run(name, *overrides):
        done = run_job(small(tmp_path / name, *MODEL, f"dataset.path={folder}", *overrides))
        result = json.loads((done / "result.json").read_text(encoding="utf-8"))
        assert result["status"] == "done", result.get("traceback", result["reason"])
        rows = [row | {"batch": 0, "batch_end": True} for row in read_rows(done / JOURNAL)]
        return result, {row["id"]: row for row in rows}

    return run


@pytest.mark.parametrize("pruner", ["visionzip", "flashvid", "pyramiddrop"])
def test_all_shortcuts_answer_like_none(job, pruner):
    _, plain = job("plain", f"pruner={pruner}", "trainer.batch_size=1", *PLAIN)
    result, fast = job("fast", f"pruner={pruner}", "trainer.num_workers=2")
    assert fast == plain and len(plain) == len(ROWS) == result["n"] + 1
    assert any(row.get("prediction") for row in plain.values())
    visuals = {name: len(row["kept"]) for name, row in plain.items()}
    assert visuals == {"a0": 1, "a1": 1, "a2": 1, "cut": 1, "both": 2, "two": 2, "picture": 1, "away": 0}
    (tokens,) = plain["a0"]["image_tokens"]
    assert plain["two"]["image_tokens"] == [tokens] * 2 and plain["both"]["image_tokens"][1] == tokens == 3 * 9 + 1


def test_what_a_run_says_of_its_videos(job):
    result, rows = job("run")
    assert result["n_failed"] == result["n_passing"] == 1 and rows["away"]["passing"]
    assert "video away.mp4 does not exist" in rows["away"]["reason"]
    assert [name for name, row in rows.items() if "notes" in row] == ["cut", "two"]
    assert "of 200 promised frames" in rows["cut"]["notes"][0] and "2 frames a second" in rows["two"]["notes"][0]
    assert result["warning"] == f"2 of 7 samples have a note on their video, the first: {rows['cut']['notes'][0]}"
    assert rows["two"]["meta"] == {"video": ["a.mp4", "clip"]}
    assert rows["both"]["frames"] == [1, 3] and "frames" not in rows["picture"] and "metric_mflops" not in result


def test_a_video_is_decoded_once_and_a_sweep_takes_its_features_from_disk(job, monkeypatch):
    """Five samples are about ``a.mp4``."""
    decoded, found = Counter(), []
    decode, load = videos.decode, FeatureCache.load
    videos._read.cache_clear()
    monkeypatch.setattr(videos, "decode", lambda file, options: decoded.update([file.name]) or decode(file, options))
    monkeypatch.setattr(Pruner, "vision_key", "")  # decisions have tests of their own
    monkeypatch.setattr(FeatureCache, "load", lambda *given: found.append(load(*given)) or found[-1])
    job("run", "trainer.cache_gb=1")
    assert decoded == {"a.mp4": 1, "cut.mp4": 1}
    assert len(found) == 4 and [one is None for one in found] == [True, True, True, False]  # the picture comes twice
    job("run", "trainer.cache_gb=1", "pruner.d_thresh=18")
    assert len(found) == 8 and None not in found[4:]

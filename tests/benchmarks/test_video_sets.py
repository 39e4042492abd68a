"""The published data sets of videos: the reference's prompts and scores, the authors' folders, what is wrong there."""

import json
import pickle
from pathlib import Path

import pytest
from helpers.published import benchmark
from helpers.published_videos import LENGTH, OPTIONS, VIDEO_SETS, longvideobench, write_video_set
from helpers.videos import number_of, write_video

from nuwa import submission
from nuwa.benchmarks.base import BenchmarkError
from nuwa.benchmarks.egoschema import EgoSchema, first_choice
from nuwa.benchmarks.longvideobench import LongVideoBench
from nuwa.benchmarks.mvbench import FOLDERS, MVBench, lone_letter
from nuwa.benchmarks.videomme import VideoMME
from nuwa.evaluation.data import EvaluationData, Failure
from nuwa.samples import PassingError, SampleError

GOLDEN = Path(__file__).parents[1] / "golden/scoring"
TASKS = "dataset.tasks=[action_antonym,action_sequence,episodic_reasoning]"
EIGHT = "frames=uniform8"

pytestmark = pytest.mark.usefixtures("own_cache")


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def made(name, folder, *overrides):
    """A data set over a local copy."""
    tasks = (TASKS,) if name == "mvbench" else ()
    return benchmark(name, write_video_set(name, folder), EIGHT, *tasks, *overrides)


def shown(sample):
    """The numbers on the frames of a sample's only video."""
    (video,) = sample.videos
    return [number_of(frame) for frame in video.frames]


def journal(dataset, samples, answer):
    """Journal rows, ``answer(sample)`` being what the model says."""
    rows = []
    for sample in samples:
        text = answer(sample)
        target = json.loads(json.dumps(sample.target))
        rows.append({"id": sample.id, "target": target, "prediction": text, "scores": dataset.score(sample, text)})
    return rows


# the reference's scores


@pytest.mark.parametrize(
    ("name", "kind", "task"),
    [("videomme", VideoMME, "videomme"), ("egoschema_subset", EgoSchema, "egoschema"),
     ("longvideobench_val_v", LongVideoBench, "longvideobench"), ("mvbench_action_antonym", MVBench, "mvbench")],
)  # fmt: skip
def test_scores_of_the_reference(name, kind, task):
    data, scorer = golden(name), kind.unloaded({})
    rows = []
    for sample in data["samples"]:
        doc = sample["doc"] | ({"part": "action_antonym"} if kind is MVBench else {})
        doc = doc | ({"answer": int(doc["answer"])} if kind is EgoSchema else {})
        text, expected = sample["prediction"], sample["per_sample"]
        scores = scorer.score_document(doc, text)
        rows.append({"target": doc, "prediction": text, "scores": scores, "counted": not expected["random_fallback"]})
        if expected["random_fallback"]:
            assert set(scores.values()) == {0.0}, text
        else:
            right = expected["correct"] if "correct" in expected else expected["score"]
            assert scores[f"{task}/accuracy"] == float(right), text
        if kind is EgoSchema:
            assert first_choice(doc["option"], text) == expected.get("pred"), text
        if "parsed" in expected:
            assert scores[f"{task}/parsed"] == float(expected["parsed"] != ""), text
    found = scorer.metrics([row for row in rows if row["counted"]])
    assert next(iter(found)) == f"{task}/accuracy" and list(found)[-1] == f"{task}/parsed"
    printed = data["aggregate"]
    whole = next(value for key, value in printed.items() if key != "n")
    assert found[f"{task}/accuracy"] * (100 if whole > 1 else 1) == pytest.approx(whole, abs=1e-5)


def test_what_the_reference_reads_by_mistake():
    """Two commas are missing in VideoMME's list of beginnings; LongVideoBench's is whole."""
    doc = {"answer": "C", "duration": "short"}
    assert VideoMME.unloaded({}).score_document(doc, "Best option: C")["videomme/accuracy"] == 0.0
    lvb = {"correct_choice": 2, "duration_group": 15, "question_category": "S2E"}
    assert LongVideoBench.unloaded({}).score_document(lvb, "Best option: C")["longvideobench/accuracy"] == 1.0
    assert lone_letter("It is a dog, so B") == "A" and lone_letter("B. a dog") == "B" and lone_letter("dogs") is None
    assert first_choice(OPTIONS, "so the answer to it is b. blue dog indeed") == 1
    assert first_choice(OPTIONS, "B blue") == 1 and first_choice(OPTIONS, "blue dog") is None


@pytest.mark.parametrize(
    ("name", "reference"),
    [("videomme", "videomme"), ("egoschema_subset", "egoschema_subset"),
     ("longvideobench_val", "longvideobench_val_v"), ("mvbench", "mvbench_action_antonym")],
)  # fmt: skip
def test_prompts_of_the_reference(name, reference, tmp_path):
    samples = golden(reference)["samples"]
    file = tmp_path / ("json/action_antonym.json" if name == "mvbench" else "data.jsonl")
    file.parent.mkdir(exist_ok=True)
    docs = [sample["doc"] for sample in samples]
    for number, doc in enumerate(docs):
        doc["question_id"] = doc["question_idx"] = str(number)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(doc) + "\n" for doc in docs), encoding="utf-8")
        dataset = benchmark(name, file)
    else:
        file.write_text(json.dumps(docs), encoding="utf-8")
        dataset = benchmark(name, tmp_path, "dataset.tasks=[action_antonym]")
    for index, sample in enumerate(samples):
        doc = dataset.document(sample["doc"] | {"part": "action_antonym"}, 0, [])
        assert dataset.text(doc) == sample["prompt"], index


# the authors' folders


@pytest.mark.parametrize("name", VIDEO_SETS)
def test_local_copies(name, tmp_path):
    dataset = pickle.loads(pickle.dumps(made(name, tmp_path)))
    ids = [dataset.sample_id(index) for index in range(len(dataset))]
    assert dataset.name == name and len(set(ids)) == len(ids) == {"videomme": 9, "mvbench": 6}.get(name, 2)
    there = [dataset[index] for index in range(len(dataset)) if not (name == "videomme" and index >= 6)]
    for sample in there:
        assert sample.images == () and len(sample.videos) == 1 and len(sample.videos[0].frames) == 8
        assert sample.id in ids and sample.text.startswith(("What", "Select", "Question:What"))
        json.dumps([sample.target, sample.meta])
    if name == "egoschema":
        assert dataset.metrics(journal(dataset, there, lambda sample: "A")) == {}
        return
    right = {"videomme": lambda t: t["answer"], "egoschema_subset": lambda t: "ABCDE"[t["answer"]],
             "longvideobench_val": lambda t: "ABCDE"[t["correct_choice"]], "mvbench": lambda t: "B"}[name]  # fmt: skip
    perfect = dataset.metrics(journal(dataset, there, lambda sample: right(sample.target)))
    assert set(perfect.values()) == {1.0} and next(iter(perfect)) == f"{dataset.task}/accuracy"
    silent = dataset.metrics(journal(dataset, there, lambda sample: ""))
    assert set(silent.values()) == {0.0} and list(silent) == list(perfect)


def test_videomme_by_duration_with_a_missing_video_and_an_mp4_in_capitals(tmp_path):
    dataset = made("videomme", tmp_path)
    assert shown(dataset[0]) == shown(dataset[3]) == [0, 3, 6, 9, 13, 16, 19, 23] and LENGTH == 24
    assert dataset[0].text.endswith("\nWhat happens 0?\n" + "\n".join(OPTIONS) + "\n\nAnswer with the option's letter "
                                    "from the given choices directly.")  # fmt: skip
    with pytest.raises(PassingError, match=r"videomme, row 6: video data/vid2\.mp4 does not exist"):
        dataset[6]
    items = [item for batch in EvaluationData(dataset, 9, {}, 4, 0, record=True).test_dataloader() for item in batch]
    assert [type(item) is Failure for item in items] == [False] * 4 + [True] * 3 + [False] * 2
    rows = journal(dataset, (dataset[index] for index in range(6)), lambda sample: "A")
    found = dataset.metrics(rows)
    # answers A B C, D A B
    assert found == {
        "videomme/accuracy": 2 / 6, "videomme/accuracy/medium": 1 / 3, "videomme/accuracy/short": 1 / 3,
        "videomme/parsed": 1.0,
    }  # fmt: skip


def test_questions_about_one_video_share_its_frames(tmp_path):
    dataset = made("videomme", tmp_path)
    near = [dataset.neighbourhood(index)[0] for index in range(9)]
    assert near == ["vid0"] * 3 + ["vid1"] * 3 + ["vid2"] * 3
    assert dataset[0].videos[0] is dataset[1].videos[0] is dataset[2].videos[0]


def test_longvideobench_ends_early_has_one_frame_and_absent_options(tmp_path):
    dataset = made("longvideobench_val", tmp_path)
    early, one = dataset[0], dataset[1]
    assert "of 200 promised frames" in early.videos[0].note and shown(early)[-1] < 150
    assert shown(one) == [0] * 8 and one.text == (
        "What 1?\nA. red bus\nB. blue dog\nAnswer with the option's letter from the given choices directly.\n"
    )
    assert dataset.score(early, "The best option is B")["longvideobench/accuracy"] == 1.0
    found = dataset.metrics(journal(dataset, [early, one], lambda sample: "A"))
    assert found["longvideobench/accuracy"] == 0.5 == found["longvideobench/accuracy/duration/3600"] / 2
    assert found["longvideobench/accuracy/category/S2E"] == 0.0
    (tmp_path / "authors").mkdir()
    rows = longvideobench(tmp_path / "authors")
    (tmp_path / "authors/lvb_val.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "authors/lvb_test_wo_gt.json").write_text("[]", encoding="utf-8")
    again = benchmark("longvideobench_val", tmp_path / "authors", EIGHT)
    assert [again[index].text for index in range(2)] == [early.text, one.text]
    rows[1]["correct_choice"] = 2  # N/A
    (tmp_path / "authors/lvb_val.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(SampleError, match="correct_choice 2 is none of 2 options"):
        benchmark("longvideobench_val", tmp_path / "authors")[1]


def test_mvbench_takes_turns_and_knows_where_each_task_lies(tmp_path):
    dataset = made("mvbench", tmp_path)
    samples = [dataset[index] for index in range(6)]
    tasks = ["action_antonym", "action_sequence", "episodic_reasoning"]
    assert [sample.id for sample in samples] == [f"{task}-{k}" for k in range(2) for task in tasks]
    assert (
        samples[3].text
        == "Question:What 1?\nOption:\n(A) red bus\n(B) blue dog\n(C) table\nOnly give the best option.\n"
    )
    assert shown(samples[1])[-1] == LENGTH - 1  # the videos are cut, so that start and end are passed over
    assert shown(samples[2]) == [0, 1, 3, 4, 6, 7, 9, 11]
    assert samples[2].videos[0].times[-1] == pytest.approx(11 / 3) and samples[2].videos[0].note == ""
    said = dict(zip([sample.id for sample in samples], ["B", "B", "B", "", "A", ""], strict=True))
    found = dataset.metrics(journal(dataset, samples, lambda sample: said[sample.id]))
    # empty answers are left out, as in the reference: 1 of 1, 1 of 2, 1 of 1
    assert [found[f"mvbench/accuracy/{task}"] for task in tasks] == [1.0, 0.5, 1.0]
    assert found["mvbench/accuracy"] == pytest.approx(2.5 / 3) and found["mvbench/parsed"] == pytest.approx(4 / 6)
    assert len(FOLDERS) == 20


def test_the_server_gets_the_number_of_an_option_for_every_video(tmp_path):
    dataset = made("egoschema", tmp_path)
    rows = journal(dataset, [dataset[0], dataset[1]], lambda sample: {"0": "E. white dog", "1": "no idea"}[sample.id])
    assert dataset.submission(rows) == {"ego0": 4, "ego1": -1}


def test_the_file_for_the_server(tmp_path, capsys):
    """A finished run with a sample that failed; a run of anything else is refused."""
    whole = {"task": "egoschema", "status": "ok", "scores": {}, "batch": 0, "run_key": "a"}
    options = [*OPTIONS, "E. dog"]
    rows = [
        whole
        | {"id": f"{k}", "prediction": said, "target": {"video_idx": f"ego{k}", "option": options, "answer": None}}
        for k, said in enumerate(["(C)", "none of them"])
    ]
    rows.append(whole | {"id": "2", "status": "failed", "reason": "x"})
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    dataset = {"_target_": "nuwa.benchmarks.egoschema.EgoSchema", "name": "egoschema"}
    result = {"status": "done", "run_key": "a", "config": {"dataset": dataset}, "metrics": {}, "n": 2, "n_failed": 1}
    (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    assert submission.main([str(tmp_path), "--out", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == {"ego0": 2, "ego1": -1}
    assert capsys.readouterr().out.endswith("2 videos, 1 of them without a readable answer; 1 samples failed\n")
    dataset["_target_"] = "nuwa.benchmarks.pope.POPE"
    (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    assert submission.main([str(tmp_path)]) == 1 and "EgoSchema alone" in capsys.readouterr().err
    assert submission.main([str(tmp_path / "nothing")]) == 1


# what is refused before a model loads


def test_what_is_refused(tmp_path):
    write_video(tmp_path / "videos/ego0.mp4", 3)
    for name, overrides, message in [
        ("egoschema", ("dataset.path=null",), r"dataset\.videos_folder is not set: rows of egoschema only name"),
        ("egoschema", ("dataset.videos_folder=/nowhere",), r"dataset\.videos_folder=/nowhere: there is no such folder"),
        ("mvbench", ("dataset.tasks=[dancing]",), r"dataset\.tasks=\['dancing'\]: must be some of action_antonym"),
        ("mvbench", ("dataset.tasks=[]",), r"dataset\.tasks=\[\]: must be some of"),
        ("mvbench", (), r"lacks json/action_antonym\.json; dataset\.tasks takes some of them"),
        ("videomme", (), r"lacks videomme/test-\*\.parquet or test\.jsonl"),
    ]:
        with pytest.raises(BenchmarkError, match=message):
            benchmark(name, tmp_path, *overrides)

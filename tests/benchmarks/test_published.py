"""The published data sets end to end: rows as the hub stores them, the reference's prompts, perfect answers, limits."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.jobs import compose
from helpers.published import ONE_OF_A_KIND, SETS, benchmark, picture, write_set
from PIL import Image

from nuwa.benchmarks.base import Benchmark, BenchmarkError
from nuwa.config import build, typed
from nuwa.evaluation.data import EvaluationData, Failure

GOLDEN = Path(__file__).parents[1] / "golden/scoring"


pytestmark = pytest.mark.usefixtures("own_cache")


def journal(dataset: Benchmark, answer) -> list[dict]:
    """Journal rows, ``answer(sample)`` being what the model says; targets went through JSON as they do on disk."""
    rows = []
    for sample in (dataset[index] for index in range(len(dataset))):
        text = answer(sample)
        target = json.loads(json.dumps(sample.target))
        rows.append({"id": sample.id, "target": target, "prediction": text, "scores": dataset.score(sample, text)})
    return rows


def right_answer(sample) -> str:
    """What a perfect model says."""
    target = sample.target
    if "bbox" in target:
        return f"It is at {list(target['bbox'])}."
    answer = next(target[key] for key in ("answers", "answer", "label", "gt_answer") if key in target)
    answer = answer[0] if isinstance(answer, list | tuple) else answer
    return "ABCDEFGH"[answer] if isinstance(answer, int) else answer


def blank(folder: Path, size: tuple[int, int]) -> None:
    """An empty picture of a size, as a file named after it."""
    file = folder / f"{size}.png"
    if not file.exists():
        Image.new("1", size).save(file)


FULL = {"mme": 200.0, "vqav2": 1.0}


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_parquet_of_the_hubs_schema(name, tmp_path):
    dataset = benchmark(name, write_set(name, tmp_path))
    assert dataset.name == name
    ids = [dataset.sample_id(index) for index in range(len(dataset))]
    assert len(set(ids)) == len(ids) > 1
    copy = pickle.loads(pickle.dumps(dataset))
    for index, sample in enumerate(dataset[i] for i in range(len(dataset))):
        assert sample.id == ids[index] and sample.task == dataset.task
        seeds = [sample.meta["row"] + k for k in range(len(sample.images))]
        if name == "gqa":
            seeds = [sample.meta["row"] % 3]
        elif name == "mme":
            seeds = [sample.meta["row"] % 4]
        elif name.startswith("mmbench"):
            seeds = [sample.target["index"] % 1_000_000]
        elif name == "mmmu_val":
            seeds = [seed + 1 for seed in seeds]
        assert [image.size for image in sample.images] == [picture(seed).size for seed in seeds]
        for image, seed in zip(sample.images, seeds, strict=True):  # JPEG moves colours a little
            assert np.abs(np.asarray(image).astype(float) - np.asarray(picture(seed))).mean() < 12
        assert copy[index].text == sample.text
    rows = journal(dataset, right_answer)
    if name == "mmvet":
        assert all(row["scores"] == {} for row in rows) and dataset.metrics(rows) == {}
        return
    metrics = dataset.metrics(rows)
    headline = next(iter(metrics))
    assert headline.split("/")[0].removesuffix("_strict") == dataset.task
    assert metrics[headline] == pytest.approx(FULL.get(dataset.task, 1.0))
    nothing = dataset.metrics(journal(dataset, lambda sample: "zzz"))
    assert next(iter(nothing.values())) == 0.0 and next(iter(nothing)) == headline


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_a_missing_column_is_refused_by_its_name(name, tmp_path):
    make, place = SETS[name]
    file = tmp_path / f"{Path(place).name}.jsonl"
    rows = [{"image": "a.png"} | {key: cell for key, cell in row.items() if key != "image"} for row in make(6)]
    rows = [row | {key: "a.png" for key in row if key.startswith("image_") and row[key]} for row in rows]

    def write(*left_out):
        lines = [json.dumps({key: cell for key, cell in row.items() if key not in left_out}) for row in rows]
        file.write_text("\n".join(lines), encoding="utf-8")

    write()
    options = typed(compose(f"dataset={name}", f"dataset.path={tmp_path}"), "dataset")
    dataset = build(options)
    for needed in {*dataset.columns, *dataset.pictures, *dataset.keys}:
        write(needed)
        with pytest.raises(BenchmarkError, match=rf"{name}: .* lacks .*\b{needed}\b.*; it has"):
            build(options)


@pytest.mark.parametrize("name", [name for name in SETS if name not in ONE_OF_A_KIND])
def test_variants_find_their_own_split(name, tmp_path):
    """Files of other splits lie beside; each data set takes its own rows of its own split."""
    make, place = SETS[name]
    for split, count in ((Path(place).name, 6), ("other", 2)):
        rows = [{key: value for key, value in row.items() if key != "image"} for row in make(count)]
        lines = [json.dumps(row | {"image": "a.png"}) + "\n" for row in rows]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    picture(0).save(tmp_path / "a.png")
    dataset = benchmark(name, tmp_path)
    expected = {"refcoco": 12, "pope": 2, "mmbench": 3}.get(dataset.task, 6)
    assert dataset.name == name and len(dataset) == expected
    assert next(iter(dataset.metrics(journal(dataset, right_answer)).values())) == 1.0
    if dataset.task == "refcoco":
        assert dataset[2].expression == "thing 1 1" and dataset[2].text.endswith(": thing 1 1")
    if dataset.task == "textvqa":
        assert dataset[1].text.split("\n")[1] == "Reference OCR token: St., LOUIS"


@pytest.mark.parametrize(
    ("name", "golden", "change"),
    [("gqa", "gqa", ()), ("vqav2_val", "vqav2_val", ("dataset.prompt='{question}'",)), ("pope", "pope", ()),
     ("textvqa_val", "textvqa_val", ()), ("mme", "mme", ()), ("mmbench_en_dev", "mmbench_en_dev", ()),
     ("mmmu_val", "mmmu_val", ()), ("scienceqa_img", "scienceqa_img", ()), ("seedbench", "seedbench", ()),
     ("seedbench", "seedbench", ("dataset.data_type=video",)), ("mmvet", "mmvet", ()),
     ("nuwa_qwen_refcoco", "nuwa_qwen_refcoco", ())],
)  # fmt: skip
def test_prompts_and_scores_of_the_reference_through_a_jsonl(name, golden, change, tmp_path):
    data = json.loads((GOLDEN / f"{golden}.json").read_text(encoding="utf-8"))
    samples = data["samples"]
    if name == "seedbench":
        kind = "video" if change else "image"
        samples = [sample for sample in samples if sample["doc"]["data_type"] == kind]
    with (tmp_path / "data.jsonl").open("w", encoding="utf-8") as file:
        for sample in samples:
            doc = sample["doc"]
            size = (doc.get("width", 8), doc.get("height", 8))
            blank(tmp_path, size)
            cells = {"image": f"{size}.png"} | {f"image_{k}": f"{size}.png" for k in range(1, 8)}
            file.write(json.dumps(doc | cells) + "\n")
    dataset = benchmark(name, tmp_path / "data.jsonl", *change)
    assert len(dataset) == len(samples)
    found = sorted((dataset[index] for index in range(len(dataset))), key=lambda sample: sample.meta["row"])
    assert [sample.text for sample in found] == [sample["prompt"] for sample in samples]
    metric = {"mmbench_en_dev": "mmbench/hit", "mmvet": None}.get(name, next(iter(dataset.score(found[0], "")), None))
    for mine, theirs in zip(found, samples, strict=True):
        expected = theirs["per_sample"]
        if metric is not None and not expected.get("random_fallback"):
            truth = next((expected[key] for key in ("exact_match", "score", "correct") if key in expected), None)
            truth = float(expected.get("prefetch") == theirs["doc"]["answer"]) if truth is None else truth
            assert dataset.score(mine, theirs["prediction"])[metric] == pytest.approx(float(truth), abs=1e-6)
    if name == "seedbench":
        said = {sample.id: theirs["prediction"] for sample, theirs in zip(found, samples, strict=True)}
        means = dataset.metrics(journal(dataset, lambda sample: said[sample.id]))
        assert means[metric] == pytest.approx(data["aggregate"][f"seed_{kind}"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "golden"),
    [("refcoco_test", "refcoco_bbox_rec_test"), ("refcocoplus_testA", "refcoco+_bbox_rec_testA"),
     ("refcocog_test", "refcocog_bbox_rec_test")],
)  # fmt: skip
def test_refcoco_rows_of_the_reference_through_a_jsonl(name, golden, tmp_path):
    data = json.loads((GOLDEN / f"{golden}.json").read_text(encoding="utf-8"))
    with (tmp_path / "data.jsonl").open("w", encoding="utf-8") as file:
        for row in data["raw_rows"]:
            size = (row["image_width"], row["image_height"])
            blank(tmp_path, size)
            row = {"question_id": row["question_id"], "answer": row["answer"], "bbox": row["bbox_xywh"]}
            file.write(json.dumps(row | {"image": f"{size}.png"}) + "\n")
    dataset = benchmark(name, tmp_path)
    found = [dataset[i] for i in range(len(dataset))]
    for mine, theirs in zip(found, data["samples"], strict=True):
        assert mine.text == theirs["prompt"] == theirs["prompt_qwen"]  # the reference asks both models the same
        assert mine.expression == theirs["doc"]["answer"]
        assert mine.target["bbox"] == pytest.approx(tuple(theirs["doc"]["bbox"]), abs=1e-6)
        expected = {f"refcoco/{key}": float(value) for key, value in theirs["per_sample"].items()}
        scores = dataset.score(mine, theirs["prediction"])
        assert {key: scores[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_limits_take_whole_groups(tmp_path):
    mme = benchmark("mme", write_set("mme", tmp_path / "mme"))
    assert [mme.take(limit) for limit in (None, 1, 2, 3, 5, 100)] == [8, 2, 2, 2, 4, 8]
    first = [mme[index].target for index in range(2)]
    assert first[0]["question_id"] == first[1]["question_id"] and {row["answer"] for row in first} == {"Yes", "No"}
    mmbench = benchmark("mmbench_en_dev", write_set("mmbench_en_dev", tmp_path / "mmbench"))
    assert [mmbench[index].target["index"] for index in range(4)] == [0, 1_000_000, 1, 1_000_001]
    assert mmbench.take(3) == 2
    pope = benchmark("pope", write_set("pope", tmp_path / "pope"))
    assert [pope.take(limit) for limit in (None, 1, 5, 100)] == [8, 1, 5, 8]


def test_circular_needs_every_rotation(tmp_path):
    dataset = benchmark("mmbench_en_dev", write_set("mmbench_en_dev", tmp_path))
    metrics = dataset.metrics(journal(dataset, lambda sample: "A"))  # right for base rows, wrong for rotations
    assert metrics["mmbench/circular"] == 0.0 and metrics["mmbench/vanilla"] == 1.0
    assert metrics["mmbench/circular/category/c0"] == 0.0


def test_pictures_of_all_kinds(tmp_path):
    """MMMU's follow the question; SEED's are a list; both keep their order."""
    mmmu = benchmark("mmmu_val", write_set("mmmu_val", tmp_path / "mmmu"))
    assert [len(mmmu[i].images) for i in range(4)] == [1, 2, 3, 1]
    assert mmmu[1].text.startswith("<image 1> <image 2> What?\nA. one\nB. two\n\n")
    assert mmmu[7].text == "<image 1> <image 2> What?\n\nAnswer the question using a single word or phrase."
    seed = benchmark("seedbench", write_set("seedbench", tmp_path / "seed"))
    assert len(seed) == 6 and [len(seed[i].images) for i in range(3)] == [1, 2, 2]


def test_workers_read_what_the_main_process_reads(tmp_path):
    dataset = benchmark("gqa", write_set("gqa", tmp_path, 12))
    batches = {
        workers: list(EvaluationData(dataset, 12, {}, 5, workers, record=True).test_dataloader()) for workers in (0, 2)
    }
    for alone, helped in zip(*batches.values(), strict=True):
        assert [sample.id for sample in alone] == [sample.id for sample in helped]
        assert all(np.array_equal(a.images[0], b.images[0]) for a, b in zip(alone, helped, strict=True))
    assert not any(isinstance(item, Failure) for batch in batches[2] for item in batch)


def test_box_frames_are_both_reported(tmp_path):
    path = write_set("refcoco_testA", tmp_path)
    original = benchmark("refcoco_testA", path)
    padded = benchmark("refcoco_testA", path, "dataset.box_frame=padded")
    scores = [
        original.score(original[0], right_answer(original[0])),
        padded.score(padded[0], right_answer(original[0])),
    ]
    assert scores[0]["refcoco/IoU"] == pytest.approx(1.0) == scores[1]["refcoco_original/IoU"]
    assert scores[0]["refcoco_padded/IoU"] == scores[1]["refcoco/IoU"] < 1.0


def test_pope_counts_how_often_the_model_says_yes(tmp_path):
    path = write_set("pope", tmp_path)
    for source, share in (("truth", 5 / 8), ("prediction", 1.0)):
        dataset = benchmark("pope", path, f"dataset.yes_ratio_of={source}")
        assert dataset.metrics(journal(dataset, lambda sample: "Yes"))["pope/yes_ratio"] == share

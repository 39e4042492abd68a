"""What bad data costs: a bad row fails alone and says why; a bad source is refused before a model loads."""

import json
import math
import sys

import pytest
from helpers.published import (
    SETS,
    benchmark,
    mmbench,
    mmmu,
    picture,
    pope,
    refcoco,
    scienceqa,
    seedbench,
    vqav2,
    write_parquet,
    write_set,
)

from nuwa.benchmarks.base import BenchmarkError
from nuwa.benchmarks.images import stored_image
from nuwa.benchmarks.sources import load_rows, missing_shards
from nuwa.samples import SampleError

pytestmark = pytest.mark.usefixtures("own_cache")


def error_of(name, rows, tmp_path):
    """The error of the second row; the first is good."""
    write_parquet(rows, tmp_path / SETS[name][1])
    dataset = benchmark(name, tmp_path)
    assert dataset[0].images
    with pytest.raises(SampleError) as caught:
        dataset[1]
    assert str(caught.value).startswith(f"{dataset.name}, row 1: ")
    return str(caught.value)


def changed(make, **cells):
    """Two rows, the second with other cells."""
    first, second = make(2)
    return [first, second | cells]


def choices(**cells):
    """Two multiple-choice questions, the second with other cells."""
    first, second, _ = mmmu(3)
    return [first, second | cells]


@pytest.mark.parametrize("content", [b"", b"hello", "half"])
def test_pictures_that_cannot_be_read(content, tmp_path):
    good = vqav2(2)[1]["image"]["bytes"]
    content = good[: len(good) // 2] if content == "half" else content
    rows = changed(vqav2, image={"bytes": content, "path": "a.jpg"})
    assert "image a.jpg cannot be read" in error_of("vqav2_val", rows, tmp_path)


@pytest.mark.parametrize(
    ("box", "reason"),
    [([8.0, 12.0, math.nan, 24.0], "bbox must be four numbers, not [8.0, 12.0, nan, 24.0]"),
     ([8.0, 12.0, 16.0], "bbox must be four numbers"), ([8.0, 12.0, -4.0, 24.0], "is empty or reversed"),
     ([8.0, 12.0, 0.0, 24.0], "is empty or reversed"), ([40.0, 12.0, 20.0, 24.0], "leaves the picture of 48 x 64"),
     ([-9.0, 12.0, 20.0, 24.0], "leaves the picture of 48 x 64")],
)  # fmt: skip
def test_boxes_that_are_none(box, reason, tmp_path):
    assert reason in error_of("refcoco_testA", changed(refcoco, bbox=box), tmp_path)


@pytest.mark.parametrize(
    ("name", "rows", "reason"),
    [("refcoco_testA", changed(refcoco, answer=[]), "answer must be a list of at least one text, not []"),
     ("vqav2_val", changed(vqav2, answers=[]), "answers must be a list of at least one text"),
     ("vqav2_val", changed(vqav2, question=None), "question must be a text, not None"),
     ("pope", changed(pope, answer=None), "answer must be a text"),
     ("mmmu_val", changed(mmmu, options="one, two"), "options must be a list in a text, not 'one, two'"),
     ("mmmu_val", changed(mmmu, image_2=None), "it names image_1, image_2, of which 1 are there"),
     ("scienceqa_img", changed(scienceqa, answer=None), "answer must be a whole number, not None"),
     ("scienceqa_img", changed(scienceqa, answer=26), "answer must be the place of one of 3 choices, not 26"),
     ("scienceqa_img", changed(scienceqa, answer=3), "answer must be the place of one of 3 choices, not 3"),
     ("scienceqa_img", changed(scienceqa, answer=-1), "answer must be the place of one of 3 choices, not -1"),
     ("scienceqa_img", changed(scienceqa, choices=["x"] * 27), "27 options are more than there are letters"),
     ("mmmu_val", choices(answer="C"), "answer must be the letter of one of 2 options, not 'C'"),
     ("mmmu_val", choices(answer="two"), "answer must be the letter of one of 2 options, not 'two'"),
     ("mmmu_val", choices(options="[]"), "answer must be the letter of one of 0 options, not 'B'"),
     ("mmbench_en_dev", changed(mmbench, answer="E"), "answer must be A, B, C or D, not 'E'"),
     ("seedbench", changed(seedbench, answer="AB"), "answer must be A, B, C or D, not 'AB'")],
)  # fmt: skip
def test_malformed_cells(name, rows, reason, tmp_path):
    assert reason in error_of(name, rows, tmp_path)


def test_a_question_without_its_picture(tmp_path):
    write_set("gqa", tmp_path, 2)
    write_parquet([{"id": "n0", "image": picture(0)}], tmp_path / "testdev_balanced_images/testdev")
    dataset = benchmark("gqa", tmp_path)
    assert dataset[0].images
    with pytest.raises(SampleError, match="its picture n1 is not in"):
        dataset[1]


def test_lines_that_are_no_rows(tmp_path):
    """A jsonl: broken lines and lacking cells fail alone."""
    good = {"question": "Is it?", "answer": "yes", "category": "random", "image": "a.png", "question_id": 1}
    picture(0).save(tmp_path / "a.png")
    lacking = {key: value for key, value in good.items() if key != "answer"} | {"question_id": 2}
    lines = [json.dumps(good), '{"question"', json.dumps(lacking), json.dumps(good | {"question_id": 3, "image": "b"})]
    (tmp_path / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    dataset = benchmark("pope", tmp_path)
    assert len(dataset) == 4 and dataset[0].target == {"answer": "yes", "category": "random"}
    for index, reason in ((1, "line 2: is not valid JSON"), (2, "line 3: lacks answer"), (3, "image b does not exist")):
        with pytest.raises(SampleError, match=reason):
            dataset[index]


@pytest.mark.parametrize("content", ["{}".encode("utf-16"), b"question,answer\nIs it?,yes\n"])
def test_a_file_without_a_row_says_what_its_first_line_is(content, tmp_path):
    (tmp_path / "test.jsonl").write_bytes(content)
    with pytest.raises(BenchmarkError, match=r"test\.jsonl cannot be read: line 1 is not valid JSON"):
        benchmark("pope", tmp_path)


def test_pictures_as_bytes_alone_and_as_what_they_are_not(tmp_path):
    """A text in the place of bytes is named, shortened; bytes that are no picture are not named by their address."""
    content = vqav2(1)[0]["image"]["bytes"]
    assert stored_image(content, None).tobytes() == stored_image({"bytes": content}, None).tobytes()
    for cell in ("iVBORw0KGgo" * 9999, {"bytes": "iVBORw0KGgo" * 9999}):
        with pytest.raises(SampleError, match=r"can be no file|must be its bytes or a file name") as caught:
            stored_image(cell, tmp_path)
        assert len(str(caught.value)) < 2000
    with pytest.raises(SampleError, match=r"image cannot be read: it is no picture of a known kind$"):
        stored_image(b"hello", None)


HALF = "x \ud83d"
"""With a lone surrogate: JSON can hold it, neither a tokenizer nor a UTF-8 file can."""


@pytest.mark.parametrize(
    ("name", "make", "cells", "reason"),
    [("pope", pope, {"question": HALF}, r"question must be a text without lone surrogates, not 'x \\ud83d'"),
     ("pope", pope, {"answer": HALF}, "answer must be a text without"),
     ("pope", pope, {"question_id": HALF}, "question_id must be a text without"),
     ("pope", pope, {"category": HALF}, "category must be a text without"),
     ("pope", pope, {"image": HALF}, r"image 'x \\ud83d' can be no file"),
     ("pope", pope, {"image": "a\0b"}, r"image 'a\\x00b' can be no file"),
     ("pope", pope, {"image": "a" * 999}, "can be no file: .*too long"),
     ("vqav2_val", vqav2, {"answers": [{"answer": HALF}]}, "answers must be a text without"),
     ("refcoco_testA", refcoco, {"question_id": HALF, "answer": ["x"]}, "question_id must be a text without"),
     ("refcoco_testA", refcoco, {"answer": [HALF]}, "answer must be a text without"),
     ("mmmu_val", mmmu, {"options": r"['one', 'x \ud83d']"}, "options must be a text without")],
)  # fmt: skip
def test_texts_and_names_that_cannot_be_written(name, make, cells, reason, tmp_path):
    picture(0).save(tmp_path / "a.png")
    pictures = ("image", "image_1", "image_2", "image_3")
    first, second = ({key: "a.png" if key in pictures else cell for key, cell in row.items()} for row in make(3)[:2])
    split = SETS[name][1].rpartition("/")[2]
    (tmp_path / f"{split}.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(second | cells)}\n", encoding="utf-8")
    dataset = benchmark(name, tmp_path)
    assert dataset[0].images
    with pytest.raises(SampleError, match=reason) as caught:
        dataset[1]
    (str(caught.value) + dataset.sample_id(1)).encode()


def test_an_id_that_cannot_be_written_is_the_rows(tmp_path):
    picture(0).save(tmp_path / "a.png")
    row = seedbench(1)[0] | {"image": "a.png", "question_id": HALF}
    (tmp_path / "test.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert benchmark("seedbench", tmp_path)[0].id == "row-0"


def test_a_column_that_cannot_be_written_is_spelt_out(tmp_path):
    lines = [pope(1)[0] | {"image": "a.png"}, {HALF: 1}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with pytest.raises(SampleError, match=r"its columns: x \\ud83d") as caught:
        benchmark("pope", tmp_path)[1]
    str(caught.value).encode()
    (tmp_path / "test.jsonl").write_text(json.dumps({HALF: 1}), encoding="utf-8")
    with pytest.raises(BenchmarkError, match=r"lacks question_id.*; it has x \\ud83d"):
        benchmark("pope", tmp_path)


def test_numbers_that_no_float_can_hold(tmp_path):
    """JSON's whole numbers have no end."""
    picture(0).save(tmp_path / "a.png")
    row = refcoco(1)[0] | {"image": "a.png"}
    lines = [json.dumps(row | {"bbox": box}) for box in ([8, 12, 16, 24], [8, 12, 10**400, 24], [-(10**400), 1, 2, 3])]
    (tmp_path / "testA.jsonl").write_text("\n".join(lines), encoding="utf-8")
    dataset = benchmark("refcoco_testA", tmp_path)
    assert dataset[0].target["bbox"] == (8 / 64, 12 / 48, 24 / 64, 36 / 48)
    expressions = len(row["answer"])
    for index in (expressions, 2 * expressions):
        with pytest.raises(SampleError, match=r"bbox must be four numbers, not .*000"):
            dataset[index]


def test_records_with_boxes_in_pixels(tmp_path):
    """VLM-R1's json: a list, pictures in another folder, and a size that must be the picture's."""
    record = {
        "normal_caption": "The cup", "solution": [1, 2, 30, 40], "width": 64, "height": 48, "image": "train2014/a.png",
    }  # fmt: skip
    (tmp_path / "coco/train2014").mkdir(parents=True)
    picture(0).save(tmp_path / "coco/train2014/a.png")
    rows = [record, record | {"width": 99}, record | {"solution": [5, 2, 3, 40]}, "a text"]
    (tmp_path / "refcoco_testA.json").write_text(json.dumps(rows), encoding="utf-8")
    dataset = benchmark("nuwa_qwen_refcoco", tmp_path, f"dataset.images_folder={tmp_path / 'coco'}")
    assert dataset[0].text == "Locate cup in this image and output the bbox coordinates in JSON format."
    for index, reason in (
        (1, "says 99 x 48 pixels, its picture is 64 x 48"), (2, "must be four numbers x0, y0, x1, y1 in order"),
        (3, "is a JSON str, not an object"),
    ):  # fmt: skip
        with pytest.raises(SampleError, match=reason):
            dataset[index]
    with pytest.raises(BenchmarkError, match=r"dataset\.images_folder=.*no such folder"):
        benchmark("nuwa_qwen_refcoco", tmp_path, f"dataset.images_folder={tmp_path / 'none'}")
    (tmp_path / "refcoco_testA.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BenchmarkError, match="holds a JSON dict, not a list of objects"):
        benchmark("nuwa_qwen_refcoco", tmp_path)


# what is refused at once


def test_a_missing_column_is_named_with_those_that_exist(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "bbox"} for row in refcoco(2)]
    write_parquet(rows, tmp_path / "data/testA")
    with pytest.raises(BenchmarkError, match=r"refcoco_testA: .* lacks bbox; it has question_id, image, question"):
        benchmark("refcoco_testA", tmp_path)


def test_seedbench_needs_the_column_that_tells_videos_apart(tmp_path):
    rows = [
        {key: value for key, value in row.items() if key != "data_type"} | {"image": "a.png"} for row in seedbench(2)
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(BenchmarkError, match=r"seedbench: .* lacks data_type"):
        benchmark("seedbench", tmp_path)


@pytest.mark.parametrize("name", ["vqav2_val", "mmmu_val", "mmbench_en_dev"])
def test_ids_must_be_unique(name, tmp_path):
    rows = SETS[name][0](4)
    write_parquet([*rows, rows[2]], tmp_path / SETS[name][1])
    with pytest.raises(BenchmarkError, match=r"rows 2 and 4 of .* have the same id"):
        benchmark(name, tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 0.5])
def test_a_parquet_that_was_cut(keep, tmp_path):
    file = write_parquet(pope(4), tmp_path / "data/test")
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(BenchmarkError, match=r"test-00000-of-00001\.parquet is not a whole parquet file"):
        benchmark("pope", tmp_path)


def test_no_rows(tmp_path):
    (tmp_path / "test.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(BenchmarkError, match="holds no rows"):
        benchmark("pope", tmp_path)
    write_parquet(pope(2), tmp_path / "p/data/test")
    with pytest.raises(BenchmarkError, match=r"no row of .* belongs to it"):
        benchmark("pope", tmp_path / "p", "dataset.category=adversarial")


def test_folders_without_the_split(tmp_path):
    with pytest.raises(BenchmarkError, match=r"dataset\.path=.*no such folder or file"):
        benchmark("pope", tmp_path / "none")
    with pytest.raises(BenchmarkError, match=r"lacks test-\*\.parquet or test\.jsonl; it holds nothing"):
        benchmark("pope", tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(BenchmarkError, match=r"it holds a\.jsonl, b\.jsonl"):
        benchmark("pope", tmp_path)


def test_another_splits_shard_is_not_taken(tmp_path):
    file = write_parquet(refcoco(2), tmp_path / "data/testA")
    with pytest.raises(
        BenchmarkError, match=r"lacks testB-\*\.parquet or .*; it holds data/testA-00000-of-00001\.parquet"
    ):
        benchmark("refcoco_testB", tmp_path)
    older = file.rename(file.with_stem(f"{file.stem}-5ac2d1a7b1b5a1b5"))
    with pytest.raises(BenchmarkError, match="lacks testB-"):
        benchmark("refcoco_testB", tmp_path)
    older.rename(file.with_stem("mine"))
    assert len(benchmark("refcoco_testB", tmp_path)) == 3


@pytest.mark.parametrize("ending", ["", "-5ac2d1a7b1b5a1b5"])
@pytest.mark.parametrize("streaming", ["false", "true"])
def test_all_shards_must_be_there(streaming, ending, tmp_path):
    rows, files = refcoco(9), {}
    for number in (0, 2, 1):
        file = write_parquet(rows[3 * number : 3 * number + 3], tmp_path / "data/testA")
        files[number] = file.rename(file.with_stem(f"testA-{number:05}-of-00003{ending}"))
        if number == 2:
            with pytest.raises(
                BenchmarkError, match=r"dataset\.path=.* lacks shards of testA: testA-00001-of-00003\.parquet$"
            ):
                benchmark("refcoco_testA", tmp_path, f"dataset.streaming={streaming}")
    assert len(benchmark("refcoco_testA", tmp_path, f"dataset.streaming={streaming}")) == 18


def test_many_missing_shards_are_a_short_line():
    assert missing_shards(["a-00001-of-00003", "b-00000-of-00001", "c"]) == ["a-00000-of-00003", "a-00002-of-00003"]
    assert len(missing_shards(["a-00001-of-01000"])) == 999


def test_several_jsonl_of_a_split_are_no_guess(tmp_path):
    for name in ("test", "test-old"):
        (tmp_path / f"{name}.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(BenchmarkError, match=r"dataset\.path=.* may be test-old\.jsonl, test\.jsonl; give the one"):
        benchmark("pope", tmp_path)


@pytest.mark.parametrize(
    ("option", "reason"),
    [("dataset.answer_tokens=0", "answer_tokens=0 must be at least 1"),
     ("dataset.prompt='hello'", r"needs \{question\}"),
     ("dataset.prompt='{question} {hint}'", r"may have \{question\} only")],
)  # fmt: skip
def test_impossible_options_are_named(option, reason, tmp_path):
    (tmp_path / "test.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(BenchmarkError, match=reason):
        benchmark("pope", tmp_path, option)


def test_without_the_package_datasets(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BenchmarkError, match=r"pip install 'nuwa-vlm\[data\]'"):
        load_rows(["a/b"], None, "test")
    picture(0).save(tmp_path / "a.png")
    row = {"question": "Is it?", "answer": "yes", "category": "random", "image": "a.png", "question_id": 1}
    (tmp_path / "test.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert benchmark("pope", tmp_path)[0].images[0].size == (64, 48)

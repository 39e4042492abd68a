"""Data sets at their boundaries: the least that options allow, neighbours, and what long or odd sources are told."""

import json

import datasets
import pyarrow.parquet
import pytest
from helpers.published import SETS, benchmark, picture, pope, write_parquet, write_set

from nuwa.benchmarks.base import BenchmarkError, SourceError
from nuwa.benchmarks.column_checks import checked, identifier, integer, letter, string, text
from nuwa.benchmarks.local import Local
from nuwa.benchmarks.mmbench import MMBench
from nuwa.benchmarks.scenes import Scenes
from nuwa.samples import SampleError

pytestmark = pytest.mark.usefixtures("own_cache")


def jsonl(folder, rows, name="test"):
    """Rows that share a picture."""
    picture(0).save(folder / "a.png")
    lines = [json.dumps(row | {"image": "a.png"}) + "\n" for row in rows]
    (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def test_one_of_everything_is_enough(tmp_path):
    dataset = benchmark("pope", jsonl(tmp_path, pope(1)), "dataset.answer_tokens=1")
    assert len(dataset) == 1 and dataset.max_new_tokens("pope") == 1
    local = Local(str(jsonl(tmp_path, [{"question": "Is it?", "answer": "yes"}] * 2, "data")), samples=1)
    assert len(local) == 1 and local.max_new_tokens("vqa") == 16 and local.max_new_tokens("vg") == 64
    scene = Scenes(1, picture_side=1, vqa_max_new_tokens=5)
    assert scene[0].images[0].size == (1, 1) and scene.max_new_tokens("vqa") == 5 and scene.max_new_tokens("vg") == 32


@pytest.mark.parametrize("index", [-1, 2, 3])
def test_there_is_no_sample_beyond_the_ends(index, tmp_path):
    for dataset in (benchmark("pope", jsonl(tmp_path, pope(2))), Scenes(2)):
        with pytest.raises(IndexError):
            dataset[index]


@pytest.mark.parametrize("key", ["picture_side", "questions", "samples"])
def test_scenes_have_at_least_one(key):
    with pytest.raises(BenchmarkError, match=rf"dataset\.{key}=0 must be at least 1"):
        Scenes(**{"samples": 2} | {key: 0})


def test_neighbours_have_the_same_pictures(tmp_path):
    """Samples are computed with those of the same pictures, and among them with questions of their own length."""
    (tmp_path / "pope").mkdir()
    rows = [row | {"question": "Is it?" + "?" * i} for i, row in enumerate(pope(2))]
    dataset = benchmark("pope", jsonl(tmp_path / "pope", rows))
    assert [dataset.neighbourhood(i) for i in range(2)] == [("COCO_val2014_0", 6), ("COCO_val2014_0", 7)]
    for row in rows:
        del row["image_source"]
    dataset = benchmark("pope", jsonl(tmp_path / "pope", rows))
    assert [dataset.neighbourhood(i) for i in range(2)] == [("0", 6), ("1", 7)]
    mme = benchmark("mme", write_set("mme", tmp_path / "mme"))
    assert mme.neighbourhood(0)[0] == mme.neighbourhood(1)[0] == mme[0].meta["group"] != mme.neighbourhood(2)[0]
    local = Local(
        str(jsonl(tmp_path, [{"question": "Is it?", "answer": "yes"}, {"expression": "a dog", "box": []}], "data"))
    )
    assert [local.neighbourhood(i) for i in range(2)] == [("['a.png']", 6), ("['a.png']", 5)]
    scenes = Scenes(4, questions=2)
    assert [scenes.neighbourhood(i)[0] for i in range(4)] == ["scene 0", "scene 0", "scene 1", "scene 1"]


def test_a_headline_stands_before_its_parts():
    options = {"index": 1, "category": "c", "L2-category": "l"}
    rows = [{"target": options, "scores": {"mmbench/hit": 1.0}}]
    assert list(MMBench.unloaded({}).metrics(rows)) == [
        "mmbench/circular", "mmbench/vanilla", "mmbench/circular/L2-category/l", "mmbench/circular/category/c",
    ]  # fmt: skip


# messages


@pytest.mark.parametrize(
    ("check", "value", "reason"),
    [(identifier, None, "must be a name or a number, not None"), (identifier, True, "must be a name or a number"),
     (identifier, "", "must be a name or a number"), (integer, True, "must be a whole number, not True"),
     (integer, 1.0, "must be a whole number"), (letter, "e", "must be A, B, C or D, not 'e'"),
     (letter, 1, "must be a text"), (text, " ", "must be a text, not ' '"), (string, 1, "must be a text, not 1")],
)  # fmt: skip
def test_what_a_column_may_not_hold(check, value, reason):
    with pytest.raises(SampleError, match=f"cell {reason}"):
        checked({"cell": value}, {"cell": check})


def test_what_a_column_may_hold():
    cells = {"cell": 7, "name": 7, "mark": " b ", "empty": ""}
    checks = {"cell": integer, "name": identifier, "mark": letter, "empty": string}
    assert checked(cells, checks) == {"cell": 7, "name": "7", "mark": "B", "empty": ""}


@pytest.mark.parametrize(("count", "end"), [(8, r"\b7\.jsonl$"), (9, r"\b7\.jsonl and 1 more$")])
def test_long_lists_of_files_are_cut(count, end, tmp_path):
    for number in range(count):
        (tmp_path / f"{number}.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(BenchmarkError, match=rf"it holds 0\.jsonl, .*{end}"):
        benchmark("pope", tmp_path)


def test_what_is_lacking_goes_by_its_config(tmp_path):
    with pytest.raises(BenchmarkError, match=r"lacks testdev_balanced_instructions/testdev-\*\.parquet or testdev"):
        benchmark("gqa", tmp_path)


@pytest.mark.parametrize(("rows", "reason"), [([], "holds no rows"), ([{"id": "n0"}], "lacks image; it has id")])
def test_pictures_of_gqa_must_be_there(rows, reason, tmp_path):
    write_set("gqa", tmp_path, 2)
    for file in (tmp_path / "testdev_balanced_images").rglob("*.parquet"):
        file.unlink()
    (tmp_path / "testdev_balanced_images/testdev.jsonl").write_text("".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(BenchmarkError, match=f"dataset gqa: .*testdev.jsonl {reason}"):
        benchmark("gqa", tmp_path)


def test_a_table_that_cannot_be_made_is_read_where_it_lies(monkeypatch, tmp_path, caplog):
    def fail(*arguments, **options):
        raise RuntimeError("outside") from OSError("no space left")

    place = write_set("pope", tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert benchmark("pope", place)[0].images
    (warning,) = caplog.messages
    assert warning.startswith(str(place)) and warning.endswith("cannot be converted: no space left")


@pytest.mark.parametrize(
    ("error", "expected"),
    [(pyarrow.ArrowInvalid("odd page"), SampleError), (OSError("odd page"), SampleError),
     (OSError(5, "gone"), SourceError), (ConnectionError("gone"), SourceError), (RuntimeError("gone"), SourceError)],
)  # fmt: skip
def test_damage_is_told_from_a_broken_connection(error, expected, monkeypatch, tmp_path):
    """A damaged row group fails its samples; a server that does not answer ends the run."""

    def fail(*arguments, **options):
        raise error

    dataset = benchmark("pope", write_set("pope", tmp_path), "dataset.streaming=true")
    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read_row_group", fail)
    with pytest.raises(expected) as caught:
        dataset[0]
    assert type(caught.value) is expected


def test_lines_and_records_are_counted_from_one(tmp_path):
    record = {"normal_caption": "a cup", "solution": [1, 2, 30, 40], "width": 64, "height": 48, "image": "a.png"}
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "refcoco_testA.json").write_text(json.dumps([record, "text"]), encoding="utf-8")
    with pytest.raises(SampleError, match="line 2: is a JSON str, not an object"):
        benchmark("nuwa_qwen_refcoco", tmp_path)[1]


def test_twins_in_one_category_are_refused(tmp_path):
    rows = pope(2)
    twins = [rows[0], rows[1], rows[0]]
    with pytest.raises(BenchmarkError, match=r"rows 0 and 2 of .* have the same id 'random-1'"):
        benchmark("pope", jsonl(tmp_path, twins))


def test_a_column_of_one_shard_alone_is_lacking(tmp_path):
    rows, place = pope(3), SETS["pope"][1]
    for number, part in enumerate((rows[:2], [{key: rows[2][key] for key in ("question", "image", "question_id")}])):
        file = write_parquet(part, tmp_path / place)
        file.rename(file.with_stem(f"test-{number:05}-of-00002"))
    with pytest.raises(BenchmarkError, match="lacks answer, category"):
        benchmark("pope", tmp_path, "dataset.streaming=true")


def test_data_that_is_nowhere(tmp_path):
    with pytest.raises(BenchmarkError, match=r"dataset\.path is not set, and this data set is not on the hub"):
        benchmark("nuwa_qwen_refcoco", "null")
    with pytest.raises(BenchmarkError, match=r"dataset\.path=.*none: there is no such folder or file"):
        Local(str(tmp_path / "none"))

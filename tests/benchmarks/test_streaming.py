"""Parquet that is read where it lies: the same samples as from a table, and no more of the file than they need."""

import pickle

import numpy as np
import pyarrow.parquet
import pytest
from helpers.published import ONE_OF_A_KIND, benchmark, pope, write_parquet, write_set

from nuwa.benchmarks import streamed
from nuwa.benchmarks.base import BenchmarkError, SourceError
from nuwa.evaluation.data import EvaluationData
from nuwa.samples import SampleError

pytestmark = pytest.mark.usefixtures("own_cache")
STREAMING = "dataset.streaming=true"


def streamed_set(name, folder, count=8):
    """A data set in row groups of two, and where it lies."""
    path = write_set(name, folder, count, group=2)
    return benchmark(name, path, STREAMING), path


def spoil(file, group, column="image.bytes"):
    """Overwrite the middle of a column of one row group."""
    data = pyarrow.parquet.ParquetFile(file).metadata.row_group(group)
    chunk = next(one for one in map(data.column, range(data.num_columns)) if one.path_in_schema == column)
    with file.open("r+b") as content:
        content.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
        content.write(b"\xff" * chunk.total_compressed_size)


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_the_samples_of_a_table(name, tmp_path):
    found, path = streamed_set(name, tmp_path)
    table = benchmark(name, path)
    assert [found.sample_id(i) for i in range(len(found))] == [table.sample_id(i) for i in range(len(table))]
    assert [found.take(limit) for limit in (None, 1, 3, 5)] == [table.take(limit) for limit in (None, 1, 3, 5)]
    for index in reversed(range(len(table))):  # in any order
        one, other = found[index], table[index]
        assert (one.id, one.text, one.target, one.meta) == (other.id, other.text, other.target, other.meta)
        assert all(np.array_equal(*pair) for pair in zip(one.images, other.images, strict=True))


def test_nothing_is_written_beside_the_data(tmp_path):
    dataset, path = streamed_set("pope", tmp_path / "data")
    assert dataset[0].images and [file.name for file in tmp_path.rglob("*") if file.is_file()] == [
        "test-00000-of-00001.parquet"
    ]
    assert benchmark("pope", path)[0].images and len(list(tmp_path.rglob("*.arrow"))) == 1  # a table is


@pytest.mark.parametrize(
    ("name", "limit", "groups"), [("pope", 3, {0, 1}), ("mme", 4, {0, 2}), ("mmbench_en_dev", 2, {0, 2})]
)
def test_a_limited_run_reads_the_row_groups_of_its_samples(name, limit, groups, tmp_path, monkeypatch):
    """MME's second questions and MMBench's rotations stand in the second half, so that whole groups reach there."""
    dataset, _ = streamed_set(name, tmp_path)
    asked, read = [], pyarrow.parquet.ParquetFile.read_row_group
    monkeypatch.setattr(
        pyarrow.parquet.ParquetFile,
        "read_row_group",
        lambda self, i, **o: asked.append((i, *o["columns"])) or read(self, i, **o),
    )
    count = dataset.take(limit)
    batches = EvaluationData(dataset, count, {}, 2, 0, record=False).test_dataloader()
    assert sum(len(batch.items) for batch in batches) == count == limit
    assert {group for group, *_ in asked} == groups
    assert len(asked) == len(set(asked))  # each piece once


def test_a_resumed_run_skips_what_it_has(tmp_path):
    dataset, path = streamed_set("pope", tmp_path)
    spoil(next(path.rglob("*.parquet")), 0)
    done = {dataset.sample_id(i): {"task": "pope", "status": "ok"} for i in range(2)}
    found = [
        sample.id
        for batch in EvaluationData(dataset, 8, done, 2, 0, record=False).test_dataloader()
        for sample in batch
    ]
    assert found == [dataset.sample_id(i) for i in range(2, 8)]


def test_workers_read_for_themselves(tmp_path):
    dataset, _ = streamed_set("gqa", tmp_path, 12)
    assert dataset[0].images  # something is in memory when the workers start
    for workers in (0, 2):
        batches = list(EvaluationData(dataset, 12, {}, 5, workers, record=False).test_dataloader())
        assert [sample.id for batch in batches for sample in batch] == [dataset.sample_id(i) for i in range(12)]


def test_memory_holds_a_few_row_groups(tmp_path):
    dataset, _ = streamed_set("pope", tmp_path, 40)
    for index in range(40):
        dataset[index]
    assert len(dataset.rows._recent) == streamed.RECENT
    assert pickle.loads(pickle.dumps(dataset)).rows._recent == {}


def test_files_in_a_row(tmp_path):
    """Shards follow each other; a column counts only if all of them have it."""
    rows = pope(5)
    files = [write_parquet(rows[:2], tmp_path / "a"), write_parquet(rows[2:], tmp_path / "b", group=1)]
    found = streamed.ParquetRows(list(map(str, files)), "here")
    assert len(found) == 5 and [row["id"] for row in found.keys(("id",))] == [row["id"] for row in rows]
    assert [found.text(i, ("id", "answer")) for i in (4, 1, 2)] == [
        {key: rows[i][key] for key in ("id", "answer")} for i in (4, 1, 2)
    ]
    lacking = write_parquet([{"id": "5"}], tmp_path / "c")
    assert streamed.ParquetRows([str(files[0]), str(lacking)], "here").columns == ["id"]


# bad files


def test_a_damaged_row_group_fails_its_samples_alone(tmp_path):
    dataset, path = streamed_set("pope", tmp_path)
    spoil(next(path.rglob("*.parquet")), 1)
    assert dataset[0].images and dataset[7].images
    for index in (2, 3):
        with pytest.raises(SampleError, match=rf"pope, row {index}: row group 1 of .*\.parquet cannot be read"):
            dataset[index]


@pytest.mark.parametrize("column", ["image.bytes", "question", "question_id"])
@pytest.mark.parametrize("streaming", ["true", "false"])
def test_damage_anywhere_fails_the_samples_of_its_row_group_alone(streaming, column, tmp_path, caplog):
    """Ids are damaged, too: such rows count by their numbers. Without streaming the table cannot be made."""
    path = write_set("pope", tmp_path, 8, group=2)
    spoil(next(path.rglob("*.parquet")), 1, column)
    dataset = benchmark("pope", path, f"dataset.streaming={streaming}")
    assert len(dataset) == 8
    for index in range(8):
        if index in (2, 3):
            with pytest.raises(SampleError, match=rf"pope, row {index}: row group 1 of .*\.parquet cannot be read"):
                dataset[index]
        else:
            assert dataset[index].images
    assert ("is read where it lies, because it cannot be converted: " in caplog.text) == (streaming == "false")


@pytest.mark.parametrize("streaming", ["true", "false"])
def test_a_shard_without_rows(streaming, tmp_path):
    """Beside others it changes nothing; alone it is refused, as there is nothing to ask."""
    path = write_set("pope", tmp_path, 4)
    file = next(path.rglob("*.parquet"))
    pyarrow.parquet.write_table(
        pyarrow.parquet.read_table(file).slice(0, 0), file.with_name("test-00001-of-00002.parquet")
    )
    file.rename(file.with_name("test-00000-of-00002.parquet"))
    dataset = benchmark("pope", path, f"dataset.streaming={streaming}")
    assert len(dataset) == 4 and all(dataset[index].images for index in range(4))
    file.with_name("test-00000-of-00002.parquet").unlink()
    file.with_name("test-00001-of-00002.parquet").rename(file)
    with pytest.raises(BenchmarkError, match="holds no rows"):
        benchmark("pope", path, f"dataset.streaming={streaming}")


def test_a_file_that_cannot_be_reached_stops_the_run(tmp_path):
    """What a broken network leaves unanswered must not be recorded as bad samples."""
    dataset, path = streamed_set("pope", tmp_path)
    next(path.rglob("*.parquet")).unlink()
    with pytest.raises(SourceError, match=r"row group 0 of .*No such file"):
        list(EvaluationData(dataset, 8, {}, 2, 0, record=True).test_dataloader())

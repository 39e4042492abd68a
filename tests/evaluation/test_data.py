"""Batches hold one task, and resuming cuts them where they were cut before."""

import pytest

from nuwa.benchmarks.base import Benchmark
from nuwa.evaluation.data import EvaluationData, Failure
from nuwa.samples import Sample, SampleError


class Mixed(Benchmark):
    """Tasks in an uneven order; sample 4 is broken."""

    tasks = "aabababbba"

    def __len__(self):
        return len(self.tasks)

    def sample_id(self, index):
        return f"s{index}"

    def __getitem__(self, index):
        if index == 4:
            raise SampleError("broken")
        return Sample(self.sample_id(index), self.tasks[index], (), "", None)

    def score(self, sample, prediction):
        return {}

    def max_new_tokens(self, task):
        return 1


class Twice(Mixed):
    """Two samples that cannot be read, then two that can."""

    tasks = "aaaa"

    def __getitem__(self, index):
        return Sample(self.sample_id(index), "a", (), "", None)


def batches(done=(), workers=0, record=True, failed=()):
    """Ids by batch; of the ``done`` samples those in ``failed`` have no answer, and s4 could not even be read."""
    rows = {name: {"task": Mixed.tasks[int(name[1:])], "status": "ok"} for name in done}
    rows |= {name: rows[name] | {"status": "failed"} for name in failed}
    if "s4" in rows:
        rows["s4"] = {"task": "", "status": "failed"}
    data = EvaluationData(Mixed(), len(Mixed.tasks), rows, 2, workers, record)
    return [[item.id for item in batch] for batch in data.test_dataloader()]


def test_one_task_per_batch_and_failures_alone():
    """A batch is handed out when it is full, the rest at the end."""
    assert batches() == [["s0", "s1"], ["s4"], ["s3", "s5"], ["s2", "s6"], ["s7", "s8"], ["s9"]]


def test_resuming_gives_the_remaining_batches():
    whole = batches()
    for count in range(1, len(whole)):
        done = [name for batch in whole[:count] for name in batch if name != "s4"]
        rest = [batch for batch in whole[count:] if batch != ["s4"]]
        assert [batch for batch in batches(done) if batch != ["s4"]] == rest


def test_samples_that_failed_keep_their_place():
    """One that could not be read was alone, one that could not be asked was in a batch."""
    assert batches(["s0", "s2", "s4"], failed=["s0"]) == [["s1"], ["s3", "s5"], ["s6"], ["s7", "s8"], ["s9"]]
    data = EvaluationData(Twice(), 4, {f"s{i}": {"task": "", "status": "failed"} for i in (0, 1)}, 2, 0, True)
    assert [batch.number for batch in data.test_dataloader()] == [2]


def test_workers_keep_the_order():
    assert batches(workers=2) == batches()


def test_errors_can_stop_the_run():
    with pytest.raises(SampleError):
        batches(record=False)
    assert Failure("s4", "broken").reason == "broken"

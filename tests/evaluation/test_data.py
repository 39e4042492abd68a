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


def batches(done=(), workers=0, record=True):
    rows = {name: {"task": Mixed.tasks[int(name[1:])]} for name in done}
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


def test_workers_keep_the_order():
    assert batches(workers=2) == batches()


def test_errors_can_stop_the_run():
    with pytest.raises(SampleError):
        batches(record=False)
    assert Failure("s4", "broken").reason == "broken"

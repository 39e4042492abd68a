"""Pictures of the first samples, and the bar."""

from types import SimpleNamespace

import pytest

from nuwa.evaluation import callbacks
from nuwa.evaluation.callbacks import KeptTokenPictures, SampleProgress
from nuwa.evaluation.module import Evaluation


class Picture:
    def __init__(self, trace):
        self.trace = trace

    def save(self, path, **how):
        path.write_text(self.trace)


@pytest.fixture
def module(monkeypatch):
    """An evaluation whose samples have a trace for each of their images."""
    monkeypatch.setattr(callbacks, "sample_pictures", lambda *given: map(Picture, given[3].traces))
    module = Evaluation(None, SimpleNamespace(unit_box_tasks=("vg",)), None, None, {}, 0, True)
    samples = [SimpleNamespace(id=name, traces=traces, task="vqa") for name, traces in REPORTS]
    module.reports = [(sample, [*sample.traces], {}) for sample in samples]
    return module


REPORTS = (("text", []), ("a", ["a0", "a1"]), ("b/c", ["b0", "b1"]))


@pytest.mark.parametrize(
    ("count", "drawn"), [(0, []), (1, ["a0"]), (3, ["a0", "a1", "b0"]), (9, ["a0", "a1", "b0", "b1"])]
)
def test_as_many_pictures_as_are_wanted(tmp_path, module, count, drawn):
    (tmp_path / "pictures").mkdir(exist_ok=True)
    pictures = KeptTokenPictures(tmp_path, count)
    pictures.on_test_batch_end(None, module)
    pictures.on_test_end(None, module)
    files = sorted((tmp_path / "pictures").iterdir())
    assert [file.read_text() for file in files] == drawn and sum(pictures.left.values()) == count - len(drawn)
    assert [file.stem[-2:] for file in files] == [f"-{trace[1]}" for trace in drawn]


def test_nothing_is_read_anew_that_is_not_drawn(tmp_path, module, monkeypatch):
    read = []
    monkeypatch.setattr(callbacks, "sample_pictures", lambda *given: read.append(given[3].id) or map(Picture, "ab"))
    KeptTokenPictures(tmp_path, 2).on_test_batch_end(None, module)
    assert read == ["a"]  # the first sample has no picture, and the last waits for a box


def test_a_picture_that_fails_costs_a_warning_and_is_not_tried_with_every_sample(tmp_path, module, caplog):
    (tmp_path / "pictures").write_text("in the way")
    pictures = KeptTokenPictures(tmp_path, 4)
    for _ in range(9):
        pictures.on_test_batch_end(None, module)
    pictures.on_test_end(None, module)
    assert 1 <= len(caplog.messages) <= 4 and sum(pictures.left.values()) == 4 - len(caplog.messages)
    assert caplog.messages[0].startswith("callbacks.pictures: sample a was not drawn (FileExistsError: ")


@pytest.mark.parametrize("method", ["start", "stop"])
def test_a_bar_that_cannot_be_shown_costs_a_warning(method, monkeypatch, caplog):
    bar = SampleProgress("label", [], 5)
    monkeypatch.setattr(bar.progress, method, lambda: "\u2026".encode("ascii"))
    bar.on_test_start()
    bar.on_test_end()
    (warning,) = caplog.messages
    assert warning.startswith("callbacks.progress: ") and "UnicodeEncodeError" in warning


def test_no_folder_without_a_picture(tmp_path, module):
    KeptTokenPictures(tmp_path, 0).on_test_batch_end(None, module)
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("end", ["on_test_end", "on_exception"])
def test_the_bar_counts_rows_and_gives_the_terminal_back(end):
    journal = ["a", "b"]
    bar = SampleProgress("label", journal, 5)
    (task,) = bar.progress.tasks
    assert (task.total, task.completed, bar.progress.live.is_started) == (5, 0, False)
    bar.on_test_start()
    try:
        assert task.completed == 2 and bar.progress.live.is_started
        journal.append("c")
        bar.on_test_batch_end()
        assert task.completed == 3
        getattr(bar, end)()
        assert not bar.progress.live.is_started
    finally:
        bar.progress.stop()

"""Answers in pixels are scored as fractions; a picture that a model cannot take fails its sample alone."""

import pytest
from helpers.families_toy import toy
from PIL import Image

from nuwa.benchmarks.base import Benchmark
from nuwa.benchmarks.refcoco import RefCOCO
from nuwa.benchmarks.scoring import grounding_scores
from nuwa.engine.session import PruningSession
from nuwa.evaluation.data import Batch
from nuwa.evaluation.journal import Journal
from nuwa.evaluation.module import Evaluation
from nuwa.pruners import KeepAll
from nuwa.samples import Sample, SampleError


class Boxes(Benchmark):
    """Three samples: a box, a word, and a strip of pixels."""

    name = "boxes"

    def __len__(self):
        return 3

    def sample_id(self, index):
        return ("box", "word", "strip")[index]

    def __getitem__(self, index):
        task, size = (("vg", (112, 56)), ("vqa", (112, 56)), ("vg", (9000, 9)))[index]
        picture = Image.new("RGB", size, "red")
        return Sample(self.sample_id(index), task, (picture,), "where?", (0.25, 0.0, 0.75, 0.5))

    def score(self, sample, prediction):
        return grounding_scores(sample.target, prediction)

    def score_as_said(self, sample, answer):
        return {"said/pixels": float("[28, 0, 84, 28]" in answer)}

    def max_new_tokens(self, task):
        return 2


ANSWER = '```json\n[{"bbox_2d": [28, 0, 84, 28], "label": "it"}]\n```'


def evaluated(loaded, tmp_path, monkeypatch, record=True):
    """The rows of a run in which every answer is ``ANSWER``."""
    monkeypatch.setattr(type(loaded), "decode", lambda self, ids, length: [ANSWER] * len(ids))
    benchmark, session = Boxes(), PruningSession(loaded.model, KeepAll())
    journal = Journal(tmp_path / "predictions.jsonl", "key")
    module = Evaluation(loaded, benchmark, session, journal, {}, 0, record)
    with session:
        module.test_step(Batch(0, [benchmark[index] for index in range(3)]), 0)
    return {row["id"]: row for row in journal.rows}


def test_pixels_are_scored_as_fractions_and_both_answers_are_kept(tmp_path, monkeypatch):
    rows = evaluated(toy("qwen2_5_vl"), tmp_path, monkeypatch)
    box, word, strip = (rows[name] for name in ("box", "word", "strip"))
    assert box["scores"]["vg/miou"] == 1.0 and box["prediction"] == ANSWER
    assert next(iter(box["scores"])) == "said/pixels" and box["scores"]["said/pixels"] == 1.0  # the model's own frame
    assert box["scored"] == ANSWER.replace("[28, 0, 84, 28]", "[0.25000,0.00000,0.75000,0.50000]")
    assert word["scores"]["vg/miou"] == 0.0 and "scored" not in word  # another task's answer is left alone
    assert strip["status"] == "failed" and "sample strip: a picture of 9000 x 9 pixels" in strip["reason"]


def test_a_model_that_speaks_fractions_is_taken_at_its_word(tmp_path, monkeypatch):
    rows = evaluated(toy("llava_next"), tmp_path, monkeypatch)
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert rows["box"]["scores"]["vg/miou"] == 0.0 and "scored" not in rows["box"]


def test_a_picture_that_cannot_be_used_stops_a_run_that_does_not_record(tmp_path, monkeypatch):
    with pytest.raises(SampleError, match="sample strip"):
        evaluated(toy("qwen2_5_vl"), tmp_path, monkeypatch, record=False)


def test_refcocos_answers_are_boxes():
    assert RefCOCO.unit_box_tasks == ("refcoco",)

"""Benchmarks that a YAML declares: CONTRIBUTING's example, what each option does, and what is refused."""

import json
import pickle
import re

import pytest
import yaml
from helpers.jobs import ROOT
from PIL import Image

from nuwa.benchmarks.base import BenchmarkError
from nuwa.benchmarks.declared import Declared
from nuwa.config import build
from nuwa.options import ConfigError, check_options
from nuwa.samples import SampleError

ROWS = [
    {"photo": "a.png", "ask": "Which colour?", "answer": ["red", "crimson"], "kind": "easy", "key": "x", "of": "1"},
    {"photo": "a.png", "ask": "How many?", "answer": 2, "kind": "hard", "key": "y", "of": "1"},
]
OPTIONS = {"name": "signs", "hub": [], "split": "test", "prompt": "{ask} One word.", "answer_tokens": 4} | {
    "metric": "exact_match", "image": "photo",
}  # fmt: skip


@pytest.fixture
def declared(tmp_path):
    """A data set of `ROWS`, with other options, or of other rows."""

    def make(rows=ROWS, **options):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
        (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return Declared(**OPTIONS | {"path": str(tmp_path)} | options)

    return make


def metrics(dataset, *said):
    """What is printed for an answer to every sample; targets go through JSON, as in a journal."""
    samples = [dataset[index] for index in range(len(dataset))]
    scores = [dataset.score(sample, text) for sample, text in zip(samples, said, strict=True)]
    return dataset.metrics([{"scores": json.loads(json.dumps(one))} for one in scores])


def test_the_example_of_a_benchmark_without_code(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    (text,) = (block for block in blocks if "declared.Declared" in block)
    options = yaml.safe_load(text)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    row = {"image": "a.png", "question": "What does it say?", "answer": "stop", "place": "town"}
    (tmp_path / "signs.jsonl").write_text(json.dumps(row), encoding="utf-8")
    dataset = build(options | {"path": str(tmp_path)})
    assert dataset[0].text == "What does it say?\nAnswer with one word." and dataset[0].task == "signs"
    assert metrics(dataset, "Stop.") == {"signs/exact_match": 1.0, "signs/exact_match/town": 1.0}


@pytest.mark.parametrize("name", ["a/b", "", "two words"])
def test_a_name_must_lead_metrics(declared, name):
    with pytest.raises(BenchmarkError, match="a word without a slash"):
        declared(name=name)


def test_what_each_option_does(declared):
    dataset = declared(by="kind", id="key", same_picture="of")
    assert [dataset.sample_id(index) for index in range(2)] == ["x", "y"]
    assert dataset.neighbourhood(0)[0] == dataset.neighbourhood(1)[0]
    first, second = pickle.loads(pickle.dumps(dataset))
    assert (first.text, first.target) == ("Which colour? One word.", {"answer": ("red", "crimson"), "kind": "easy"})
    assert second.target["answer"] == ("2",) and second.images[0].size == (8, 8)
    expected = {"signs/exact_match": 0.5, "signs/exact_match/easy": 1.0, "signs/exact_match/hard": 0.0}
    assert list(metrics(dataset, "Crimson", "3").items()) == list(expected.items())
    assert [declared().sample_id(index) for index in range(2)] == ["0", "1"]
    assert Declared.unloaded(OPTIONS).score_document({"answer": ["red"]}, "Red.") == {"signs/exact_match": 1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"metric": "bleu"}, r"dataset\.metric=bleu is unknown; choose one of exact_match, letter"),
     ({"prompt": "What?"}, r"dataset\.prompt='What\?' names no column: give a slot"),
     ({"prompt": "{ask} {answer}"}, r"dataset\.prompt=.* gives the column answer away"),
     ({"prompt": "{question}"}, r"dataset signs: .* lacks question; it has photo, ask, answer"),
     ({"answer": "truth"}, "lacks truth; it has photo"), ({"image": "picture"}, "lacks picture; it has photo"),
     ({"by": "source"}, "lacks source; it has photo"), ({"id": "number"}, "lacks number; it has photo")],
)  # fmt: skip
def test_what_can_never_work_is_refused_at_once(declared, options, message):
    with pytest.raises(BenchmarkError, match=message):
        declared(**options)


@pytest.mark.parametrize(
    ("cells", "message"),
    [({"answer": None}, "answer must be a text or a list of texts, not None"), ({"answer": True}, "answer must be a"),
     ({"answer": []}, "answer must be a text"), ({"kind": None}, "kind must be a text, not None"),
     ({"ask": 3}, "ask must be a text, not 3"), ({"photo": "b.png"}, "image b.png does not exist")],
)  # fmt: skip
def test_a_bad_row_fails_alone(declared, cells, message):
    dataset = declared([ROWS[0], ROWS[1] | cells], by="kind")
    assert dataset[0].images
    with pytest.raises(SampleError, match=message):
        dataset[1]


def test_options_are_data(declared):
    """No option takes code, or a name that is imported."""
    with pytest.raises(ConfigError, match=r"dataset\.metric"):
        check_options(Declared, OPTIONS | {"metric": {"_target_": "os.system"}}, "dataset")
    with pytest.raises(BenchmarkError, match="unknown"):
        declared(metric="nuwa.benchmarks.scoring.exact_match")

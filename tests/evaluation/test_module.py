"""A batch, step by step, with stand-ins for model and session: what each is told, and what is written down."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from nuwa.engine.report import ImageReport
from nuwa.evaluation.data import Batch, Failure
from nuwa.evaluation.journal import Journal, read_rows
from nuwa.evaluation.module import Evaluation, read_timings
from nuwa.samples import Sample, SampleError


class Desk:
    """An `Evaluation` whose model answers at once; ``told`` is what ``generate`` was given."""

    def __init__(self, folder, *, generation=None, seed=0, record=True, images=(), inputs=(), device="cpu"):
        self.told, self.broken = {}, set()
        self.session = SimpleNamespace(about=self.about, report=lambda: SimpleNamespace(images=list(images)))
        loaded = SimpleNamespace(
            device=torch.device(device),
            model=SimpleNamespace(generate=self.generate),
            encode=self.encode,
            questions=lambda samples: [sample.text for sample in samples],
            question=lambda sample: f"USER: {sample.text}",
            remark=lambda sample: "odd" if sample.text == "about odd" else "",
            unknown_words=lambda sample: ["odd"] if sample.text == "about odd" else [],
            decode=lambda ids, length: [f"answer {length}"] * len(ids),
            in_unit_frame=lambda answer, picture: f"{answer} in {picture.width}",
        )
        benchmark = SimpleNamespace(
            max_new_tokens=len,
            unit_box_tasks=("vg",),
            score_as_said=lambda sample, answer: {},
            score=lambda sample, scored: {"m": len(scored)},
        )
        self.inputs = {name: torch.zeros(2, 3) for name in ("input_ids", *inputs)}
        self.journal = Journal(folder / "predictions.jsonl", "key")
        generation = {"num_beams": 1, "max_new_tokens": None} if generation is None else generation
        self.module = Evaluation(loaded, benchmark, self.session, self.journal, generation, seed, record)

    def encode(self, samples):
        if self.broken & {sample.id for sample in samples}:
            raise SampleError("no such picture")
        return {name: value[: len(samples)] for name, value in self.inputs.items()}

    def about(self, ids, questions):
        self.asked = ids, questions
        return nullcontext()

    def generate(self, input_ids, **options):
        self.told = options | {"seed": torch.initial_seed()}
        return input_ids

    def step(self, *items, number=0, inputs=None):
        self.module.test_step(Batch(number, list(items), inputs), 0)
        return self.journal.rows


def sample(name, task="vqa", pictures=0, **settings):
    images = tuple(Image.new("RGB", (7, 5)) for _ in range(pictures))
    return Sample(name, task, images, f"about {name}", "yes", **settings)


def test_what_is_odd_about_a_question_is_recorded(tmp_path):
    odd, plain = Desk(tmp_path).step(sample("odd"), sample("plain"))
    assert odd["remark"] == "odd" and "remark" not in plain
    assert odd["unknown"] == ["odd"] and "unknown" not in plain


def test_rows_of_a_batch(tmp_path):
    image = ImageReport("b", 1, 9, (3, 3), [2, 2, 1], [(0, [3, 4], [0, 1]), (2, [3], [0])], {})
    desk = Desk(tmp_path, inputs=("pixel_values",), images=[image])
    failed, first, second = desk.step(Failure("z", "torn"), sample("a"), sample("b", "vg", 1), number=4)
    empty = {"scores": {}, "kept": [], "image_tokens": []}
    told = {"run_key": "key", "batch": 4, "batch_end": False}
    assert failed == told | {"id": "z", "task": "", "status": "failed", "reason": "torn"} | empty
    answered = {"target": "yes", "prediction": "answer 3", "meta": {}, "status": "ok"}
    assert first == told | answered | {"id": "a", "task": "vqa", "prompt": "USER: about a", "scores": {"m": 8.0}} | {
        "kept": [], "image_tokens": []
    }  # fmt: skip
    assert second == told | answered | {
        "batch_end": True, "id": "b", "task": "vg", "prompt": "USER: about b", "scored": "answer 3 in 7",
        "scores": {"m": 13.0}, "kept": [[[0, 2], [2, 1]]], "image_tokens": [9],
    }  # fmt: skip
    ((_, none, _), (of, (image,), row)) = desk.module.reports
    assert none == [] and of.id == "b" and image.n_tokens == 9 and row["id"] == "b"


@pytest.mark.parametrize(("task", "pictures"), [("vqa", 1), ("vg", 0), ("vg", 2)])
def test_only_boxes_on_one_picture_are_read_as_fractions(tmp_path, task, pictures):
    (row,) = Desk(tmp_path).step(sample("a", task, pictures))
    assert "scored" not in row


def test_what_the_session_and_the_model_are_told(tmp_path):
    desk = Desk(tmp_path)
    desk.step(sample("a", "long", 1), sample("b", "other"))
    assert desk.asked == ([*sample("a", pictures=1).image_ids], ["about a", "about b"])
    assert desk.told["max_new_tokens"] == 4 and desk.told["num_beams"] == 1  # of the first one's task
    desk.step(sample("c"))
    assert desk.asked[0] is None
    desk = Desk(tmp_path / "other", generation={"max_new_tokens": 1})
    desk.journal.path.parent.mkdir()
    desk.step(sample("a"))
    assert desk.told["max_new_tokens"] == 1


def test_text_alone_has_no_report(tmp_path):
    desk = Desk(tmp_path)
    desk.session.report = lambda: pytest.fail("nothing was pruned")
    assert desk.step(sample("a"))[0]["kept"] == []


def test_tensors_made_ahead_are_used(tmp_path):
    desk = Desk(tmp_path)
    desk.broken = {"a"}
    (row,) = desk.step(sample("a"), inputs={"input_ids": torch.zeros(1, 8)})
    assert row["prediction"] == "answer 8"


def test_draws_depend_on_the_seed_and_the_samples_alone(tmp_path):
    seeds = []
    for seed, names in ((0, "ab"), (1, "ab"), (0, "ac")):
        desk = Desk(tmp_path, seed=seed)
        torch.manual_seed(len(seeds))
        state = torch.random.get_rng_state()
        desk.step(*map(sample, names))
        assert torch.equal(torch.random.get_rng_state(), state)
        seeds.append(desk.told["seed"])
    assert seeds == [1845980812975469, 14924621191818348, 15175027132537155]


def test_on_a_gpu_its_draws_are_kept_and_the_clock_waits(tmp_path, monkeypatch):
    forked, waited = [], []
    fork = torch.random.fork_rng
    monkeypatch.setattr("torch.random.fork_rng", lambda devices: forked.append(devices) or fork([]))
    monkeypatch.setattr("torch.cuda.synchronize", waited.append)
    Desk(tmp_path).step(sample("a"))
    assert (forked, waited) == ([[]], [])
    Desk(tmp_path, device="cuda:1").step(sample("a"))
    assert forked[1:] == [[torch.device("cuda:1")]] and waited == [torch.device("cuda:1")]


def test_a_sample_that_cannot_be_used_fails_alone(tmp_path):
    desk = Desk(tmp_path)
    desk.broken = {"b"}
    rows = desk.step(sample("a"), sample("b", "vg"), sample("c"))
    assert [(row["id"], row["task"], row["status"]) for row in rows] == [
        ("a", "vqa", "ok"), ("b", "vg", "failed"), ("c", "vqa", "ok")
    ]  # fmt: skip
    assert rows[1]["reason"] == "no such picture" and [row["batch_end"] for row in rows] == [False, False, True]
    desk = Desk(tmp_path, record=False)
    desk.broken = {"d"}
    with pytest.raises(SampleError):
        desk.step(sample("d"))


def test_times_are_noted_for_samples_that_were_answered(tmp_path, monkeypatch):
    desk, clock = Desk(tmp_path), iter([1.0, 3.5, 10.0, 10.25])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    desk.step(sample("a"), sample("b"))
    desk.step(Failure("c", "torn"))
    assert [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()] == [
        {"first": "a", "samples": 2, "seconds": 2.5}
    ]
    assert desk.module.reports == [] and len(read_rows(desk.journal.path)) == 3
    part = Desk(tmp_path)
    part.module.journal = Journal(tmp_path / "predictions.1.jsonl", "key")
    clock = iter([0.0, 1.0])
    part.step(sample("d"))
    assert read_timings(tmp_path) == (3, 3.5) and (tmp_path / "timings.1.jsonl").exists()


def test_times_of_a_batch_that_was_computed_twice_count_once(tmp_path):
    lines = [
        '{"first": "a", "samples": 2, "seconds": 9}',
        '{"torn',
        '{"first": "x"}',
        '{"first": "a", "samples": 2, "seconds": 1}',
    ]
    (tmp_path / "timings.jsonl").write_text("\n".join(lines))
    (tmp_path / "timings.1.jsonl").write_text('{"first": "b", "samples": 1, "seconds": 0.5}\n')
    assert read_timings(tmp_path) == (3, 1.5)
    assert read_timings(tmp_path / "nowhere") == (0, 0)

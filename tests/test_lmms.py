"""The bridge to lmms-eval, against a stand-in of the two names it takes from there; no network, no lmms-eval."""

from types import SimpleNamespace

import pytest
from helpers.lmms_stand_in import imported
from helpers.published import picture

import nuwa as package
from nuwa.samples import Sample

QUESTION = "is there a red circle ?"


@pytest.fixture
def bridge(monkeypatch):
    yield from imported(monkeypatch)


def test_answers_are_those_of_a_session(bridge):
    assert bridge.MANIFEST == ("nuwa", {"simple_class_path": "nuwa.lmms.NuwaModel"})
    model = bridge.NuwaModel(pretrained="tiny_llava", pruner="nuwa", budget=16, batch_size=2, device="cpu")
    model.task_dict = {"task": {"test": [{"seed": seed} for seed in range(3)]}}
    settings = [{"max_new_tokens": 4, "temperature": 0}, {"max_new_tokens": 4, "temperature": 0}, {"max_new_tokens": 2}]
    requests = [
        SimpleNamespace(args=(QUESTION, settings[number], lambda doc: [picture(doc["seed"])], number, "task", "test"))
        for number in (2, 0, 1)
    ]
    answers = model.generate_until(requests)
    with package.prune(model.loaded.model, model.session.pruner):
        for request, answer in zip(requests, answers, strict=True):
            number = request.args[3]
            inputs = model.loaded.encode([Sample("", "task", (picture(number),), QUESTION, None)])
            tokens = settings[number]["max_new_tokens"]
            ids = model.loaded.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
            assert model.loaded.decode(ids, inputs["input_ids"].shape[1]) == [answer]
    assert model.session.report().images_seen == 3


def test_settings_of_a_task(bridge):
    assert bridge.generation({}) == {"max_new_tokens": 1024, "do_sample": False, "num_beams": 1}
    warm = bridge.generation({"temperature": 0.2, "top_p": None, "num_beams": 2, "until": ["\n\n"]})
    assert warm == {"max_new_tokens": 1024, "do_sample": True, "num_beams": 2, "temperature": 0.2}
    cfg = bridge.compose("some/checkpoint", "nuwa", 64, "perc", {"d_thresh": 18})
    assert (cfg.model.path, cfg.pruner.d_thresh, cfg.budget.average) == ("some/checkpoint", 18, 64)
    cfg = bridge.compose("some/checkpoint", "nuwa", 0.25, "perc", {}, like="qwen2_5_vl_7b")
    assert (cfg.model.path, cfg.model.family) == ("some/checkpoint", "qwen2_5_vl")
    assert (cfg.budget.average, cfg.budget.ratio) == (None, 0.25)
    assert bridge.compose("tiny_llava", "none", None, "native", {}).budget.average is None


REFUSED = {
    "batch_size=auto: the nuwa model needs a number": {"batch_size": "auto"},
    "budget=None: nothing is chosen": {},
    "budget.ratio must be in": {"budget": 0},
    "pruner prumerge lets every picture decide": {"pruner": "prumerge", "adaptive": True, "budget": 64},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_would_not_be_pruned_as_asked_is_refused(bridge, reason):
    with pytest.raises(ValueError, match=reason):
        bridge.NuwaModel(pretrained="tiny_llava", **REFUSED[reason])


def test_a_video_is_refused_by_name(bridge):
    model = bridge.NuwaModel(pretrained="tiny_llava", budget=64, device="cpu")
    model.task_dict = {"films": {"test": [None]}}
    with pytest.raises(ValueError, match="task films shows a str: the nuwa model is shown pictures only"):
        model.generate_until([SimpleNamespace(args=(QUESTION, {}, lambda doc: ["a.mp4"], 0, "films", "test"))])

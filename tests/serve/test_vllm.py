"""Engines beside a session: the same answers letter by letter, in chunks, from the prefix cache, with two pictures.

By name, in an environment with vLLM (docs/serving.md): pytest -m vllm -n0 tests/serve
"""

import os
from itertools import pairwise
from types import SimpleNamespace

import pytest
from helpers.jobs import compose

from nuwa import prune
from nuwa.benchmarks.scenes import Scenes
from nuwa.config import build, typed
from nuwa.samples import Sample
from nuwa.serve.engine import engine_once
from nuwa.serve.job import served_job

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
LLAVA, QWEN = ("model=tiny_llava", "budget=avg64"), ("model=tiny_qwen", "budget=ratio25")
NUWA = ("pruner=nuwa", "pruner.stage2_ratio=1")
CASES = [
    (*family, *method, f"position={position}")
    for family in (LLAVA, QWEN)
    for method, position in [
        (("pruner=visionzip",), "pesp"),
        (("pruner=visionzip",), "median"),
        (("pruner=divprune",), "rpme"),
        (("pruner=grid",), "perc"),
        (NUWA, "pesp"),
        (NUWA, "rpme"),
        (("pruner=none",), "native"),
    ]
]
SMALL = {"enforce_eager": True, "max_num_seqs": 8}
CHUNKS = SMALL | {"max_num_batched_tokens": 48, "enable_prefix_caching": True, "block_size": 32}


@pytest.fixture(scope="module", autouse=True)
def in_this_process():
    """An engine in a process of its own takes three times as long to start."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}.items():
            patch.setenv(name, os.environ.get(name, value))
        yield


@pytest.fixture(scope="module")
def own():
    """Answers of a session, one batch for each task."""
    loaded = {}

    def answers(job, samples):
        name = job.options.name
        if name not in loaded:
            loaded[name] = job.options.load()
        model = loaded[name]
        inputs = model.encode(samples)
        with prune(model.model, job.served.method(), job.served.strategy(job.family.axes)):
            ids = model.model.generate(**inputs, max_new_tokens=32)
        return model.decode(ids, inputs["input_ids"].shape[1])

    return answers


def scenes(count):
    benchmark = Scenes(samples=count, seed=7)
    return [benchmark[number] for number in range(count)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(word.split("=")[1] for word in case))
def test_an_engine_answers_as_a_session(own, case):
    job, samples = served_job(compose(*case)), scenes(16)
    engine = engine_once(job, SMALL)
    assert engine.answer(engine.prompts(samples), 32) == own(job, samples)


@pytest.mark.parametrize("family", [LLAVA, QWEN], ids=["llava", "qwen"])
def test_in_chunks_and_from_the_prefix_cache(own, family):
    """A picture's tokens come in several steps; the second time a block of every prompt is there already."""
    job, samples = served_job(compose(*family, "pruner=visionzip", "position=rpme")), scenes(16)
    engine, expected = engine_once(job, CHUNKS), own(job, samples)
    prompts = engine.prompts(samples)
    assert engine.answer(prompts, 32) == expected
    found = engine.llm.generate(prompts, engine.llm.get_default_sampling_params(), use_tqdm=False)
    assert all(answer.num_cached_tokens >= 32 for answer in found)
    assert engine.answer(prompts, 32) == expected


def test_two_pictures_and_what_is_refused_in_between(own):
    job = served_job(compose(*QWEN, "pruner=divprune", "position=pesp"))
    engine, first = engine_once(job, SMALL), scenes(17)
    pairs = [
        Sample(one.id, one.task, (one.images[0], two.images[0].resize((112, 84))), one.text, None)
        for one, two in pairwise(first)
    ]
    expected, prompts = own(job, pairs), engine.prompts(pairs)
    ends = dict(prompts[0], prompt_token_ids=prompts[0]["prompt_token_ids"][:3] + [job.family.placeholder_id] * 2)
    with pytest.raises(ValueError, match="the prompt ends with a picture"):
        engine.answer([prompts[0], ends], 32)
    with pytest.raises(ValueError, match="mm_processor_kwargs"):
        engine.answer([dict(prompts[0], mm_processor_kwargs={"do_resize": False})], 32)
    assert engine.answer(prompts, 32) == expected
    placeholders = [answer.prompt_token_ids.count(job.family.placeholder_id) for answer in engine.llm.generate(prompts)]
    assert placeholders == [36 + 35] * 16  # of 12 x 12 and of 14 x 10 tokens, a quarter


@pytest.mark.parametrize(("rate", "mrope", "placed"), [(None, True, True), (0.5, False, True), (0.5, True, False)])
def test_switches_that_do_not_fit_are_refused(rate, mrope, placed):
    from vllm.config.multimodal import MultiModalConfig

    from nuwa.serve.vllm.model import check_switches

    pictures = MultiModalConfig(video_pruning_rate=rate)
    model = SimpleNamespace(get_multimodal_config=lambda: pictures, uses_mrope=mrope)
    with pytest.raises(ValueError, match="nuwa serve --print"):
        check_switches(SimpleNamespace(model_config=model), placed)


def test_a_family_without_a_tiny_model(own, tmp_path):
    """Qwen2-VL's architecture with random weights, saved as a checkpoint."""
    drawn = build(typed(compose("model=qwen2_vl_random", "model.layers=4", "model.hidden_size=128"), "model"))
    for part in (drawn.model, drawn.tokenizer, drawn.pictures.pil):
        part.save_pretrained(tmp_path)
    checkpoint = ("model=qwen2_vl_2b", f"model.path={tmp_path}", "model.max_pixels=12544")
    job = served_job(compose(*checkpoint, "pruner=divprune", "budget=ratio25", "position=pesp"))
    samples, engine = scenes(8), engine_once(job, SMALL | {"max_model_len": 1024})
    assert engine.answer(engine.prompts(samples), 32) == own(job, samples)


def test_vllm_without_the_plugin_reads_tiny_llava(own):
    """Last, as it ends the engine of the test before."""
    pytest.importorskip("torchvision", reason="vLLM's own LLaVA imports it, and PyPI's wants CUDA")
    from vllm import LLM

    job, samples = served_job(compose("model=tiny_llava", "pruner=none")), scenes(16)
    engine = engine_once(job, SMALL)
    prompts, expected = engine.prompts(samples), own(job, samples)
    engine.close()
    engine.llm = LLM(str(job.folder), dtype="float32", **SMALL)
    assert engine.answer(prompts, 32) == expected

"""Engines beside a session: the same answers letter by letter, in chunks, from the prefix cache, with two pictures.

By name, in an environment with vLLM (docs/serving.md): pytest -m vllm -n0 tests/serve
"""

import os
from itertools import pairwise

import pytest
from helpers.checkpoints import save_random
from helpers.jobs import compose

from nuwa import prune
from nuwa.benchmarks.scenes import Scenes
from nuwa.samples import Sample
from nuwa.serve.engine import engine_once
from nuwa.serve.job import served_job

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
LLAVA, QWEN = ("model=tiny_llava", "budget=avg64"), ("model=tiny_qwen", "budget=ratio25")
QWEN2, QWEN3 = ("model=qwen2_vl_2b", "budget=ratio25"), ("model=qwen3_vl_2b", "budget=ratio25")
RANDOM = {QWEN2[0]: "qwen2_vl_random", QWEN3[0]: "qwen3_vl_random"}
"""What stands in for checkpoints that are not tiny: their architectures, with random weights."""
NUWA = ("pruner=nuwa", "pruner.stage2_ratio=1")
CASES = [
    (*family, *method, f"position={position}")
    for family in (LLAVA, QWEN, QWEN3)
    for method, position in [
        (("pruner=visionzip",), "pesp"),
        (("pruner=visionzip",), "median"),
        (("pruner=divprune",), "rpme"),
        (("pruner=grid",), "perc"),
        (NUWA, "pesp"),
        (NUWA, "rpme"),
        (("pruner=none",), "native"),
    ]
] + [(*QWEN2, "pruner=divprune", "position=pesp")]
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


@pytest.fixture(scope="module")
def job_of(tmp_path_factory):
    """A job, by its choices."""
    folder = tmp_path_factory.mktemp("random")

    def job(model, *choices):
        if model not in RANDOM:
            return served_job(compose(model, *choices))
        path = folder / RANDOM[model]
        if not path.exists():
            save_random(path, RANDOM[model], "model.layers=6", "model.hidden_size=128")
        return served_job(compose(model, f"model.path={path}", "model.max_pixels=112896", *choices))

    return job


def engine_config(arguments):
    """The config of an engine that is not started."""
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(**arguments).create_engine_config()


def scenes(count):
    benchmark = Scenes(samples=count, seed=7)
    return [benchmark[number] for number in range(count)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(word.split("=")[1] for word in case))
def test_an_engine_answers_as_a_session(own, job_of, case):
    job, samples = job_of(*case), scenes(16)
    engine = engine_once(job, SMALL)
    assert engine.answer(engine.prompts(samples), 32) == own(job, samples)


@pytest.mark.parametrize("family", [LLAVA, QWEN, QWEN3], ids=["llava", "qwen", "qwen3"])
def test_in_chunks_and_from_the_prefix_cache(own, job_of, family):
    """A picture's tokens come in several steps; the second time a block of every prompt is there already."""
    job, samples = job_of(*family, "pruner=visionzip", "position=rpme"), scenes(16)
    engine, expected = engine_once(job, CHUNKS), own(job, samples)
    prompts = engine.prompts(samples)
    assert engine.answer(prompts, 32) == expected
    found = engine.llm.generate(prompts, engine.llm.get_default_sampling_params(), use_tqdm=False)
    assert all(answer.num_cached_tokens >= 32 for answer in found)
    assert engine.answer(prompts, 32) == expected


@pytest.mark.parametrize(("family", "kept"), [(QWEN, 36 + 35), (QWEN3, 16 + 18)], ids=["qwen", "qwen3"])
def test_two_pictures_and_what_is_refused_in_between(own, job_of, family, kept):
    """A quarter of 12 x 12 and of 14 x 10 tokens stays, or of 8 x 8 and of 10 x 7."""
    job = job_of(*family, "pruner=divprune", "position=pesp")
    engine, first = engine_once(job, SMALL), scenes(17)
    pairs = [
        Sample(one.id, one.task, (one.images[0], two.images[0].resize((112, 84))), one.text, None)
        for one, two in pairwise(first)
    ]
    expected, prompts = own(job, pairs), engine.prompts(pairs)
    for image in prompts[0]["multi_modal_data"]["image"]:
        image.putalpha(128)  # dropped, and not laid on white
    ends = dict(prompts[0], prompt_token_ids=prompts[0]["prompt_token_ids"][:3] + [job.family.placeholder_id] * 2)
    with pytest.raises(ValueError, match="the prompt ends with a picture"):
        engine.answer([prompts[0], ends], 32)
    places = dict(prompts[1], prompt_token_ids=[job.family.placeholder_id, *prompts[1]["prompt_token_ids"]])
    with pytest.raises(ValueError, match="the prompt has places for 3 pictures, and 2 came"):
        engine.answer([places], 32)
    for wish in ({"mm_processor_kwargs": {"do_resize": False}}, {"media_io_kwargs": {"image": {"image_mode": "L"}}}):
        with pytest.raises(ValueError, match=f"{next(iter(wish))} .*: all pictures are prepared as the server"):
            engine.answer([prompts[0] | wish], 32)
    assert engine.answer(prompts, 32) == expected
    placeholders = [answer.prompt_token_ids.count(job.family.placeholder_id) for answer in engine.llm.generate(prompts)]
    assert placeholders == [kept] * 16


@pytest.mark.parametrize(
    ("position", "rate", "section"),
    [("pesp", None, [0, 16, 0]), ("pesp", 0.5, None), ("pesp", 0.5, [16, 0, 0]), ("perc", 0.5, [0, 16, 0])],
)
def test_switches_that_do_not_fit_are_refused(position, rate, section):
    from nuwa.serve.vllm.checks import check_switches

    job = served_job(compose(*LLAVA, "pruner=visionzip", f"position={position}"))
    arguments = job.arguments() | {"video_pruning_rate": rate}
    arguments["hf_overrides"]["text_config"] = {"rope_parameters": {"mrope_section": section} if section else {}}
    with pytest.raises(ValueError, match="nuwa serve --print"):
        check_switches(engine_config(arguments), job.served, job.family)


WISHES = {
    "--speculative-config": {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
    "--kv-transfer-config": {"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}},
    "--quantization": {"quantization": "fp8_per_tensor", "dtype": "bfloat16"},
    "--enable-lora": {"enable_lora": True},
    "--enable-mm-embeds": {"enable_mm_embeds": True},
    "--mm-processor-kwargs": {"mm_processor_kwargs": {"do_resize": False}},
    "--media-io-kwargs": {"media_io_kwargs": {}},
    "Pipeline parallelism": {"pipeline_parallel_size": 2},
}


@pytest.mark.parametrize("reason", WISHES)
def test_what_nobody_has_shown_to_be_right_is_refused(reason):
    from nuwa.serve.vllm.checks import check_engine

    arguments = served_job(compose(*LLAVA, "pruner=visionzip", "position=perc")).arguments()
    check_engine(engine_config(arguments))
    with pytest.raises((ValueError, NotImplementedError), match=reason):
        check_engine(engine_config(arguments | WISHES[reason]))


def test_vllm_without_the_plugin_reads_tiny_llava(own):
    """Last, as it ends the engine of the test before."""
    pytest.importorskip("torchvision", reason="vLLM's own LLaVA imports it; with tests/serve/stand_in: .ci/serving")
    from vllm import LLM

    job, samples = served_job(compose("model=tiny_llava", "pruner=none")), scenes(16)
    engine = engine_once(job, SMALL)
    prompts, expected = engine.prompts(samples), own(job, samples)
    engine.close()
    engine.llm = LLM(str(job.folder), dtype="float32", mm_processor_kwargs={"backend": "pil"}, **SMALL)
    assert engine.answer(prompts, 32) == expected

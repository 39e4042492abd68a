"""A server under load: good requests get a session's answers, bad ones among them are named, and it ends when told.

By name, in an environment with vLLM (docs/serving.md): pytest -m vllm -n0 tests/serve
"""

import base64
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.checkpoints import save_random
from helpers.jobs import ROOT, compose
from PIL import Image

from nuwa import prune
from nuwa.benchmarks.scenes import Scenes
from nuwa.serve.job import served_job

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
LLAVA = ("model=tiny_llava", "pruner=visionzip", "budget=avg64", "position=pesp")
QWEN3 = ("model=qwen3_vl_2b", "model.max_pixels=112896", "pruner=visionzip", "budget=ratio25", "position=pesp")


@pytest.fixture(scope="module", params=[LLAVA, QWEN3], ids=["llava", "qwen3"])
def served(request, tmp_path_factory):
    """A job, and the address of its server. Qwen3-VL has random weights."""
    choices, folder = list(request.param), tmp_path_factory.mktemp("server")
    if request.param is QWEN3:
        save_random(folder, "qwen3_vl_random", "model.layers=6", "model.hidden_size=128")
        choices.append(f"model.path={folder}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    more = ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--max-num-seqs", "32"]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"} | os.environ
    with log.open("w") as lines:
        command = [sys.executable, "-m", "nuwa.serve", *choices, "--vllm", *more]
        server = subprocess.Popen(command, cwd=ROOT, stdout=lines, stderr=lines, env=environment)
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield served_job(compose(*choices)), f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def shown(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind.lower()};base64,{data}"}}


def seen_through(image):
    """Half transparent: its alpha is dropped, not laid on white."""
    image = image.convert("RGBA")
    image.putalpha(128)
    return image


def own_answers(job, samples):
    """A session's."""
    loaded = job.options.load()
    with prune(loaded.model, job.served.method(), "pesp"):
        inputs = loaded.encode(samples)
        ids = loaded.model.generate(**inputs, max_new_tokens=32)
    return loaded.decode(ids, inputs["input_ids"].shape[1])


def test_good_requests_are_answered_and_bad_ones_named(served):
    openai = pytest.importorskip("openai", reason="the client comes with vLLM")
    job, address = served
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    benchmark = Scenes(samples=64, seed=11)
    samples = [benchmark[number] for number in range(64)]
    expected = own_answers(job, samples)

    picture, text = shown(samples[0].images[0]), {"type": "text", "text": samples[0].text}
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "no"}] * 2
    place = {"type": "text", "text": job.family.placeholder}
    strip = shown(Image.new("RGB", (3000, 2)))
    bad = {
        "cannot identify image": {"content": [broken, text]},
        "the prompt has places for 2 pictures, and 1 came": {"content": [picture, place, text]},
        "The model `nothing` does not exist": {"content": [picture, text], "model": "nothing"},
        "send one message": {"messages": turns},
    }
    if job.family.grid is None:
        bad["a picture of 3000 x 2 pixels cannot be used"] = {"content": [strip, text]}
    else:
        bad["a prompt that takes 1167 positions before pruning"] = {"content": [picture, picture, text]}

    def ask(content=None, model=job.options.name, messages=None, stream=False):
        messages = messages or [{"role": "user", "content": content}]
        asked = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 32, "stream": stream}
        try:
            made = client.chat.completions.create(**asked)
            parts = [piece.choices[0].delta.content or "" for piece in made] if stream else []
        except openai.APIStatusError as error:
            return f"{error.status_code}: {error.message}"
        return ("".join(parts) if stream else made.choices[0].message.content).strip()

    good = [
        {"content": [shown(change(sample.images[0])), {"type": "text", "text": sample.text}], "stream": number % 2 > 0}
        for number, (sample, change) in enumerate(zip(samples, [seen_through, Image.Image.copy] * 32, strict=True))
    ]
    large = {"content": [shown(Image.new("RGB", (8000, 5000), "red"), "JPEG"), text]}
    alone = {"content": samples[0].text}
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda request: ask(**request), [*good[:32], *bad.values(), large, alone, *good[32:]]))
    half = "\ufffd"  # of a letter that random weights did not finish: a stream keeps it back
    assert [said.rstrip(half) for said in answers[:32] + answers[-32:]] == [said.rstrip(half) for said in expected]
    for reason, said in zip(bad, answers[32 : 32 + len(bad)], strict=True):
        assert said.startswith("40") and reason in said
    assert not any("Error" in said for said in answers[32 + len(bad) : -32])

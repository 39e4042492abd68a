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
from helpers.jobs import ROOT, compose
from PIL import Image

from nuwa import prune
from nuwa.benchmarks.scenes import Scenes
from nuwa.serve.job import served_job

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
JOB = ("model=tiny_llava", "pruner=visionzip", "budget=avg64", "position=pesp")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    more = ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--max-num-seqs", "32"]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"} | os.environ
    with log.open("w") as lines:
        command = [sys.executable, "-m", "nuwa.serve", *JOB, "--vllm", *more]
        server = subprocess.Popen(command, cwd=ROOT, stdout=lines, stderr=lines, env=environment)
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def shown(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind.lower()};base64,{data}"}}


def test_good_requests_are_answered_and_bad_ones_named(address):
    openai = pytest.importorskip("openai", reason="the client comes with vLLM")
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    benchmark = Scenes(samples=64, seed=11)
    samples = [benchmark[number] for number in range(64)]
    job = served_job(compose(*JOB))
    loaded = job.options.load()
    with prune(loaded.model, job.served.method(), "pesp"):
        inputs = loaded.encode(samples)
        ids = loaded.model.generate(**inputs, max_new_tokens=32)
    expected = loaded.decode(ids, inputs["input_ids"].shape[1])

    picture, text = shown(samples[0].images[0]), {"type": "text", "text": samples[0].text}
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "no"}] * 2
    bad = {
        "cannot identify image": {"content": [broken, text]},
        "a prompt that takes 1167 positions before pruning": {"content": [picture, picture, text]},
        "The model `nothing` does not exist": {"content": [picture, text], "model": "nothing"},
        "send one message": {"messages": turns},
    }

    def ask(content=None, model="tiny_llava", messages=None):
        messages = messages or [{"role": "user", "content": content}]
        try:
            made = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=32)
        except openai.APIStatusError as error:
            return str(error.message)
        return made.choices[0].message.content.strip()

    good = [{"content": [shown(sample.images[0]), {"type": "text", "text": sample.text}]} for sample in samples]
    large = {"content": [shown(Image.new("RGB", (8000, 5000), "red"), "JPEG"), text]}
    alone = {"content": samples[0].text}
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda request: ask(**request), [*good[:32], *bad.values(), large, alone, *good[32:]]))
    assert answers[:32] + answers[-32:] == expected
    for reason, said in zip(bad, answers[32:36], strict=True):
        assert reason in said
    assert not any("Error" in said for said in answers[36:38])

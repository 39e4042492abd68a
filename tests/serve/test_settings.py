"""Who is served and who is refused, by name and before an engine is there; and the line that starts it."""

import json
import shlex

import pytest
import torch
from helpers.jobs import ROOT, compose

from nuwa.options import ConfigError
from nuwa.serve.__main__ import main
from nuwa.serve.job import chat_template, served_job
from nuwa.serve.positions import PictureSpan, prompt_ids, with_ids, without_ids
from nuwa.serve.settings import Served

QWEN = "model=tiny_qwen"
REFUSED = {
    "pruner nuwa has an LLM stage (at layer 8)": ["pruner=nuwa"],
    "pruner fastv has an LLM stage": ["pruner=fastv"],
    "pruner composed has an LLM stage": ["pruner=composed", "pruner.vision=visionzip", "pruner.llm=fastv"],
    "pruner occamtoken finds the number of tokens by itself": [
        "pruner=occamtoken",
        "pruner.adaptive=true",
        "budget=full",
    ],
    "pruner mmtok reads the question": ["pruner=mmtok"],
    "scores with the CLS token": [QWEN, "pruner=prumerge"],
    "position.strategy=median is for methods that merge": ["pruner=divprune", "position=median"],
    "budget.average=600 is more than the 576": ["pruner=visionzip", "budget.average=600"],
    "calibration.kind=size": ["pruner=visionzip", "calibration=size"],
    "calibration.kind=native": ["pruner=restore"],
    "coordinates.kind=grid": ["pruner=visionzip", "coordinates=grid"],
    "blocking.source=vision": ["blocking=vision_to_vision"],
    "model.device=cpu": ["pruner=visionzip", "model.device=cpu"],
    "model=llava_1_5_random: an engine serves checkpoints": ["model=llava_1_5_random", "pruner=visionzip"],
    "model.family=gemma3": ["model=gemma3_4b", "pruner=visionzip"],
    "model.family=qwen3_vl_moe": ["model=qwen3_vl_30b_a3b", "pruner=visionzip"],
    "model.path=package:tiny/nothing": ["model.path=package:tiny/nothing", "pruner=visionzip"],
    "pruner/nothing": ["pruner=nothing"],
    "pruner=null: nothing is chosen": ["pruner=null"],
    "dataset=gqa: of a server, choose model, pruner": ["pruner=visionzip", "dataset=gqa"],
    "+size=1: of a server": ["pruner=visionzip", "+size=1"],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_served_is_refused_in_one_line(reason, capsys):
    assert main([*REFUSED[reason], "--print"]) == 1
    said = capsys.readouterr()
    assert reason in said.err and said.err.count("\n") == 1
    assert not said.out


def test_the_line_says_all_that_the_plugin_is_told(capsys):
    asked = ["pruner=visionzip", "budget=avg64", "position=pesp", "seed=3", "pruner.contextual=0.25"]
    assert main([*asked, "--print", "--vllm", "--port", "8001"]) == 0
    command, verb, folder, *flags = shlex.split(capsys.readouterr().out)
    assert [command, verb, folder] == ["vllm", "serve", str(ROOT / "nuwa/tiny/llava")]
    assert flags[-2:] == ["--port", "8001"]
    told = dict(zip(flags[::2], flags[1::2], strict=True))
    assert json.loads(told["--hf-overrides"]) == {
        "architectures": ["NuwaForConditionalGeneration"],
        "nuwa": {
            "pruner": "visionzip",
            "options": {"contextual": 0.25},
            "average": 64.0,
            "seed": 3,
            "position": "pesp",
            "pictures": {"image_frame": "pad"},
        },
        "text_config": {"rope_parameters": {"mrope_section": [0, 16, 0]}},
    }
    assert told["--video-pruning-rate"] == "0.5"
    assert json.loads(told["--media-io-kwargs"]) == {"image": {"image_mode": None}}
    assert (told["--dtype"], told["--served-model-name"]) == ("float32", "tiny_llava")


@pytest.mark.parametrize(
    "flag",
    [
        *("--hf-overrides", "--hf_overrides={}", "--hf-over", "--hf-overrides.nuwa.average", "--model-impl", "--mo"),
        *("--media-io-kwargs", "--media_io_kwargs.image.image_mode", "--mm-processor-kwargs"),
    ],
)
def test_what_is_served_cannot_be_taken_back(flag, capsys):
    assert main(["pruner=visionzip", "--print", "--vllm", "--port", "8001", flag, "x"]) == 1
    assert f"--vllm {flag}: is said by model, pruner, budget and position" in capsys.readouterr().err


def test_renumbered_ids_need_nothing_of_the_engine():
    arguments = served_job(compose("pruner=visionzip", "position=perc")).arguments()
    assert "video_pruning_rate" not in arguments and "text_config" not in arguments["hf_overrides"]


def test_settings_make_the_same_pruner_again():
    cfg = compose(
        QWEN, "pruner=nuwa", "pruner.stage2_ratio=1", "pruner.d_thresh=18", "budget.average=null", "budget.ratio=0.25"
    )
    job = served_job(cfg)
    read = Served.read(job.arguments()["hf_overrides"]["nuwa"])
    assert read == job.served
    assert (read.method().d_thresh, read.method().stage2_ratio, read.method().budget.ratio) == (18, 1, 0.25)
    assert read.position == "pesp"  # native, on a model with three axes


BY_HAND = {
    "nuwa=None": None,
    "nuwa.bugdet: unknown": {"pruner": "visionzip", "bugdet": 64},
    "nuwa.average=many": {"average": "many"},
    "nuwa.average: pruner visionzip needs a budget": {"pruner": "visionzip"},
    "nuwa.pictures.image_frame=padd": {"pictures": {"image_frame": "padd"}},
    "nuwa.pictures.frame: unknown": {"pictures": {"frame": "pad"}},
}


@pytest.mark.parametrize("reason", BY_HAND)
def test_settings_by_hand_are_checked(reason):
    with pytest.raises(ConfigError, match=reason):
        Served.read(BY_HAND[reason])


def test_a_budget_of_all_tokens_is_written_down():
    told = served_job(compose("pruner=visionzip", "budget=full")).arguments()["hf_overrides"]["nuwa"]
    assert told["average"] is None and Served.read(told).average is None


def test_a_method_without_a_file_is_refused():
    from nuwa.pruners.visionzip import VisionZip

    class Mine(VisionZip):
        pass

    with pytest.raises(ConfigError, match="Mine has no file in conf/pruner"):
        Served.of(Mine(), "pesp", {}, "sdpa")


@pytest.mark.parametrize("name", ["tiny_llava", "tiny_qwen"])
def test_the_chat_template_writes_the_prompt_of_an_evaluation(name):
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    job = served_job(compose(f"model={name}", "pruner=none"))
    loaded = job.options.load()
    text = "is the red circle left of it ?"
    parts = [{"type": "image"}, {"type": "text", "text": text}, {"type": "image"}]
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    made = env.from_string(chat_template(job.options, job.folder)).render(messages=[{"role": "user", "content": parts}])
    assert made == (loaded.tokenizer.bos_token or "") + loaded.prompt.render(text, 2)


def test_ids_of_a_prompt_with_two_pictures():
    """By hand: text, a picture of 576 of which 2 stay, text, one of 4 x 3 of which all stay, text."""
    ids, following = prompt_ids(9, [PictureSpan(1, 2, 576), PictureSpan(4, 3, 4)], placed=True)
    assert ids.tolist() == [[0, 1, 1, 577, 578, 578, 578, 582, 583]] * 3
    assert following == 584
    ids, following = prompt_ids(9, [PictureSpan(1, 2, 576)], placed=False)
    assert (ids[1].tolist(), following) == (list(range(9)), 9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_ids_survive_any_precision(dtype):
    kept = torch.tensor([[0, 255, 256, 575, 65535], [1, 257, 511, 0, 40000]])
    features = torch.randn(5, 8).to(dtype)
    back, ids = without_ids(with_ids(features, kept))
    assert torch.equal(back, features) and torch.equal(ids, kept)

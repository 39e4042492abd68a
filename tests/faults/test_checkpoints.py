"""Broken checkpoints and numbers: a refusal names the file or the tensor, and no NaN passes for an answer."""

import json
import shutil

import pytest
import torch
from helpers.faults import Case, rows_below
from helpers.jobs import ROOT
from PIL import Image
from safetensors.torch import load_file, save_file

RUN = (
    "launch.py", "model.path={folder}/model", "pruner=none", "baseline=skip", "dataset.samples=2", "logger=none",
    "callbacks=none", "trainer=cpu", "paths.outputs={folder}/out", "generation.max_new_tokens=2",
)  # fmt: skip
LOGITS, WEIGHTS = "the model's logits are NaN or infinite", "1 weights hold NaN or infinity, e.g."


def copied(folder):
    return shutil.copytree(ROOT / "nuwa/tiny/llava", folder / "model")


def edited(name, change):
    """A copy of the tiny checkpoint with one of its JSON files changed."""

    def prepare(folder):
        file = copied(folder) / name
        content = json.loads(file.read_text())
        file.write_text(json.dumps(change(content) or content))

    return prepare


def with_tensor(part, value):
    """A copy with one of its tensors, whose name holds ``part``, changed by ``value(tensor)``."""

    def prepare(folder):
        file = copied(folder) / "model.safetensors"
        tensors = load_file(file)
        name = next(name for name in tensors if part in name)
        tensors[name] = value(tensors[name])
        save_file(tensors, file, {"format": "pt"})

    return prepare


def one_wrong(tensor, value):
    """A copy of which the last number alone is another."""
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


def written(name, content):
    def prepare(folder):
        (copied(folder) / name).write_bytes(content)

    return prepare


def broken(name, prepare, *says, **others):
    return Case(name, RUN, says=says, prepare=prepare, **others)


def text_config(**values):
    return edited("config.json", lambda config: config["text_config"].update(values))


def pictures(**values):
    return edited("processor_config.json", lambda config: config["image_processor"].update(values))


CASES = [
    Case("whole", RUN, status=0, prepare=copied, rows=2),
    broken("one nan", with_tensor("embed_tokens", lambda x: one_wrong(x, float("nan"))), WEIGHTS, "embed_tokens"),
    broken("weights of 1e38", with_tensor("layers.3.mlp.up_proj", lambda x: torch.full_like(x, 1e38)), LOGITS),
    broken("no deviation", pictures(image_std=[0.5, 0.5, 0.0]), "image_std=", "must be above 0"),
    broken(
        "numbers that overflow on the way", with_tensor("embed_tokens", lambda x: torch.full_like(x, 1e38)),
        "answers are empty", status=0,
    ),
    broken(
        "layers left over", text_config(num_hidden_layers=2),
        "tensors of the language model are left over", "layers.",
    ),
    broken("layers missing", text_config(num_hidden_layers=20), "tensors are missing"),
    broken("another width", text_config(intermediate_size=48), "of another shape", "mlp."),
    broken(
        "a tensor of another shape", with_tensor("layers.3.mlp.up_proj", lambda x: x[:-1].contiguous()),
        "1 tensors are of another shape", "layers.3.mlp.up_proj",
    ),
    broken("layers in words", text_config(num_hidden_layers="many"), "config.json"),
    broken("no layers", text_config(num_hidden_layers=0), "config.json"),
    broken(
        "patches of no size", edited("config.json", lambda c: c["vision_config"].update(patch_size=0)), "config.json"
    ),
    broken("config is a list", written("config.json", b"[]"), "config.json must hold a JSON object"),
    broken("config is deep", written("config.json", b'{"a":' * 10**5), "config.json is not valid JSON"),
    broken("config is binary", written("config.json", bytes(range(256))), "config.json"),
    broken("tokenizer of another kind", written("tokenizer.json", b'{"a": 1}'), "tokenizer.json cannot be used"),
    broken("tokenizer is cut", written("tokenizer.json", b'{"version"'), "tokenizer.json is not valid JSON"),
    broken("weights of no bytes", written("model.safetensors", b""), "model.safetensors (0 bytes) is truncated"),
    broken("weights are text", written("model.safetensors", b"x" * 5000), "not a safetensors file"),
    broken("an unknown family", edited("config.json", lambda c: c.update(model_type="blip")), "is not supported"),
]  # fmt: skip


MORE = [
    *(
        broken(f"{value} in {part}", with_tensor(part, lambda x, value=value: one_wrong(x, value)), WEIGHTS, part)
        for part in ("layers.3.mlp.up_proj", "vision_tower", "multi_modal_projector", "embed_tokens")
        for value in (float("nan"), float("inf"), -float("inf"))
    ),
    *(
        broken(f"1e38 in {part}", with_tensor(part, lambda x: torch.full_like(x, 1e38)), LOGITS)
        for part in ("layers.3.mlp.up_proj", "multi_modal_projector")
    ),
    *(
        broken(
            f"image_std {value}", pictures(image_std=value), "image_std=", "must be above 0"
        )
        for value in ([0, 0, 0], [0.5, 0.5, 0.0], [-1, 0.5, 0.5])
    ),
]  # fmt: skip
"""Further ones of these kinds, by name."""


@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(case, marks=pytest.mark.faults) for case in MORE)], ids=lambda case: case.name
)
def test_a_broken_checkpoint(case, server, tmp_path):
    case.check(server, tmp_path)


def test_nothing_but_empty_answers_is_said(server, tmp_path):
    """The first token of every answer is the end: a copy whose last norm says nothing else."""
    end = json.loads((ROOT / "nuwa/tiny/llava/config.json").read_text())["text_config"]["eos_token_id"]

    def only_the_end(head):
        head = torch.zeros_like(head)
        head[end] = 1.0
        return head

    folder = copied(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = next((name for name in tensors if "lm_head" in name), None)
    if name is None:
        pytest.fail("the tiny model ties its head: choose another way to make it end")
    tensors[name] = only_the_end(tensors[name])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    outcome = server.run([part.replace("{folder}", str(tmp_path)) for part in RUN], tmp_path)
    assert outcome.status == 0 and "answers are empty" in outcome.printed, outcome.printed


@pytest.mark.parametrize(
    "size",
    [
        (1, 60000),
        pytest.param((60000, 1), marks=pytest.mark.faults),
        pytest.param((3, 20000), marks=pytest.mark.faults),
    ],
)
def test_a_strip_of_a_picture_is_cheap(size, server, tmp_path):
    """Padded as it is, it would take gigabytes."""
    Image.new("RGB", size, "red").save(tmp_path / "strip.png")
    (tmp_path / "data.jsonl").write_text('{"id": "0", "image": "strip.png", "question": "what ?", "answer": "x"}')
    arguments = [part for part in RUN if "samples" not in part and "model.path" not in part]
    arguments += ["dataset=local", f"dataset.path={tmp_path / 'data.jsonl'}"]
    outcome = server.run([part.replace("{folder}", str(tmp_path)) for part in arguments], tmp_path)
    assert outcome.status == 0 and rows_below(tmp_path) == 1 and "failed" not in outcome.printed, outcome.printed
    assert outcome.megabytes < 900, outcome


def test_a_prompt_that_is_too_long_fails_alone(server, tmp_path):
    """And the questions beside it in the batch are answered."""
    rows = [
        {"id": str(n), "image": [], "question": "what ? " * words, "answer": "x"}
        for n, words in enumerate((1, 60000, 2))
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = [part for part in RUN if "samples" not in part and "model.path" not in part]
    arguments += ["dataset=local", f"dataset.path={tmp_path / 'data.jsonl'}"]
    outcome = server.run([part.replace("{folder}", str(tmp_path)) for part in arguments], tmp_path)
    assert outcome.status == 0 and outcome.megabytes < 1500, outcome
    (file,) = tmp_path.glob("out/main/*/predictions.jsonl")
    found = {row["id"]: row for row in map(json.loads, file.read_text().splitlines())}
    assert [found[n]["status"] for n in "012"] == ["ok", "failed", "ok"]
    assert "1024 positions" in found["1"]["reason"]

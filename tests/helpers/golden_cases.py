"""Golden cases and small contexts for the tests of pruning methods."""

import json
import lzma
from pathlib import Path

import torch
from safetensors.torch import load

from nuwa.pruners.base import LLMContext, VisionContext

GOLDEN = Path(__file__).parents[1] / "golden" / "pruners"


class Golden:
    """One golden case: ``inputs`` by name and ``runs`` by id (see tests/golden/pruners/<name>.json)."""

    def __init__(self, name):
        tensors = load(lzma.decompress((GOLDEN / f"{name}.safetensors.xz").read_bytes()))
        manifest = json.loads((GOLDEN / f"{name}.json").read_text())
        self.inputs = {key: tensors[spec["tensor"]] for key, spec in manifest["inputs"].items()}
        self.runs = {run["id"]: run for run in manifest["runs"]}
        self.tensors = tensors

    def params(self, run):
        return self.runs[run]["params"]

    def check(self, run, **found):
        """Compare outputs with the golden ones, each the way its manifest says."""
        for key, tensor in found.items():
            spec = self.runs[run]["outputs"][key]
            expected = self.tensors[spec["tensor"]]
            if spec["compare"] == "exact":
                assert torch.equal(tensor, expected), f"{run}: {key}"
            else:
                torch.testing.assert_close(tensor, expected, atol=spec["atol"], rtol=spec["rtol"])


def golden_runs(*names, only=lambda run: True):
    """(case, run id) of all runs, for parametrize."""
    return [(name, run) for name in names for run in Golden(name).runs if only(run)]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vision_context(grid, features, taps, ids=None):
    ids = ids or [f"image{i}" for i in range(len(features))]
    return VisionContext(grid, features, taps, ids, project=lambda x: x)


UNASKED = ("keys", "values", "rotary_kernel", "final_norm", "position_ids", "frequencies", "kv_heads", "layers")


def llm_context(*fields, **more):
    """An LLM context that is asked for no more than its fields and ``more``."""
    return LLMContext(*fields, **dict.fromkeys(UNASKED) | more)


def prompt(*lengths, ids=(("a",),), rows=None, hidden=None, padding=0, layer=8, **more):
    """An LLM context of rows that are text, image, text, ...: lengths (text, image 0, text, image 1, ...)."""
    image, token = [-1] * padding, [-1] * padding
    for part, length in enumerate(lengths):
        image += [part // 2 if part % 2 else -1] * length
        token += list(range(length)) if part % 2 else [-1] * length
    image, token = torch.tensor([image]), torch.tensor([token])
    valid = torch.arange(image.shape[1])[None] >= padding
    hidden = torch.zeros(1, image.shape[1], 4) if hidden is None else hidden

    def attention(query):
        assert query.tolist() == [image.shape[1] - 1]
        return rows[:, :, None]

    return llm_context(layer, hidden, image, token, valid, ids, attention, **more)


def after(context, first=None, **more):
    """The context of the next layer, which looks back at ``context``; its own attention is not to be asked for."""

    def forbidden(query):
        raise AssertionError("asked for attention of the pruning layer itself")

    return llm_context(
        context.layer + 1,
        context.hidden,
        context.image,
        context.token,
        context.valid,
        context.ids,
        forbidden,
        earlier={"previous": context} | ({} if first is None else {"first": first}),
        **more,
    )


def stack(contexts):
    """One batch of the given rows, left-padded to one length."""
    length = max(context.image.shape[1] for context in contexts)

    def pad(tensor, value):
        filler = torch.full((1, length - tensor.shape[1], *tensor.shape[2:]), value, dtype=tensor.dtype)
        return torch.cat([filler, tensor], 1)

    def join(name, value):
        return torch.cat([pad(getattr(context, name), value) for context in contexts])

    return llm_context(
        contexts[0].layer,
        join("hidden", float("nan")),
        join("image", -1),
        join("token", -1),
        join("valid", False),
        [context.ids[0] for context in contexts],
        attention=None,
    )

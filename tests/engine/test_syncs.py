"""How often a GPU would be waited for, counted on pretended ones (`helpers.syncs`): this is no timing.

LLaVA-1.5's architecture with random weights, 16 layers, 576 visual tokens and an average budget of 64. As Markdown:
``PYTHONPATH=tests python tests/engine/test_syncs.py``.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache

import pytest
import torch
from helpers.devices import mark, moved, pretend
from helpers.methods import SameWords
from helpers.syncs import Syncs

import nuwa
from nuwa.models.prompts import IMAGE
from nuwa.models.random_vlm import RandomModel
from nuwa.pruners.catalogue import method_names
from nuwa.pruning.budget import Budget

GPU = torch.device("cuda:0")
PREFILL, DECODE = 8, 0
"""Synchronising operations that the engine may add to those of an unpruned model."""
OWN = {"sparsevlm": 7, "sparsevlm_plus": 4, "cdpruner": 1, "ivc_prune": 1, "occamtoken": 1, "vlm_pruner": 2}
OWN |= {"prunesid": 12, "transprune": 3, "holitom": 2, "fastvid": 4, "flashvid": 4, "prunevid": 19}
"""How often methods read the device by themselves; the others never do.

SparseVLM has as many raters as the question makes it (once for all, and once for each stage), and like CDPruner, which
picks as many tokens as are planned, reads the planned numbers. PruneSID's groups and the batches of VLM-Pruner end
when their values say so. HoliTom reads the planned numbers, and what stands still in every video.
FastVID and FlashVID read once in each of four videos, PruneVid twice, and as often inside the LLM, where it reads what
is planned and the question's length besides.
"""
OPERATIONS = 154
"""What Nüwa may add to the operations of one prompt; five of them ask whether its new features are numbers."""


@cache
def loaded():
    sizes = {"hidden_size": 64, "intermediate_size": 64, "layers": 16, "heads": 4}
    vision = {"vision_hidden_size": 32, "vision_layers": 4, "vision_heads": 2}
    random = RandomModel(prompt="{images}{text}", device="cpu", attention="eager", **sizes, **vision)
    return random.load()


def inputs(batch: int):
    """Prompts of one image and 51 tokens of text or a few less, padded on the left."""
    tokenizer, model = loaded().tokenizer, loaded().model
    image, count = tokenizer.convert_tokens_to_ids(IMAGE), model.config.image_seq_length
    side = model.config.vision_config.image_size
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(5, 200, (batch, 51), generator=generator)
    ids = torch.cat([text[:, :31], torch.full((batch, count), image), text[:, 31:]], 1)
    mask = torch.arange(ids.shape[1]) >= 3 * torch.arange(batch)[:, None]
    pixels = torch.randn(batch, 3, side, side, generator=generator)
    return {"input_ids": ids.where(mask, 0), "attention_mask": mask.long(), "pixel_values": pixels}


@cache
def counted(name: str, batch: int) -> tuple[Syncs, Syncs]:
    """A prefill and a decode step with a method, or unpruned (``""``)."""
    model, given = loaded().model, inputs(batch)
    budget = Budget(average=None if name == "none" else 64)
    pruner = SameWords(budget=budget) if name == "mmtok" else nuwa.load_pruner(name, budget) if name else None
    with (
        torch.no_grad(),
        nuwa.prune(model, pruner) if pruner else nullcontext(),
        pretend(model, lambda module: "cuda:0"),
    ):
        given = moved(given, GPU)
        with Syncs() as prefill:
            out = model(**given, logits_to_keep=1)
        mask = torch.cat([given["attention_mask"], torch.ones_like(given["attention_mask"][:, :1])], 1)
        last = {"input_ids": given["input_ids"][:, -1:], "attention_mask": mask}
        with Syncs() as decode:
            model(**last, past_key_values=out.past_key_values, logits_to_keep=1)
    return prefill, decode


def added(name: str, batch: int, step: int, what: str) -> int:
    """What a method adds to an unpruned prefill (0) or decode step (1)."""
    return getattr(counted(name, batch)[step], what) - getattr(counted("", batch)[step], what)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", method_names())
def test_a_prefill_waits_a_few_times_whatever_the_batch(name, batch):
    """A method's own reads are where its definition asks for them."""
    places, own = counted(name, batch)[0].places, OWN.get(name, 0)
    assert sum(count for place, count in places.items() if place.startswith("nuwa/pruners")) <= own, places
    assert added(name, batch, 0, "syncs") <= PREFILL + own, places


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", ["nuwa", "visionzip", "pyramiddrop"])
def test_decoding_does_not_wait_to_know_whether_padding_was_added(name, batch):
    assert added(name, batch, 1, "syncs") <= DECODE


def test_nuwa_adds_few_operations():
    assert added("nuwa", 1, 0, "operations") <= OPERATIONS


def test_what_is_counted():
    with Syncs() as syncs:
        there, here = mark(torch.arange(4.0), GPU), torch.arange(4.0)
        there + 1, there.view(2, 2), there > 1
        here.tolist(), bool(here.sum() > 0), here[here > 1], here.nonzero()
    assert (syncs.syncs, syncs.operations) == (0, 2)
    for read in (
        lambda: there.tolist(),
        lambda: there.cpu(),
        lambda: there.to("cpu"),
        lambda: int(there.sum()),
        lambda: there[there > 1],
        lambda: there.nonzero(),
        lambda: torch.equal(there, there),
        lambda: there.repeat_interleave(there.long()),
        lambda: there.long().bincount(),
        lambda: there.unique(),
    ):
        with Syncs() as syncs:
            read()
        assert syncs.syncs == 1, (read, syncs.places)


def table() -> str:
    """Markdown: what every method adds."""
    head = "| method | prompts | prefill, syncs | prefill, operations | decode, syncs | decode, operations |\n"
    rows = []
    for batch, name in ((batch, name) for batch in (1, 4) for name in method_names()):
        numbers = [added(name, batch, step, what) for step in (0, 1) for what in ("syncs", "operations")]
        rows.append(" | ".join([f"| {name}", str(batch), *map("{:+d}".format, numbers)]) + " |\n")
    return head + "|---|---|---|---|---|---|\n" + "".join(rows)


if __name__ == "__main__":
    print(table())

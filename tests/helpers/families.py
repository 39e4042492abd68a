"""Model families that the engine tests run on: a small random model, four pictures and their geometry each.

A family joins the matrix with one line in ``FAMILIES``; one whose position ids have a single axis and whose layers are
Llama's joins ``PLAIN`` too, the comparison with plain decoding. ``LATER`` are those that differ from another in little:
their tests are marked slow.
"""

from __future__ import annotations

import torch
from helpers.families_gemma import Gemma3
from helpers.families_more import Idefics3, InternVL, SmolVLM
from helpers.families_qwen import Qwen, Qwen2, Qwen3, Qwen3Moe, Qwen35
from helpers.families_tiles import LlavaNext, LlavaOnevision
from helpers.family import PROMPTS, Family
from helpers.support import kept_tokens, survives

PLAIN = ("llava", "llava_next", "llava_onevision", "internvl", "smolvlm", "idefics3")

KINDS = (Family, Gemma3, LlavaNext, LlavaOnevision, InternVL, SmolVLM, Idefics3, Qwen, Qwen2, Qwen3, Qwen3Moe, Qwen35)
FAMILIES = {kind.name: kind() for kind in KINDS}
LATER = ("qwen2_vl", "qwen3_vl_moe", "idefics3")


def fixed_keep(family: Family, prompt: str, stride: int) -> list[list[int]]:
    """What `Fixed` lets into the LLM of each picture of a prompt, newlines with it."""
    return [
        family.with_newlines(
            number, {view[i] for view in family.patches(number) for i in kept_tokens(len(view), stride, 1)}
        )
        for number in PROMPTS[prompt][1]
    ]


def fixed_stage(family: Family, prompt: str, stride: int, stage: int):
    """What `Fixed` does at a stage in the LLM, for `plain_decode`."""

    def choose(hidden, entries):
        return stay_with_newlines(family, prompt, entries, lambda i: survives(entries[i][2], stride, stage))

    return choose


def merging_stage(family: Family, prompt: str):
    """What `Merging` does, for `plain_decode`."""

    def choose(hidden, entries):
        patches = patches_of(family, prompt, entries)
        new = {mine[1]: torch.stack([hidden[i] for i in mine[1::2]]).mean(0) for mine in patches.values()}
        even = {i for mine in patches.values() for i in mine[::2]}
        places, ends = stay_with_newlines(family, prompt, entries, even.__contains__), {}
        for mine in patches.values():
            ends[max(i for i in places if entries[i][1] == entries[mine[0]][1])] = mine[1]
        return [i for place in places for i in (place, ends.get(place)) if i is not None], new

    return choose


def stay_with_newlines(family: Family, prompt: str, entries, stays) -> list[int]:
    """Indices of text, of the patches that stay, and of the newlines of their rows, as they stand."""
    patches = patches_of(family, prompt, entries)
    kept = {}
    for image, mine in patches.items():
        tokens = {entries[i][2] for i in mine if stays(i)}
        kept[image] = set(family.with_newlines(PROMPTS[prompt][1][image], tokens))
    return [i for i, (_, image, token) in enumerate(entries) if image < 0 or token in kept[image]]


def patches_of(family: Family, prompt: str, entries) -> dict[int, list[int]]:
    """Image -> indices of the entries that are its patches."""
    out: dict[int, list[int]] = {}
    for i, (_, image, token) in enumerate(entries):
        if image >= 0 and family.cells(PROMPTS[prompt][1][image])[token][2] is not None:
            out.setdefault(image, []).append(i)
    return out

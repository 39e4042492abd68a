"""The methods of conf/pruner that leave tokens of a picture out, and the families that suit it."""

from __future__ import annotations

import torch
from helpers.families import FAMILIES

import nuwa
from nuwa.pruners import MMTok
from nuwa.pruners.catalogue import method_names
from nuwa.pruning.budget import Budget

OVER_TIME = ("dycoke", "evs", "frame_drop", "temporal_pool")
"""Methods that compare frames of a video, or drop them: of a picture everything stays."""
METHODS = [name for name in method_names() if name not in OVER_TIME]
NO_CLS = ("llava_onevision", "gemma3", "smolvlm", "idefics3", *(name for name in FAMILIES if name.startswith("qwen")))
UNSUITED = {"prumerge": NO_CLS, "prumerge_plus": NO_CLS, "downsample": ("llava_next", "internvl", *NO_CLS)}
"""Methods that need a CLS token or one image size, and the families that have none."""
LINEAR = ("restore", "transprune")
"""Methods that need attention in every layer, which Qwen3.5 does not have."""
CASES = [
    (family, name)
    for family in FAMILIES
    for name in METHODS
    if family not in UNSUITED.get(name, ()) and not (family == "qwen3_5" and name in LINEAR)
]


class SameWords(MMTok):
    """Three words about every image: the toy models have no tokenizer, and most tests no questions."""

    def embed(self, context):
        width = context.project(context.features[:1, :1]).shape[-1]
        words = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
        return [words.to(context.features.device)] * len(context.features)


def pruner_for(name: str, family=FAMILIES["llava"]):
    """About a third of the tokens; a family of many image sizes gets a ratio."""
    if name == "none":
        return nuwa.load_pruner(name, seed=3)
    return spending(name, Budget(average=20) if family is FAMILIES["llava"] else Budget(ratio=family.ratio))


def spending(name: str, budget: Budget):
    """A method with a budget."""
    return SameWords(budget=budget, seed=3) if name == "mmtok" else nuwa.load_pruner(name, budget=budget, seed=3)

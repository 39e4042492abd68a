"""Every method of conf/pruner, and the families that suit it."""

from __future__ import annotations

from helpers.families import FAMILIES

import nuwa
from nuwa.pruners.catalogue import method_names
from nuwa.pruning.budget import Budget

METHODS = method_names()
NO_CLS = ("llava_onevision", *(name for name in FAMILIES if name.startswith("qwen")))
UNSUITED = {"prumerge": NO_CLS, "prumerge_plus": NO_CLS, "downsample": ("llava_next", *NO_CLS)}
"""Methods that need a CLS token or one image size, and the families that have none."""
CASES = [(f, m) for f in FAMILIES for m in METHODS if f not in UNSUITED.get(m, ())]


def pruner_for(name: str, family):
    """About a third of the tokens; a family of many image sizes gets a ratio."""
    budget = None if name == "none" else 20 if family is FAMILIES["llava"] else Budget(ratio=family.ratio)
    return nuwa.load_pruner(name, budget=budget, seed=3)

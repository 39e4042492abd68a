"""What ability of a model a sample asks for: answering, grounding, reading, relations, not inventing, video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ANSWERING, _GROUNDING, _READING = "answering", "grounding", "reading"
_RELATIONS, _HALLUCINATION, _VIDEO = "spatial relations", "hallucination", "video"
ABILITIES = (_ANSWERING, _GROUNDING, _READING, _RELATIONS, _HALLUCINATION, _VIDEO)
_DATASETS = {
    "refcoco": _GROUNDING, "nuwa_qwen_refcoco": _GROUNDING, "screenspot": _GROUNDING,
    "textvqa": _READING, "ocrbench": _READING, "chartqa": _READING, "docvqa": _READING, "infovqa": _READING,
    "cv_bench": _RELATIONS, "vstar": _RELATIONS,
    "pope": _HALLUCINATION, "hallusion": _HALLUCINATION,
    "videomme": _VIDEO, "egoschema": _VIDEO, "longvideobench": _VIDEO, "mvbench": _VIDEO, "clips": _VIDEO,
}  # fmt: skip
"""By the first letters of a data set's name; every other one asks for answers."""
_KINDS = {"exist": _HALLUCINATION, "relation": _RELATIONS, "read": _READING}
"""By the kind of a question about a generated picture."""


def ability_of(dataset: str, row: Mapping[str, Any]) -> str:
    """The ability that an answered sample of a data set asks for; ``row`` is its row in the journal.

    >>> ability_of("refcoco_val", {"task": "vg"}), ability_of("gqa", {"task": "gqa"})
    ('grounding', 'answering')
    >>> ability_of("scenes", {"task": "vqa", "meta": {"kind": "relation"}})
    'spatial relations'
    """
    if dataset in ("scenes", "plates"):
        kind = row.get("meta", {}).get("kind")
        return _GROUNDING if row["task"] == "vg" else _KINDS.get(kind, _ANSWERING)
    return next((ability for name, ability in _DATASETS.items() if dataset.startswith(name)), _ANSWERING)

"""What ability of a model a sample asks for: answering, grounding, reading, relations, not inventing, video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ANSWERING, GROUNDING, READING = "answering", "grounding", "reading"
RELATIONS, HALLUCINATION, VIDEO = "spatial relations", "hallucination", "video"
ABILITIES = (ANSWERING, GROUNDING, READING, RELATIONS, HALLUCINATION, VIDEO)
_DATASETS = {
    "refcoco": GROUNDING, "nuwa_qwen_refcoco": GROUNDING, "screenspot": GROUNDING,
    "textvqa": READING, "ocrbench": READING, "chartqa": READING, "docvqa": READING, "infovqa": READING,
    "cv_bench": RELATIONS, "vstar": RELATIONS,
    "pope": HALLUCINATION, "hallusion": HALLUCINATION,
    "videomme": VIDEO, "egoschema": VIDEO, "longvideobench": VIDEO, "mvbench": VIDEO, "clips": VIDEO,
}  # fmt: skip
"""By the first letters of a data set's name; every other one asks for answers."""
_SCENES = {"exist": HALLUCINATION, "relation": RELATIONS}
"""By the kind of a question about generated scenes."""


def ability_of(dataset: str, row: Mapping[str, Any]) -> str:
    """The ability that an answered sample of a data set asks for; ``row`` is its row in the journal.

    >>> ability_of("refcoco_val", {"task": "vg"}), ability_of("gqa", {"task": "gqa"})
    ('grounding', 'answering')
    >>> ability_of("scenes", {"task": "vqa", "meta": {"kind": "relation"}})
    'spatial relations'
    """
    if dataset == "scenes":
        kind = row.get("meta", {}).get("kind")
        return GROUNDING if row["task"] == "vg" else _SCENES.get(kind, ANSWERING)
    return next((ability for name, ability in _DATASETS.items() if dataset.startswith(name)), ANSWERING)

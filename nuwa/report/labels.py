"""What methods, models, data sets and metrics are called in figures and papers, made from the names they have here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from inspect import getmodule

from nuwa.evaluation.choices import known_method
from nuwa.evaluation.runs import Run

_METHODS = {
    "none": "Unpruned", "prumerge": "PruMerge", "prumerge_plus": "PruMerge+", "nuwa_release": "Nüwa (released code)",
    "nuwa_release_qwen": "Nüwa (released code, Qwen)",
}  # fmt: skip
"""Names that do not stand at the beginning of the method's file."""
_WORDS = {
    "llava": "LLaVA", "next": "NeXT", "onevision": "OneVision", "video": "Video", "vl": "VL", "tiny": "Tiny",
    "mistral": "Mistral", "moe": "MoE", "gqa": "GQA", "vqav2": "VQAv2", "textvqa": "TextVQA", "pope": "POPE",
    "mme": "MME", "mmbench": "MMBench", "mmmu": "MMMU", "scienceqa": "ScienceQA", "seedbench": "SEED-Bench",
    "mmvet": "MM-Vet", "docvqa": "DocVQA", "infovqa": "InfoVQA", "chartqa": "ChartQA", "ocrbench": "OCRBench",
    "mmstar": "MMStar", "realworldqa": "RealWorldQA", "refcoco": "RefCOCO", "videomme": "VideoMME",
    "refcocoplus": "RefCOCO+", "refcocog": "RefCOCOg", "egoschema": "EgoSchema", "longvideobench": "LongVideoBench",
    "mvbench": "MVBench", "vizwiz": "VizWiz", "vqa": "VQA", "screenspot": "ScreenSpot", "hallusion": "Hallusion",
    "cv": "CV", "vstar": "V*", "bench": "Bench", "ocr": "OCR",
}  # fmt: skip
_FAMILIES = {"qwen": "Qwen", "internvl": "InternVL", "gemma": "Gemma", "idefics": "Idefics", "smolvlm": "SmolVLM"}
_METRICS = {
    "acc": "accuracy", "acc@0.5": "accuracy at IoU 0.5", "miou": "mean IoU", "iou": "mean IoU",
    "center_acc": "centre in box", "f1_score": "F1", "anls": "ANLS", "aacc": "accuracy",
    "circular": "circular accuracy", "vanilla": "accuracy",
}  # fmt: skip
_TASKS = {"vqa": "questions", "vg": "grounding", "read": "reading"}


def method_label(method: str) -> str:
    """As its authors write it: what its file begins with.

    >>> method_label("visionzip"), method_label("vlm_pruner"), method_label("none"), method_label("mine")
    ('VisionZip', 'VLM-Pruner', 'Unpruned', 'mine')
    """
    known = None if method in _METHODS else known_method(method)
    said = (getmodule(known[0]).__doc__ or "") if known else ""
    found = re.match(r"[^\s:(]+(?: [a-z]+)?(?=:| \()", said)
    return _METHODS.get(method) or (found[0] if found else method)


def position_label(strategy: str) -> str:
    """As papers abbreviate it.

    >>> position_label("rpme_1d"), position_label("median")
    ('RPME-1D', 'median')
    """
    return strategy if strategy in ("median", "native") else strategy.upper().replace("_", "-")


def model_label(model: str) -> str:
    """Family, version and size.

    >>> model_label("llava_1_5_7b"), model_label("qwen2_vl_random"), model_label("internvl3_8b")
    ('LLaVA-1.5-7B', 'Qwen2-VL (random weights)', 'InternVL3-8B')
    """
    trained = model.removesuffix("_random")
    words = re.sub(r"(\d)_(\d)(?=_|$)", r"\1.\2", trained).split("_")
    return "-".join(map(_word, words)) + " (random weights)" * (trained != model)


def dataset_label(dataset: str) -> str:
    """The benchmark and its split.

    >>> dataset_label("refcocoplus_testA"), dataset_label("vqav2_val"), dataset_label("scenes")
    ('RefCOCO+ testA', 'VQAv2 val', 'scenes')
    """
    return " ".join(_WORDS.get(word, word) for word in dataset.split("_"))


def metric_label(metric: str, dataset: str) -> str:
    """Written out, with its task where that is not the data set itself.

    >>> metric_label("gqa/exact_match", "gqa"), metric_label("vg/acc@0.5", "scenes")
    ('exact match', 'grounding, accuracy at IoU 0.5')
    >>> metric_label("read/exact_match/small", "plates")
    'reading, exact match, small'
    """
    task, _, rest = metric.partition("/")
    score, *parts = rest.split("/")
    written = ", ".join([_METRICS.get(score.lower(), score.replace("_", " ")), *parts])
    return written if task in dataset else f"{_TASKS.get(task, task.replace('_', ' '))}, {written}"


def _word(word: str) -> str:
    family = re.match("[a-z]+", word)
    if family and family[0] in _FAMILIES:
        return _FAMILIES[family[0]] + word[len(family[0]) :]
    return word.upper() if re.fullmatch(r"a?\d+[bm]", word) else _WORDS.get(word, word)


def labels_of(runs: Sequence[Run]) -> list[str]:
    """Method, budget and position of each run, its model where they differ, its key where that is not enough."""
    models = {run.choices.model for run in runs}
    names = []
    for run in runs:
        choices = run.choices
        name = "unpruned" if run.method == "none" else choices.title.removesuffix(f" {choices.dataset}")
        blocked = f"{choices.blocking[0]} blocked in {choices.blocking[1]}" if choices.blocking else ""
        names.append(" ".join(filter(None, (name, blocked, choices.model if len(models) > 1 else ""))))
    twins = Counter(names)
    return [f"{n} {run.run_key}" if twins[n] > 1 else n for n, run in zip(names, runs, strict=True)]

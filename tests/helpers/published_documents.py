"""Rows of document, chart, text, real-world and spatial benchmarks, with the published columns and types."""

from __future__ import annotations

from collections.abc import Callable

from helpers.stored import stored


def docvqa(count: int) -> list[dict]:
    """Two questions to a page."""
    return [
        {"questionId": str(100 + i), "question": "When?", "question_types": ["form"], "image": stored(i),
         "docId": i // 2, "ucsf_document_id": "x", "ucsf_document_page_no": "1", "answers": ["May 14", "14 May"],
         "data_split": "val"}
        for i in range(count)
    ]  # fmt: skip


def infovqa(count: int) -> list[dict]:
    """Two questions to an infographic."""
    return [
        {"questionId": str(100 + i), "question": "How many?", "answers": ["12%"], "answer_type": ["single span"],
         "image": stored(i), "image_url": f"https://x/{i // 2}", "operation/reasoning": ["count"], "ocr": "12",
         "data_split": "val"}
        for i in range(count)
    ]  # fmt: skip


def chartqa(count: int) -> list[dict]:
    """By people and by machines in turns."""
    return [
        {"type": ("human_test", "augmented_test")[i % 2], "question": "How much?", "answer": ("14", "Yes")[i % 2],
         "image": stored(i)}
        for i in range(count)
    ]  # fmt: skip


def realworldqa(count: int) -> list[dict]:
    """A letter, a number, a word."""
    return [
        {"image": stored(i), "image_path": f"{i}.webp", "question": "Which?\n\nA. left\nB. right\nAnswer directly.",
         "answer": ("B", "2", "Uphill")[i % 3]}
        for i in range(count)
    ]  # fmt: skip


def ocrbench(count: int) -> list[dict]:
    """Words and formulas."""
    return [
        {"image": stored(i), "dataset": ("IIIT5K", "HME100k")[i % 2], "question": "what is written in the image?",
         "question_type": ("Regular Text Recognition", "Handwritten Mathematical Expression Recognition")[i % 2],
         "answer": [("CENTRE", "x ^ 2")[i % 2]]}
        for i in range(count)
    ]  # fmt: skip


def mmstar(count: int) -> list[dict]:
    """Two categories."""
    return [
        {"index": i, "question": "Which?\nOptions: A: one, B: two, C: three, D: four", "image": stored(i),
         "answer": "B", "category": ("math", "logical reasoning")[i % 2],
         "l2_category": ("geometry", "common reasoning")[i % 2],
         "meta_info": {"source": "MMBench", "split": "val", "image_path": "x"}}
        for i in range(count)
    ]  # fmt: skip


def vizwiz(count: int) -> list[dict]:
    """Ten annotators."""
    return [
        {"question_id": f"VizWiz_val_{i:08}.jpg", "image": stored(i), "question": "What is this?",
         "answers": ["dog"] * 7 + ["unanswerable"] * 3, "category": "other"}
        for i in range(count)
    ]  # fmt: skip


def vstar(count: int) -> list[dict]:
    """Options in the text; ids may start again in each category."""
    return [
        {"image": stored(i), "text": "Which?\n(A) one\n(B) two\nAnswer with the option's letter.", "label": "B",
         "category": ("direct_attributes", "relative_position")[i % 2], "question_id": str(i // 2)}
        for i in range(count)
    ]  # fmt: skip


def cv_bench(count: int) -> list[dict]:
    """Counting and relations."""
    return [
        {"idx": i, "type": "2D", "task": ("Count", "Relation")[i % 2], "image": stored(i), "question": "Which?",
         "choices": ["one", "two", "three"][: 3 - i % 2], "answer": "(B)", "prompt": "Which?\n(A) one\n(B) two",
         "filename": f"img/2D/{i}.png", "source": ("ADE20K", "COCO")[i % 2], "source_dataset": "x",
         "source_filename": "x", "target_class": None, "target_size": None, "bbox": None}
        for i in range(count)
    ]  # fmt: skip


def screenspot(count: int) -> list[dict]:
    """Boxes as fractions."""
    return [
        {"image": stored(i), "instruction": "close it", "bbox": [0.25, 0.25, 0.5, 0.75], "data_source": "ios",
         "data_type": ("text", "icon")[i % 2]}
        for i in range(count)
    ]  # fmt: skip


def hallusion(count: int) -> list[dict]:
    """One question about two figures of a set."""
    return [
        {"category": "VD", "subcategory": "map", "visual_input": "1", "set_id": str(i // 2), "figure_id": str(i % 2),
         "sample_note": "x", "question_id": "0", "question": "Is it?", "gt_answer_details": "It is.",
         "gt_answer": str(i % 2), "filename": f"{i}.png", "image": stored(i)}
        for i in range(count)
    ]  # fmt: skip


def refcoco_rows(count: int) -> list[dict]:
    """One or two sentences about a box."""
    return [
        {"question_id": str(i), "image": stored(i), "question": "Describe it.", "answer": ["left dog", "dog"][i % 2 :],
         "segmentation": [1.0, 2.0], "bbox": [8.0, 12.0, 16.0, 24.0], "iscrowd": 0, "file_name": f"{i}.jpg"}
        for i in range(count)
    ]  # fmt: skip


SETS: dict[str, tuple[Callable[[int], list[dict]], str]] = {
    "docvqa_val": (docvqa, "DocVQA/validation"), "infovqa_val": (infovqa, "InfographicVQA/validation"),
    "chartqa": (chartqa, "data/test"), "realworldqa": (realworldqa, "data/test"),
    "ocrbench": (ocrbench, "data/test"), "mmstar": (mmstar, "data/val"), "vizwiz_vqa_val": (vizwiz, "data/val"),
    "vstar_bench": (vstar, "data/test"), "cv_bench_2d": (cv_bench, "2D/test"),
    "screenspot_v2": (screenspot, "data/test"), "hallusion_bench_image": (hallusion, "data/image"),
    "refcoco_grounding_test": (refcoco_rows, "data/test"), "refcocog_grounding_test": (refcoco_rows, "data/test"),
    "refcoco_grounding_testA": (refcoco_rows, "data/testA"), "refcoco_grounding_testB": (refcoco_rows, "data/testB"),
    "refcocoplus_grounding_testA": (refcoco_rows, "data/testA"),
    "refcocoplus_grounding_testB": (refcoco_rows, "data/testB"),
}  # fmt: skip
"""As `helpers.published.SETS`, of which they are part."""

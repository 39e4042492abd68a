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


SETS: dict[str, tuple[Callable[[int], list[dict]], str]] = {
    "docvqa_val": (docvqa, "DocVQA/validation"), "infovqa_val": (infovqa, "InfographicVQA/validation"),
    "chartqa": (chartqa, "data/test"), "realworldqa": (realworldqa, "data/test"),
}  # fmt: skip
"""As `helpers.published.SETS`, of which they are part."""

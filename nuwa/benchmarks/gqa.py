"""GQA: compositional questions with one-word answers. Source: lmms-eval v0.3.4 (a863517), task ``gqa``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.hub import HubBenchmark
from nuwa.benchmarks.rows import Rows
from nuwa.benchmarks.scoring import exact_match
from nuwa.samples import SampleError


@dataclass(kw_only=True, eq=False)
class GQA(HubBenchmark):
    """Pictures are a config of their own (``image_config``), joined by id. Rows with an ``image`` need no join."""

    image_config: str

    task: ClassVar = "gqa"
    columns: ClassVar = {
        "id": column.identifier, "imageId": column.identifier, "question": column.text, "answer": column.text,
    }  # fmt: skip
    keys: ClassVar = ("id",)
    subject: ClassVar = "imageId"
    pictures: ClassVar = ()
    scored: ClassVar = ("answer",)

    def load(self) -> Rows:
        """Questions; and beside them the pictures, of which the same few hundred belong to all questions."""
        rows = super().load()
        self.photos, self.photo_rows = rows, None
        if "image" not in rows.columns:
            self.photos = self.rows_of(self.image_config)
            self.require(self.photos, ("id", "image"))
            self.photo_rows = {str(keys["id"]): row for row, keys in enumerate(self.photos.keys(("id",))) if keys}
        return rows

    def images(self, row: int, doc: Doc) -> list[Image.Image]:
        if self.photo_rows is not None:
            if doc["imageId"] not in self.photo_rows:
                raise SampleError(f"its picture {doc['imageId']} is not in {self.photos.source}")
            row = self.photo_rows[doc["imageId"]]
        return self.photos.pictures(row, "image")

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Equal to ``doc["answer"]`` once stripped, lowered and without ASCII punctuation."""
        return {"gqa/exact_match": exact_match((doc["answer"],), text)}

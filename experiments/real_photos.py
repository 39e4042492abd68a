"""Turn six real photographs, which lie outside the repository, into a folder for ``dataset=local``.

    python experiments/real_photos.py ../shared/data/real outputs/real_photos
    python launch.py dataset=local dataset.path=outputs/real_photos model=llava_1_5_7b

72 POPE questions on four COCO photos and 10 RefCOCO expressions on two. The photos' own licences are not known, so they
are copied into the git-ignored ``outputs`` and never committed. Random weights and the tiny model run on them too; what
these answer on photographs means nothing, it shows that the way from a JPEG to a score works.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path


def pope_rows(source: Path) -> Iterator[tuple[dict, Path]]:
    """POPE's yes-no questions: (row, its picture)."""
    with (source / "pope/pope_rows_with_images.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            name = f"pope-{row['category']}-{row['question_id']}"
            yield (
                {"id": name, "image": row["image"], "question": row["text"], "answer": row["label"]},
                source / "pope/images" / row["image"],
            )


def refcoco_rows(source: Path) -> Iterator[tuple[dict, Path]]:
    """RefCOCO testA expressions with their pixel boxes: (row, its picture)."""
    records = json.loads((source / "refcoco_nuwa/refcoco.json").read_text(encoding="utf-8"))
    for number, record in enumerate(records):
        picture = source / "refcoco_nuwa" / record["image"]
        yield (
            {
                "id": f"refcoco-{number}",
                "image": picture.name,
                "expression": record["normal_caption"],
                "box": record["solution"],
            },
            picture,
        )


def build(source: Path, target: Path) -> int:
    """Write ``target/data.jsonl`` and copy the pictures beside it; returns the number of rows."""
    target.mkdir(parents=True, exist_ok=True)
    rows = [*pope_rows(source), *refcoco_rows(source)]
    for picture in {picture for _, picture in rows}:
        shutil.copyfile(picture, target / picture.name)
    text = "".join(json.dumps(row) + "\n" for row, _ in rows)
    (target / "data.jsonl").write_text(text, encoding="utf-8")
    return len(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the folder with pope/ and refcoco_nuwa/")
    parser.add_argument("target", type=Path, help="the folder to write")
    options = parser.parse_args()
    print(f"{build(options.source, options.target)} rows in {options.target}")


if __name__ == "__main__":
    main()

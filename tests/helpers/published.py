"""Small data sets with the columns, types and quirks of the published ones, written as the hub stores them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from helpers import published_documents
from helpers.jobs import compose
from helpers.stored import picture as picture
from helpers.stored import stored

from nuwa.benchmarks.base import Benchmark
from nuwa.config import build, typed


def refcoco(count: int) -> list[dict]:
    """``count`` boxes with one to three expressions each."""
    return [
        {
            "question_id": str(i), "image": stored(i), "question": "Describe it.",
            "answer": [f"thing {i} {k}" for k in range(1 + i % 3)], "segmentation": [1.0, 2.0],
            "bbox": [8.0, 12.0, 16.0, 24.0], "iscrowd": 0, "file_name": f"COCO_train2014_{i}.jpg",
        }
        for i in range(count)
    ]  # fmt: skip


def gqa(count: int) -> list[dict]:
    """Questions on three pictures."""
    return [
        {"id": f"2{i:07}", "imageId": f"n{i % 3}", "question": f"What is it {i}?", "answer": "t-shirt",
         "fullAnswer": "It is a t-shirt.", "isBalanced": True}
        for i in range(count)
    ]  # fmt: skip


def gqa_images() -> list[dict]:
    """Their pictures."""
    return [{"id": f"n{i}", "image": stored(i)} for i in range(3)]


def vqav2(count: int) -> list[dict]:
    """Ten annotators who do not agree."""
    words = ["two"] * 4 + ["2"] * 3 + ["a few", "3", "Two."]
    return [
        {
            "question_type": "how many", "multiple_choice_answer": "two",
            "answers": [{"answer": w, "answer_confidence": "yes", "answer_id": k} for k, w in enumerate(words, 1)],
            "image_id": i, "answer_type": "number", "question_id": 10 * i, "question": "How many?", "image": stored(i),
        }
        for i in range(count)
    ]  # fmt: skip


def textvqa(count: int) -> list[dict]:
    """Some pictures hold more words than others."""
    return [
        {"image_id": str(i), "question_id": 100 + i, "question": "WHAT does it Say?", "image": stored(i),
         "answers": ["St. Louis"] * 10, "ocr_tokens": ["St.", "LOUIS"] if i % 2 else ["x"]}
        for i in range(count)
    ]  # fmt: skip


def pope(count: int) -> list[dict]:
    """Yes and no in turns; ids start again in each category."""
    categories = ("random", "popular", "adversarial")
    return [
        {"id": str(i), "question_id": str(1 + i // 3), "question": "Is there a dog? ", "image": stored(i),
         "answer": ("yes", "no")[i // 3 % 2], "image_source": "COCO_val2014_0", "category": categories[i % 3]}
        for i in range(count)
    ]  # fmt: skip


def mme(count: int) -> list[dict]:
    """Two questions to a picture, which do not stand together."""
    half = count // 2
    return [
        {"question_id": f"code_reasoning/{i % half:04}.png", "image": stored(i % half),
         "question": f"Is it so {i}? Please answer yes or no.", "answer": ("Yes", "No")[i // half],
         "category": "code_reasoning"}
        for i in range(2 * half)
    ]  # fmt: skip


def mmbench(count: int) -> list[dict]:
    """Base rows first, then rotations; what is missing is the text nan, as in the data."""
    turns = [["cat", "dog"], ["dog", "cat"]]
    return [
        {
            "index": turn * 1_000_000 + i, "question": "What is it?", "hint": "nan" if i % 2 else "Look.",
            "answer": "AB"[turn], "A": turns[turn][0], "B": turns[turn][1], "C": "nan", "D": "nan",
            "category": f"c{i % 2}", "image": stored(i), "source": "s", "L2-category": "all", "comment": "nan",
            "split": "dev",
        }
        for turn in range(2)
        for i in range(count // 2)
    ]  # fmt: skip


def mmmu(count: int) -> list[dict]:
    """One, two or three pictures to a question; the last question is open."""
    rows = []
    for i in range(count):
        number, last = 1 + i % 3, i == count - 1
        row = {
            "id": f"validation_Art_{i}", "question": " ".join(f"<image {k}>" for k in range(1, number + 1)) + " What?",
            "options": "[]" if last else "['one', 'two']", "explanation": "", "img_type": "['Photo']",
            "answer": "24" if last else "B", "topic_difficulty": "Easy",
            "question_type": "open" if last else "multiple-choice", "subfield": "x",
        }  # fmt: skip
        rows.append(row | {f"image_{k}": stored(i + k) if k <= number else None for k in range(1, 8)})
    return rows


def scienceqa(count: int) -> list[dict]:
    """With and without a hint."""
    return [
        {"image": stored(i), "question": "Which?", "choices": ["one", "two", "three"][: 2 + i % 2], "answer": 1,
         "hint": "Look." if i % 2 else "", "task": "closed choice", "grade": "grade3", "subject": "x", "topic": "x",
         "category": "x", "skill": "x", "lecture": "", "solution": ""}
        for i in range(count)
    ]  # fmt: skip


def seedbench(count: int) -> list[dict]:
    """A list of pictures each; every third row is a video."""
    return [
        {"answer": "B", "choice_a": "one", "choice_b": "two", "choice_c": "three", "choice_d": "four",
         "data_id": str(i), "data_type": "video" if i % 3 == 2 else "image", "question": "What?",
         "question_id": str(i), "question_type_id": 1, "image": [stored(i + k) for k in range(1 + i % 2)],
         "segment": []}
        for i in range(count)
    ]  # fmt: skip


def mmvet(count: int) -> list[dict]:
    """Two sets of capabilities."""
    return [
        {"question_id": f"v1_{i}", "image": stored(i), "question": "What is x?", "answer": "1<AND>2",
         "image_source": "x", "capability": "ocr,math" if i % 2 else "rec"}
        for i in range(count)
    ]  # fmt: skip


SETS: dict[str, tuple[Callable[[int], list[dict]], str]] = {
    "refcoco_test": (refcoco, "data/test"), "refcoco_val": (refcoco, "data/val"),
    "refcoco_testA": (refcoco, "data/testA"), "refcoco_testB": (refcoco, "data/testB"),
    "refcocoplus_val": (refcoco, "data/val"), "refcocoplus_testA": (refcoco, "data/testA"),
    "refcocoplus_testB": (refcoco, "data/testB"), "refcocog_val": (refcoco, "data/val"),
    "refcocog_test": (refcoco, "data/test"), "gqa": (gqa, "testdev_balanced_instructions/testdev"),
    "vqav2_val": (vqav2, "data/validation"), "textvqa_val": (textvqa, "data/validation"),
    "textvqa_val_ocr": (textvqa, "data/validation"), "pope": (pope, "data/test"), "pope_random": (pope, "data/test"),
    "pope_popular": (pope, "data/test"), "pope_adversarial": (pope, "data/test"), "mme": (mme, "data/test"),
    "mmbench_en_dev": (mmbench, "en/dev"), "mmbench_en_dev_vanilla": (mmbench, "en/dev"),
    "mmmu_val": (mmmu, "data/validation"), "scienceqa_img": (scienceqa, "ScienceQA-IMG/test"),
    "seedbench": (seedbench, "data/test"), "mmvet": (mmvet, "data/test"),
    **published_documents.SETS,
}  # fmt: skip
"""Name in conf/dataset -> what makes its rows, and where its hub keeps the split."""
ONE_OF_A_KIND = list({make: name for name, (make, _) in reversed(SETS.items())}.values())
"""One data set for every kind of rows."""


def keep_to(folder: Path, patch) -> None:
    """``datasets`` neither asks the network nor leaves anything outside of ``folder``; ``patch`` is a MonkeyPatch."""
    import datasets
    from huggingface_hub import constants

    patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub_cache"))
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def write_parquet(rows: list[dict], stem: Path, group: int = 100) -> Path:
    """Rows as one shard of the hub's parquet, ``group`` of them in a row group, its types in the file's metadata."""
    from datasets import Dataset, Image, List, Value

    stem.parent.mkdir(parents=True, exist_ok=True)
    table = Dataset.from_list(rows)
    types = {"bbox": List(Value("float32")), "segmentation": List(Value("float32")), "iscrowd": Value("int8")}
    pictures = {name: Image() for name in table.column_names if name.startswith("image") and "_id" not in name}
    if isinstance(rows[0].get("image"), list):
        pictures = {"image": List(Image())}
    pictures = {
        name: kind
        for name, kind in pictures.items()
        if name not in ("imageId", "image_source", "image_url", "image_path")
    }
    features = table.features | {k: v for k, v in (types | pictures).items() if k in table.column_names}
    file = stem.with_name(f"{stem.name}-00000-of-00001.parquet")
    table.cast(type(table.features)(features)).to_parquet(file, batch_size=group)
    return file


def write_set(name: str, folder: Path, count: int = 8, group: int = 100) -> Path:
    """A local copy of a data set in its hub's layout."""
    make, place = SETS[name]
    write_parquet(make(count), folder / place, group)
    if name == "gqa":
        write_parquet(gqa_images(), folder / "testdev_balanced_images/testdev", group)
    return folder


def benchmark(name: str, path: Path, *overrides: str) -> Benchmark:
    """A data set of conf/dataset, built as launch.py builds it."""
    return build(typed(compose(f"dataset={name}", f"dataset.path={path}", *overrides), "dataset"))

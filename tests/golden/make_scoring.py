"""Write golden score files: what lmms-eval's own functions say about made-up rows and answers.

    python -m venv v && v/bin/pip install lmms-eval==0.7.3 && v/bin/python tests/golden/make_scoring.py

writes ``tests/golden/scoring/<task>.json`` for the tasks in `MADE`. The project does not depend on lmms-eval.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace

import yaml

HERE = Path(__file__).parent / "scoring"
SOURCE = "lmms-eval 0.7.3 (PyPI wheel)"
Pairs = Iterator[tuple[dict, str]]


def utils(place: str):
    """A module of lmms-eval's tasks."""
    return importlib.import_module(f"lmms_eval.tasks.{place}")


def settings(place: str) -> dict:
    """What a task's YAML says about the prompt of models in general."""
    folder = Path(importlib.import_module("lmms_eval.tasks").__file__).parent
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("!function", lambda loader, node: node.value)
    found = yaml.load((folder / place).read_text(encoding="utf-8"), loader)
    return found.get("lmms_eval_specific_kwargs", {}).get("default")


LETTERS = (
    "A", "b", " C.", "(D)", "B) red", "A: red", "the answer is C", "The answer is A. The answer is B, not A", "",
    "Not (A), but (C), I think", "A dog and a cat", "It is B", "USA", "I choose the one in the middle, D, of course",
    "none", "My answer is A or maybe (B)", "'B'.", '"C."', "a", "Answer: D", "(b)", "B\nbecause of A", "C A", "A,B",
    "option [C]", "The correct option is: (A) a red car", "答案是B", "정답은 C", "AB", "cab", "D!", "?A?", "E", "(E)",
    "The choice is B: it could be A", "best option is a D", "A.B.C", "the answer is a", "I pick (C) (D)", "X A ", "  ",
    "Answer is (D", "choice C", "BAD", "D)", "red", "the ANSWER IS B", "THE OPTION: C", "c) blue", "uphill",
    "2", "Two.",
)  # fmt: skip


def anls_pairs() -> Pairs:
    """Texts near and far, in any case, with white space inside and at the ends."""
    golds = [["14 May 1999", "May 14, 1999"], ["ITC  Limited"], ["$1,234.50"], ["straße"], ["a"], [" x "], ["", "none"]]
    said = [
        "14 may 1999", "May 14 1999", "1999", "itc limited", "ITC\nLimited", "$1234.50", "1,234.5", "STRASSE",
        "strasse", "a", "b", "x", "", "none", "nine", "the ITC company limited", "14 May 1998.", "aa",
    ]  # fmt: skip
    for number, (text, gold) in enumerate((text, gold) for gold in golds for text in said):
        yield {"questionId": str(number), "question": f"What is it {number}?", "answers": gold}, text


def chartqa_pairs() -> Pairs:
    """Numbers within and beyond 5 %, percentages, zeros, words."""
    golds = ["14", "0", "50%", "0.5", "-3.2", "Yes", "Republic of Korea", "1,234", "nan", "[4, 5]"]
    said = [
        "14", "14.7", "14.71", "13.3", "0", "0.0", "50", "50%", "0.5", "52.5%", "-3.2", "3.2", "-3.3", "yes", "YES.",
        "republic of korea", "1234", "1,234", "inf", "nan", "1e1", "%", "", "[4, 5]", "14 %", "1_4", "14%%",
    ]  # fmt: skip
    kinds = cycle(["human_test", "augmented_test", "augmented_test"])
    for gold in golds:
        for text in said:
            yield {"question": f"How much is {gold}?", "answer": gold, "type": next(kinds)}, text


def realworldqa_pairs() -> Pairs:
    """Letters, numbers and words."""
    for gold in ("A", "B", "c", "D", "2", "Uphill", " Two "):
        for text in LETTERS:
            yield {"question": f"Which?\n\nA. one\nB. two\nPlease answer {gold}.", "answer": gold}, text


def mean(values: list) -> float:
    """Their aggregation of the same name."""
    return sum(values) / len(values)


def samples(pairs: Pairs, prompt: Callable[[dict], str], score: Callable[[dict, str], float]) -> list[dict]:
    """Each row with its prompt, an answer and its score; lmms-eval strips answers before it scores them."""
    made = []
    for doc, text in pairs:
        told = prompt(doc)
        value = score(json.loads(json.dumps(doc)), text.strip())
        made.append({"doc": doc, "prompt": told, "prediction": text, "score": float(value)})
    return made


def whole(made: list[dict], **wanted: Callable[[dict], bool]) -> dict:
    """The samples and their mean score as lmms-eval aggregates it, over those that are ``wanted``."""
    found = {name: [one["score"] for one in made if keep(one["doc"])] for name, keep in wanted.items()}
    return {"samples": made, "aggregate": {name: mean(values) for name, values in found.items()}}


def docvqa_val() -> dict:
    """ANLS; InfographicVQA is scored and asked the same."""
    anls, kwargs = (
        importlib.import_module("lmms_eval.api.metrics").anls,
        settings("docvqa/_default_template_docvqa_yaml"),
    )
    asked = lambda doc: utils("docvqa.utils").docvqa_doc_to_text(doc, kwargs)  # noqa: E731
    made = samples(anls_pairs(), asked, lambda doc, text: anls(doc["answers"], [text])["anls"])
    return whole(made, anls=bool)


def chartqa() -> dict:
    """Relaxed accuracy, and by kind of question."""
    task, kwargs = utils("chartqa.utils"), settings("chartqa/chartqa.yaml")
    asked = lambda doc: task.chartqa_doc_to_text(doc, kwargs)  # noqa: E731
    made = samples(
        chartqa_pairs(), asked, lambda doc, text: task.chartqa_process_results(doc, [text])["relaxed_overall"]
    )
    human = lambda doc: doc["type"] == "human_test"  # noqa: E731
    return whole(made, relaxed_overall=bool, relaxed_human_split=human, relaxed_augmented_split=lambda d: not human(d))


def realworldqa() -> dict:
    """The letter, or the words."""
    task, kwargs = utils("realworldqa.utils"), settings("realworldqa/realworldqa.yaml")
    asked = lambda doc: task.realworldqa_doc_to_text(doc, kwargs)  # noqa: E731
    made = samples(
        realworldqa_pairs(), asked, lambda doc, text: task.realworldqa_process_results(doc, [text])["exact_match"]
    )
    return whole(made, exact_match=bool)


OCR_KINDS = (
    "Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition", "Handwriting Recognition",
    "Digit String Recognition", "Non-Semantic Text Recognition", "Scene Text-centric VQA", "Doc-oriented VQA",
    "Key Information Extraction", "Handwritten Mathematical Expression Recognition",
)  # fmt: skip


def ocrbench_pairs() -> Pairs:
    """Text of every kind, formulas, full-width signs, line breaks."""
    golds = [["CENTRE"], ["12\n34", "1234"], ["ＡＢＣ"], ["x ^ { 2 } + y"], [" total "], ["é"]]
    said = [
        "centre", "The CENTRE of it", "12 34", "12\n34", "abc", "ＡＢＣ", "A B C", "x^{2}+y",
        "X ^ {2} + Y", "x ^ { 2 } + y",
        "TOTAL", "the total sum", "total", "É", "", "　abc",
    ]  # fmt: skip
    kinds = cycle(OCR_KINDS)
    for number, (gold, text) in enumerate((gold, text) for gold in golds for text in said):
        source = "HME100k" if number % 3 == 0 else "IIIT5K"
        doc = {"dataset": source, "question": " what is written? ", "question_type": next(kinds), "answer": gold}
        yield doc, text


def ocrbench() -> dict:
    """Their sum over a thousand rows is a share; with fewer rows it is scaled."""
    task, kwargs = utils("ocrbench.utils"), settings("ocrbench/ocrbench.yaml")
    records = []

    def score(doc: dict, text: str) -> float:
        records.append(task.ocrbench_process_results(doc, [text])["ocrbench_accuracy"])
        return records[-1]["score"]

    made = samples(ocrbench_pairs(), lambda doc: task.ocrbench_doc_to_text(doc, kwargs), score)
    with tempfile.TemporaryDirectory() as folder:
        points = 1000 * task.ocrbench_aggregate_accuracy(records, SimpleNamespace(output_path=folder))
    recognition = sum(task.OCRBench_score[kind] for kind in OCR_KINDS[:6])
    total = sum(one["question_type"] in OCR_KINDS[:6] for one in records)
    return {"samples": made, "aggregate": {"accuracy": points / len(made), "recognition": recognition / total}}


def mmstar_pairs() -> Pairs:
    """Every subcategory, of different sizes."""
    kinds = [(l1, l2) for l1, found in utils("mmstar.utils").eval_type_dict.items() for l2 in found]
    for number, text in enumerate(LETTERS * 3):
        category, l2 = kinds[number * number % len(kinds)]
        doc = {"index": number, "question": f" Which {number}?\nOptions: A: one, B: two ", "answer": "ABCD"[number % 4]}
        yield doc | {"category": category, "l2_category": l2}, text


def mmstar() -> dict:
    """Means of subcategories."""
    task, kwargs = utils("mmstar.utils"), settings("mmstar/_default_template_yaml")
    records: dict[str, list] = {}

    def score(doc: dict, text: str) -> float:
        found = task.mmstar_process_results(doc, [text])
        for name, record in found.items():
            records.setdefault(name, []).append(record)
        return found["average"]["score"]

    made = samples(mmstar_pairs(), lambda doc: task.mmstar_doc_to_text(doc, kwargs), score)
    return {"samples": made, "aggregate": {name: task.mmstar_aggregate_results(one) for name, one in records.items()}}


def vizwiz_pairs() -> Pairs:
    """Annotators who agree, or do not."""
    golds = [
        ["unanswerable"] * 6 + ["unsuitable"] * 4, ["Coca Cola."] * 2 + ["coke"] * 3 + ["two cans"] * 5,
        ["It's a dog", "dog", "a dog", "Dog!", "puppy", "DOG", "dog ", "cat", "none", "0"],
    ]  # fmt: skip
    said = [
        "Unanswerable",
        "unsuitable.",
        "coca-cola",
        "coca cola",
        "2 cans",
        "a dog",
        "dog",
        "none",
        "0",
        "",
        "its a dog",
    ]
    for number, (gold, text) in enumerate((gold, text) for gold in golds for text in said):
        yield {"question_id": f"VizWiz_val_{number:08}.jpg", "question": "WHAT is THIS?", "answers": gold}, text


def vizwiz_vqa_val() -> dict:
    """Soft accuracy."""
    task, kwargs = utils("vizwiz_vqa.utils"), settings("vizwiz_vqa/_default_template_vqa_yaml")
    asked = lambda doc: task.vizwiz_vqa_doc_to_text(doc, kwargs)  # noqa: E731
    made = samples(vizwiz_pairs(), asked, lambda doc, text: task.vizwiz_vqa_process_results(doc, [text])["exact_match"])
    return whole(made, exact_match=bool)


def vstar_pairs() -> Pairs:
    """Options in the text, on lines or not; and a text without any."""
    texts = [
        "What is it made of?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\nAnswer with the letter.",
        "Is it left or right? (A) left (B) right", "What is it?",
    ]  # fmt: skip
    for number, text in enumerate(LETTERS * 2):
        category = ("direct_attributes", "relative_position")[number % 2]
        yield (
            {"text": texts[number % 3], "label": "ABCD"[number % 4], "category": category, "question_id": number},
            text,
        )


def vstar_bench() -> dict:
    """Shares, which lmms-eval gives in percent."""
    task, kwargs = utils("vstar_bench.utils"), settings("vstar_bench/_default_template_yaml")
    records: dict[str, list] = {}

    def score(doc: dict, text: str) -> float:
        found = task.vstar_process_results(doc, [text])
        for name, record in found.items():
            records.setdefault(name, []).append(record)
        return found["vstar_overall_acc"]["score"]

    made = samples(vstar_pairs(), lambda doc: task.vstar_doc_to_text(doc, kwargs), score)
    shares = {name: task.vstar_aggregate_results(one) / 100 for name, one in records.items()}
    return {"samples": made, "aggregate": shares}


def cv_bench_pairs() -> Pairs:
    """Two to four choices."""
    for number, text in enumerate(LETTERS * 2):
        choices = ["red", "blue", "green", "grey"][: 2 + number % 3]
        yield {
            "idx": number, "type": "2D", "task": ("Count", "Relation")[number % 2], "choices": choices,
            "answer": f"({'ABCD'[number % len(choices)]})", "source": ("ADE20K", "COCO")[number // 2 % 2],
            "prompt": "Which?\n(A) red\n(B) blue",
        }, text  # fmt: skip


def cv_bench_2d() -> dict:
    """The share of all, and the parts that its 2D score is made of."""
    task, kwargs = utils("cv_bench.utils"), settings("cv_bench/_default_template_yaml")
    asked = lambda doc: task.cv_bench_doc_to_text(doc, kwargs)  # noqa: E731
    made = samples(
        cv_bench_pairs(),
        asked,
        lambda doc, text: task.cv_bench_process_results(doc, [text])["cv_bench_acc"]["is_correct"],
    )
    return whole(made, cv_bench_acc=bool, ade20k_2d=lambda doc: doc["source"] == "ADE20K")


CLICKS = (
    "[0.5, 0.5]", "(0.5,0.5)", "[50%, 50%]", "[320, 240]", "x: 0.5, y: 0.5", '{"x": 320, "y": 240}', "0.5 0.5",
    "[0.25, 0.25]", "[0.75, 0.75]", "[0.76, 0.5]", "<bbox>0.4 0.4 0.6 0.6</bbox>", "<bbox>0.5 0.5</bbox>",
    "the box is [0.4, 0.4, 0.6, 0.6]", "[0.4, 0.4, 0.6, 0.6]", "[0.1, 0.1, 0.9, 0.9]", "rectangle 0.4, 0.4, 0.6, 0.6",
    "click", "", "0.5", "[0.5 0.5]", "( 320 , 240 )", "click at 1 of (0.5, 0.5)", "[500, 500]", "[-0.5, 0.5]",
    "[0.5, 1.0]", "X=0.3; Y=0.7", "[1, 1]", "[1.5, 200]", "<BBOX id=1>160, 120, 480, 360</bbox>", "[.5, .5]",
    "[0.5;0.5]",
)  # fmt: skip


def screenspot_v2() -> dict:
    """Pictures of 640 x 480. Published rows do not say their size; of ``pixels_*`` they do."""
    task, size = utils("screenspot_v2.utils"), {"image_width": 640, "image_height": 480}
    records: dict[str, list] = {"": [], "pixels_": []}

    def score(doc: dict, text: str) -> float:
        for name, row in (("", doc), ("pixels_", doc | size)):
            records[name].append(task.screenspot_v2_process_results(row, [text])["screenspot_v2_action_acc"])
        return records[""][-1]["correct"]

    kinds = cycle(["text", "icon", "text"])
    docs = [{"instruction": "close it", "bbox": [0.25, 0.25, 0.75, 0.75], "data_type": next(kinds)} for _ in CLICKS]
    made = samples(zip(docs, CLICKS, strict=True), task.screenspot_v2_doc_to_text, score)
    kinds = ("action", "text", "icon")
    found = {
        f"{name}{kind}": getattr(task, f"screenspot_v2_{kind}_acc")(own)
        for name, own in records.items()
        for kind in kinds
    }
    return {"samples": made, "size": [640, 480], "aggregate": found}


def hallusion_bench_image() -> dict:
    """Their sums over figures and questions, given which answers are right: by hand, those with the right word."""
    task, words = utils("hallusion_bench.utils"), {"1": "Yes, it is.", "0": "I think no."}
    records = []
    for number in range(36):
        subject, figure, question = number // 12, number // 3 % 4, number % 3
        truth, wrong = str((number + figure) % 2), number % 5 == 4
        text = "It cannot be told." if number % 11 == 10 else words[str(int(truth) ^ wrong)]
        doc = {
            "category": ("VD", "VS")[subject % 2], "subcategory": "map", "visual_input": "1", "set_id": str(subject),
            "figure_id": str(figure + 1), "question_id": str(question), "gt_answer": truth, "question": "Is it?",
            "gt_answer_details": "It is.",
        }  # fmt: skip
        mark = "2" if number % 11 == 10 else str(int(not wrong))
        records.append({"doc": doc, "prediction": text, "mark": mark})
    judged = task.assign_correctness([one["doc"] | {"mark": one["mark"]} for one in records], "mark")
    every, figures, pairs = (
        task.get_eval_all(judged, "mark"), task.get_eval_fig(judged), task.get_eval_pair_all(judged, "mark")
    )  # fmt: skip
    found = {"aAcc": every, "fAcc": figures, "qAcc": pairs}
    asked = utils("hallusion_bench.evaluate_hb").hb_doc_to_text
    made = [
        {
            "doc": one["doc"],
            "prompt": asked(one["doc"]),
            "prediction": one["prediction"],
            "score": float(mark["correct"]),
        }
        for one, mark in zip(records, judged, strict=True)
    ]
    return {"samples": made, "aggregate": {name: one["correct"] / one["total"] for name, one in found.items()}}


def write(name: str, content: dict) -> None:
    """One sample a line."""
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in content.pop("samples"))
    head = json.dumps({"task": name, "source": SOURCE, "made_by": "tests/golden/make_scoring.py"} | content)
    (HERE / f"{name}.json").write_text(f'{head[:-1]}, "samples": [\n{lines}\n]}}\n', encoding="utf-8")


GROUNDED = (
    '```json\n[{"bbox_2d": [100, 50, 300, 250], "label": "dog"}]\n```', '[{"bbox_2d": [156, 104, 468, 520]}]',
    '{"bbox": [100, 50, 300, 250]}', '[[0, 0, 10, 10], [100, 50, 300, 250]]', "[100, 50, 300, 250]",
    "It is at [100, 50, 300, 250].", "100, 50, 300, 250", "100 50 300 250", "(156,104),(468,520)", "", "no dog", "[]",
    "{}",
    '{"objects": [{"box": [110, 60, 310, 260]}, {"coord": [100, 50, 300, 250]}]}',
    '{"bbox_2d": ["100", "50", 300, 250]}',
    '{"bbox_2d": ["a", 50, 300, 250], "box": [100, 50, 300, 250]}', '[{"bbox_2d": [300, 250, 100, 50]}]',
    '[{"bbox_2d": [100, 50, 300]}]', '[{"bbox_2d": [100, 50, 300, 250], "label": "dog"}', "[1, 2, 3, 4, 5]",
    '{"a": {"b": [[101.5, 50, 300, 249.5]]}}', "[true, 0, 640, 480]", '[{"position": [90, 40, 310, 260]}] and more',
    "<box>100,50,300,250</box>", "[0.156, 0.104, 0.468, 0.52]", "[[100, 50], [300, 250]]", "[1000, 1000, 1000, 1000]",
    '{"bbox_2d": [200, 50, 300, 250]}', '{"bbox_2d": [100, 50, 240, 250]}',
)  # fmt: skip


def refcoco_grounding_test() -> dict:
    """The best box of all counts, each taken as pixels and as thousandths; pictures of 640 x 480."""
    task, image = utils("refcoco_grounding.utils"), SimpleNamespace(size=(640, 480))
    records = []

    def score(doc: dict, text: str) -> float:
        found = task.refcoco_grounding_process_result(doc | {"image": image}, [text])
        records.append(found["refcoco_grounding_IoU"])
        return task.refcoco_grounding_acc05(records[-1:])

    answers = cycle([["the dog"], ["left dog", " brown dog "]])
    box = {"bbox": [100.0, 50.0, 200.0, 200.0]}
    docs = [{"question_id": str(n), "answer": next(answers)} | box for n in range(len(GROUNDED))]
    made = samples(zip(docs, GROUNDED, strict=True), task.refcoco_grounding_doc_to_text, score)
    for one, record in zip(made, records, strict=True):
        one |= {"iou": task.refcoco_grounding_iou([record]), "centre": task.refcoco_grounding_center_acc([record])}
    names = {"iou": "IoU", "acc05": "ACC@0.5", "acc09": "ACC@0.9", "center_acc": "Center_ACC"}
    found = {name: getattr(task, f"refcoco_grounding_{key}")(records) for key, name in names.items()}
    return {"samples": made, "size": [640, 480], "aggregate": found}


MADE = (
    docvqa_val, chartqa, realworldqa, ocrbench, mmstar, vizwiz_vqa_val, vstar_bench, cv_bench_2d, screenspot_v2,
    hallusion_bench_image, refcoco_grounding_test,
)  # fmt: skip

if __name__ == "__main__":
    for make in MADE:
        write(make.__name__, make())

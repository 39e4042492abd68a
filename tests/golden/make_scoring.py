"""Write golden score files: what lmms-eval's own functions say about made-up rows and answers.

    python -m venv v && v/bin/pip install lmms-eval==0.7.3 && v/bin/python tests/golden/make_scoring.py

writes ``tests/golden/scoring/<task>.json`` for the tasks in `MADE`. The project does not depend on lmms-eval.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

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


def write(name: str, content: dict) -> None:
    """One sample a line."""
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in content.pop("samples"))
    head = json.dumps({"task": name, "source": SOURCE, "made_by": "tests/golden/make_scoring.py"} | content)
    (HERE / f"{name}.json").write_text(f'{head[:-1]}, "samples": [\n{lines}\n]}}\n', encoding="utf-8")


MADE = (docvqa_val, chartqa, realworldqa)

if __name__ == "__main__":
    for make in MADE:
        write(make.__name__, make())

"""One pruning method as a page of Markdown: what it does, its options, what a budget becomes, how to use it.

``nuwa methods <name>`` prints it, the documentation site has it with a picture.
"""

from __future__ import annotations

import inspect
import sys
from itertools import takewhile

from nuwa.pruners.base import Pruner
from nuwa.pruners.catalogue import conf_folder, find_method
from nuwa.report.method_facts import BUDGET_SETTINGS, budget_counts, group_of, method_facts, shown_budget
from nuwa.report.tables.formats import TextRow, markdown_text

QUESTION, CLIP_QUESTION = "what color is the triangle ?", "which way does red move ?"
"""What the examples ask about ``docs/example`` of a clone: a scene, and the frames of a clip."""
_WHERE = {"vision": "before the LLM", "LLM": "inside the LLM", "both": "before and inside the LLM", "none": "nowhere"}
_FACTS = {
    "tokens leave": "stage",
    "signal": "signal",
    "merges what leaves": "what merges",
    "reads the question": "text-aware",
    "needs a CLS token": "needs CLS",
    "ids of its authors": "native positions",
    "FlashAttention": "flash-compatible",
    "paper": "paper",
    "code": "code",
    "counts of a budget": "budget",
}
_IMAGE = """sample = nuwa.Sample.ask(question, Image.open("docs/example/scene.png"))"""
_VIDEO = """frames = tuple(Image.open(f"docs/example/clip/{number}.png") for number in range(8))
video = nuwa.samples.Video(frames, times=tuple(map(float, range(8))))
sample = nuwa.Sample.ask(question, videos=[video])"""
_EXAMPLE = """import nuwa
from PIL import Image

question = "{question}"
loaded = nuwa.load_model("{model}")  # or "{large}", with a GPU
{sample}
inputs = loaded.encode([sample])
pruner = nuwa.load_pruner("{name}"{budget})
with nuwa.prune(loaded.model, pruner) as session, session.about(questions=[question]):
    ids = loaded.model.generate(**inputs, max_new_tokens=16)
print(*loaded.decode(ids, inputs["input_ids"].shape[1]))
print(session.report())
"""


def method_page(name: str) -> str:
    """The page of a method.

    Raises:
        ValueError: there is no such method.
    """
    kind = find_method(name)[0]
    file = (conf_folder() / "pruner" / f"{name}.yaml").read_text(encoding="utf-8")
    facts = method_facts(name)
    facts["stage"] = _WHERE[facts["stage"]]
    told = [{"": said, name: facts[column]} for said, column in _FACTS.items() if facts[column]]
    parts = [
        f"# {name}\n\n{head_comment(file)}\n\n{markdown_text(told, ['', name])}",
        f"## What it does\n\n{what_it_does(kind)}",
        f"## Options\n\n`conf/pruner/{name}.yaml`: `pruner.<key>=<value>`, or arguments of `nuwa.load_pruner`.\n\n"
        f"```yaml\n{file}```",
        f"## What a budget becomes\n\n`count @layer` from a layer on; the budget is the mean over layers.\n\n"
        f"{markdown_text(budget_rows(name), ['model', 'budget', 'visual tokens in the LLM'])}",
        f"## Use it\n\nIn a clone of the repository:\n```\n{example_commands(name)}```",
        f"```python\n{example_code(name)}```",
    ]
    return "\n\n".join(parts) + "\n"


def head_comment(file: str) -> str:
    """What the comment at the head of a config file says."""
    lines = takewhile(lambda line: line.startswith("#"), file.splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines)


def what_it_does(kind: type[Pruner]) -> str:
    """What the docstrings of a method's file and class say, as Markdown, without the title and the shapes."""
    paragraphs = inspect.cleandoc(sys.modules[kind.__module__].__doc__ or "").split("\n\n")[1:]
    paragraphs += (inspect.getdoc(kind) or "").split("\n\n")
    return "\n\n".join(part for part in paragraphs if not part.startswith("Shape letters")).replace("``", "`")


def budget_rows(name: str) -> list[TextRow]:
    """What a method makes of the papers' budgets, or why it cannot."""
    rows = []
    for setting in BUDGET_SETTINGS:
        for amount in setting.budgets:
            counts, reason = budget_counts(name, setting, amount)
            unit = "" if amount > 1 or reason else " (percent of the image's)"
            row = {"model": f"{setting.model}, {setting.n_tokens}", "budget": shown_budget(amount)}
            rows.append(row | {"visual tokens in the LLM": counts + unit or reason})
    return rows


def example_commands(name: str) -> str:
    """How to run a method, and to compare it with random choice."""
    if name == "none":
        return "nuwa run pruner=none budget=full\n"
    video = group_of(name) == "videos"
    choices = "model=tiny_video dataset=clips " if video else ""
    budget, rival = ("ratio25", "frame_drop") if video else ("avg64", "random")
    lines = [f"nuwa run {choices}pruner={name} budget={budget}"]
    if name != rival:
        lines.append(f"nuwa run -m {choices}pruner={name},{rival} budget={budget} position=perc,pesp")
    if video:
        asked = f'--video docs/example/clip "{CLIP_QUESTION}" model=tiny_video frames=uniform8'
    else:
        asked = f'--image docs/example/scene.png "{QUESTION}" model=tiny_llava'
    lines.append(f"nuwa ask {asked} pruner={name} budget={budget}")
    return "\n".join(lines) + "\n"


def example_code(name: str) -> str:
    """Lines of Python that prune with a method, on a laptop."""
    if group_of(name) == "videos":
        chosen = {"model": "tiny_video", "large": "llava_onevision_7b", "sample": _VIDEO, "question": CLIP_QUESTION}
        budget = ", budget=nuwa.Budget(ratio=0.25)"
    else:
        chosen = {"model": "tiny_llava", "large": "llava_1_5_7b", "sample": _IMAGE, "question": QUESTION}
        budget = ", budget=64"
    return _EXAMPLE.format(name=name, budget="" if name == "none" else budget, **chosen)

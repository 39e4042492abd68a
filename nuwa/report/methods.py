"""Which method is which, as Markdown: nuwa methods [<name>] [--write docs/methods.md]

A test checks that docs/methods.md is up to date.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from nuwa.command import argument, command
from nuwa.pruners.catalogue import find_method, method_names
from nuwa.pruning.budget import Budget
from nuwa.pruning.flops import ModelShape, llm_flops
from nuwa.report.method_facts import (
    BUDGET_SETTINGS,
    budget_counts,
    group_of,
    method_facts,
    shown_budget,
    shown_counts,
)
from nuwa.report.method_page import method_page
from nuwa.report.tables.formats import TextRow, markdown_text

INTRODUCTION = """# Which method is which

`nuwa methods <name>` tells all about one: what it does, its options, what it makes of a budget, how to use it.
**stage** is where tokens leave: before the LLM (vision), inside it (LLM), or both. (Written by
`nuwa methods --write docs/methods.md` from the facts that stand next to each method.)
"""
TAKES = """
## What each one takes

- `cdpruner` acts on entry of the LLM's first layer, where it can read the question, unless `pruner.clip` names the CLIP
  that its authors read it with.
- **native positions**: the ids that the authors' code gives to survivors, `perc` renumbered, `pesp` original;
  `position=perc|pesp|rpme` gives any method any of them.
- **flash-compatible**: no method switches the attention kernel; those that score by attention recompute the rows they
  need from the layer's own projections. RESTORE's calibration takes a mask of numbers.
- Where published code and paper differ, the paper is the default and `pruner.variant=release` the code, where a method
  has that option; its docstring names each difference. Printed numbers of a method were usually made with its code.
"""
VIDEOS = """
## Videos

A method for pictures sees a video frame by frame, and keeps as many tokens of each; a stage inside the LLM sees all of
it. The methods below are shown all frames at once. To them a picture is a video of one frame, of which `dycoke`, `evs`,
`frame_drop` and `temporal_pool` keep everything. A budget is the video's: `budget=ratio10` lets a tenth of all its
tokens enter a layer on average, and what a method with a stage inside the LLM spends there, it saves before. What is
whole in a method, a first frame (`evs`), one frame of four (`dycoke`), every frame that stays (`frame_drop`,
`temporal_pool`), can make it miss the budget; a still video can leave `holitom` fewer tokens than it may keep. A run
whose mean misses its budget by more than 5 % says so. `frame_drop` and `temporal_pool` are what a method has to beat.
Pictures of a run (`callbacks.pictures`) show a video as a contact sheet: [running](running.md).
"""
BUDGETS = """
## What a budget becomes

Visual tokens of an image in the LLM, `count @layer` from a layer on, for the budgets of the papers' tables: the average
number entering a layer of LLaVA-1.5-7B (576 tokens, 32 layers) and LLaVA-NeXT-7B (five crops, 2,880 tokens, 32 layers),
and in percent of the image's tokens for Qwen2.5-VL-7B (28 layers). **counts**: whose numbers these are. On LLaVA-NeXT
`visionzip`, `vispruner`, `hiprune`, `holov`, `prumerge`, `prunesid` and `cdpruner` with `pruner.clip` divide them
evenly between crops, as released (`pruner.tiles`), and `tofu` does the same; `divprune` chooses among all crops' tokens
at once; other methods that prune before the LLM see the tiles stitched. What `dycoke`, `evs`, `frame_drop` and
`temporal_pool` make of a budget is of a video with so many tokens: a picture they keep whole.
"""
LEFT_OUT = """
PixelPrune (OPPO-Mente-Lab/PixelPrune@a870e31b) is left out: it takes blocks of pixels away before the tower runs, so
that an image has fewer tokens than its processor has written placeholders into the prompt, and a session, which prunes
what a tower returns, would need a case of its own. On photographs it drops nothing at its lossless setting.
"""
COSTS = """
## What the authors' 64 is, and what choosing costs

On LLaVA-1.5-7B. **the authors' 64**: what stays where a paper writes 64 tokens, `count @layer`; **entering**: the
average number entering a layer then, which is what a budget means here (OccamToken's first stage keeps 200 to 300, of
which 250 are shown). Papers that write no 64 have none. **choosing**: FLOPs of a decision at a budget of 64, by the
formulas of `metric_flops` (products of scores and similarities; sorting is not counted, nor is a rerun of the tower),
then in percent of a prefill of all 576 visual tokens and of the method's own (`llm_flops`, text apart).
"""


LLAVA_7B = ModelShape(
    layers=32, hidden=4096, intermediate=11008, kv_heads=32, head_dim=128, vision_hidden=1024, image_tokens=576
)
WHO = ("method", "stage", "signal", "year", "paper")
DEMANDS = ("method", "merges", "text-aware", "needs CLS", "native positions", "flash-compatible", "code")
OF_VIDEOS = ("method", "stage", "signal", "what merges", "budget")


def _budget_rows() -> tuple[list[TextRow], list[str]]:
    """Rows of the table of budgets, and the reasons for its empty cells."""
    columns = {f"{s.name}: {shown_budget(b)}": (s, b) for s in BUDGET_SETTINGS for b in s.budgets}
    rows: list[TextRow] = []
    reasons: dict[str, list[str]] = {}
    for name in method_names():
        if name == "none":
            continue
        row = {"method": f"`{name}`", "counts": find_method(name)[0].info.counts}
        for column, (setting, budget) in columns.items():
            row[column], reason = budget_counts(name, setting, budget)
            if reason:
                reasons.setdefault(reason, []).append(column)
        rows.append(row)
    return rows, [f"- {', '.join(where)}: {reason}" for reason, where in reasons.items()]


def _cost_row(name: str) -> TextRow:
    """What the authors' 64 of a method is, and what choosing costs at ours."""
    kind, options = find_method(name)
    pruner, layers, patches = kind(budget=Budget(average=64), **options), LLAVA_7B.layers, LLAVA_7B.image_tokens or 0
    schedule, nominal = pruner.schedule(patches, layers), kind.info.nominal
    if nominal is None and kind.info.counts.startswith(("authors'", "paper's")):
        nominal = schedule
    flops = pruner.metric_flops(patches, LLAVA_7B)
    whole, own = (llm_flops(counts, LLAVA_7B) for counts in ([patches] * layers, schedule.per_layer(layers)))
    return {
        "method": f"`{name}`",
        "the authors' 64": "" if nominal is None else shown_counts(nominal, patches, in_percent=False),
        "entering": "" if nominal is None else f"{nominal.average(layers):.0f}",
        "choosing, MFLOPs": f"{flops / 1e6:.3g}",
        "of an unpruned prefill": f"{flops / whole:.3%}",
        "of its own prefill": f"{flops / own:.2%}",
    }


def page() -> str:
    """The whole page."""
    facts = [method_facts(name) for name in method_names()]
    videos = [method_facts(name) for name in method_names() if group_of(name) == "videos"]
    budgets, reasons = _budget_rows()
    costs = [_cost_row(name) for name in method_names() if name != "none"]
    tables = [(facts, WHO), (facts, DEMANDS), (videos, OF_VIDEOS), (budgets, list(budgets[0])), (costs, list(costs[0]))]
    who, demands, of_videos, counts, cost = (markdown_text(rows, columns) + "\n" for rows, columns in tables)
    shown = [INTRODUCTION, who + TAKES, demands + VIDEOS, of_videos + BUDGETS, counts, *reasons, COSTS, cost + LEFT_OUT]
    return "\n".join(shown)


@command(
    "Which pruning method is which.",
    argument("method", nargs="?", help="one method: what it does, its options, what a budget becomes, how to use it"),
    argument("--write", type=Path, help="file to write instead of printing"),
)
def main(options: Namespace) -> None:
    """Print the page of all methods or of one, or write it."""
    text = method_page(options.method) if options.method else page()
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    sys.exit(main())

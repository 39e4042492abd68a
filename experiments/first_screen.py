"""README's picture: one scene, what Nüwa and VisionZip keep of it at 64 tokens, and where each says the object is.

    python experiments/first_screen.py [--out docs/first_screen.png]

The scene is the first held-out one in which the unpruned model and Nüwa box the object and VisionZip, with the ids that
its authors use, does not. How often that happens is in README's table, not in this picture.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig
from PIL import Image

from nuwa import prune
from nuwa.config import register
from nuwa.evaluation.answers import read_answers
from nuwa.evaluation.check import check
from nuwa.evaluation.model_cache import load_once
from nuwa.evaluation.run import run_job
from nuwa.pictures.canvas import Panel, in_a_line
from nuwa.pictures.captions import legend
from nuwa.pictures.drawing import boxes_of, draw_boxes, kept_patches, original_panel
from nuwa.pictures.text import FAINT, Phrase, cross, text_block, tick
from nuwa.pictures.traces import ImageTrace, trace_decisions

ROOT = Path(__file__).resolve().parents[1]
CHOICES = {
    "unpruned": ("pruner=none", "budget=full"),
    "Nüwa": ("pruner=nuwa", "position=pesp"),
    "VisionZip": ("pruner=visionzip", "position=perc"),
}
IDS = {"pesp": "original ids (PESP)", "perc": "renumbered ids (PERC)"}
SCORE = "vg/acc@0.5"


def compose(outputs: str, *overrides: str) -> DictConfig:
    """A job about the boxes of scenes that writes below ``outputs``."""
    quiet = ("logger=none", "callbacks=none", "baseline=skip", "dataset.tasks=[vg]")
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose("config", [f"paths.outputs={outputs}", *quiet, *overrides])


def panel_of(name: str, cfg: DictConfig, row: dict[str, Any]) -> tuple[Image.Image, ImageTrace]:
    """What is kept of a sample, with the true box and the answered one, under what it is."""
    parts = check(cfg)
    loaded, benchmark = load_once(parts.model), parts.benchmark
    index = next(index for index in range(len(benchmark)) if benchmark.sample_id(index) == row["id"])
    sample = benchmark[index]
    boxes = boxes_of(benchmark.unit_box_tasks, row)
    with prune(loaded.model, parts.pruner, cfg.position.strategy) as session:
        (trace,) = trace_decisions(session, loaded, sample)
    view, stages = trace.views[0], trace.stages
    if name == "unpruned":
        panel = original_panel(trace, 0, boxes)
    else:
        panel = Panel(trace.picture, view.frame, view.view.grid, "")
        panel.keep(kept_patches(trace, 0, stages[0].kept), view.pillars, view.collectors)
        draw_boxes(panel, view, boxes)
    counts = ", ".join(f"{len(stage.kept)} from layer {stage.layer}" for stage in stages)
    title = name if name == "unpruned" else f"{name}, {IDS[trace.position]}"
    right = Phrase(title, symbol=tick if row["scores"][SCORE] else cross)
    caption = text_block([[right], [Phrase(counts, FAINT)]], panel.size[0])
    panel.caption = ""
    return in_a_line([caption, panel.image], down=True), trace


def main() -> None:
    """Answer some scenes in the three ways, choose one, draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "first_screen.png")
    parser.add_argument("--samples", type=int, default=40)
    options = parser.parse_args()
    register()
    with tempfile.TemporaryDirectory() as outputs:
        sizes = f"dataset.samples={options.samples}"
        jobs = {name: compose(outputs, sizes, *overrides) for name, overrides in CHOICES.items()}
        rows = {name: {row["id"]: row for row in read_answers(run_job(cfg))} for name, cfg in jobs.items()}
        wanted = {"unpruned": 1, "Nüwa": 1, "VisionZip": 0}
        chosen = [id for id in rows["Nüwa"] if all(rows[name][id]["scores"][SCORE] == wanted[name] for name in CHOICES)]
        chosen = [id for id in chosen if rows["VisionZip"][id]["scores"]["vg/parsed"]]
        panels, traces = zip(*(panel_of(name, jobs[name], rows[name][chosen[0]]) for name in CHOICES), strict=True)
    sheet = in_a_line(panels)
    question = text_block([[Phrase(rows["Nüwa"][chosen[0]]["prompt"])]], sheet.width)
    views = [view for trace in traces for view in trace.views]
    marks = text_block(
        [[mark for mark in legend(views, {"true", "predicted"}, ids=False) if "framed" not in mark.text]], sheet.width
    )
    in_a_line([question, sheet, marks], down=True).quantize(256).save(options.out, optimize=True)
    print(options.out)


if __name__ == "__main__":
    main()

"""Runs the example of every method's page and draws what the method kept: pages show what happens, or do not build."""

from __future__ import annotations

import io
from contextlib import chdir, redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from PIL import Image

from nuwa import load_model
from nuwa.engine.session import PruningSession
from nuwa.models.loaded import LoadedModel
from nuwa.pictures.captions import title_lines
from nuwa.pictures.drawing import draw_trace
from nuwa.pictures.sheets import contact_sheet
from nuwa.pictures.traces import VideoTrace, trace_decisions
from nuwa.report.method_page import example_code
from nuwa.samples import Sample

ROOT = Path(__file__).resolve().parents[2]
load_once = cache(load_model)


def as_file(image: Image.Image) -> bytes:
    """A picture as a WebP of moderate size."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return file.getvalue()


@cache
def run_example(name: str) -> tuple[str, bytes]:
    """What the example of a method's page prints, and a picture of what the method kept, as a file."""
    space: dict[str, Any] = {}
    printed = io.StringIO()
    with chdir(ROOT), redirect_stdout(printed), patch("nuwa.load_model", load_once):
        exec(compile(example_code(name), name, "exec"), space)
    answer = printed.getvalue().splitlines()[0]
    kept = kept_tokens(space["session"], space["loaded"], space["sample"], answer)
    return printed.getvalue(), as_file(kept)


def kept_tokens(session: PruningSession, loaded: LoadedModel, sample: Sample, answer: str) -> Image.Image:
    """What a session decides: the original beside the stages at which tokens leave, the first and the last of many."""
    with session:
        (trace,) = trace_decisions(session, loaded, sample)
    method = f"{session.pruner.name}, {session.strategy.upper()}"
    heading = title_lines(method, sample.text, {"prediction": answer}, is_box=False)
    if isinstance(trace, VideoTrace):
        return contact_sheet(trace, heading)
    stages = [stage for stage in trace.stages if len(stage.kept) < trace.layout.n_tokens] or trace.stages
    return draw_trace(replace(trace, stages=[stages[0], *stages[1:][-1:]]), {}, heading)

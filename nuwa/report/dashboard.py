"""A report on W&B: one more run in the group of a sweep, with the table of all cells, comparisons and plots.

At the end of every sweep with ``logger=wandb``, and by ``python -m nuwa.report <folders> --wandb``.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from nuwa.evaluation.cells import CELL_COLUMNS, cells_of
from nuwa.evaluation.processes import current
from nuwa.evaluation.runs import Result
from nuwa.report.formats import Cells
from nuwa.report.plots import PlotsError, write_plots
from nuwa.report.sections import Section
from nuwa.report.table import collect, find_runs
from nuwa.schema import LoggerConfig, LoggerKind

log = logging.getLogger(__name__)


class SweepReport(Callback):
    """Hydra callback: reports the runs of a sweep's name, those of earlier sweeps included."""

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        """After the last job, in one process; what goes wrong here is a warning of Hydra's."""
        if config.logger.kind == LoggerKind.wandb and current(config).lead:
            folder = Path(config.paths.outputs) / config.name
            results = collect(find_runs(folder))
            if results:
                log_report(results, [], folder, config.logger)


def log_report(
    results: Sequence[Result], sections: Sequence[Section], folder: Path, options: DictConfig | None = None
) -> bool:
    """Put results, sections and plots on W&B, in a run below ``folder``; whether that worked.

    ``options`` is the group ``logger``; without it, that of the first of the runs that were logged to W&B.
    """
    from nuwa.evaluation.loggers import unharmed, wandb_run  # Lightning takes seconds to import

    names = dict.fromkeys(filter(None, (result.get("config", {}).get("name") for result in results)))
    name = "+".join(names) or folder.name
    key = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    about = {"id": f"report-{key}", "name": f"{name}-report", "group": name, "job_type": "report"}
    with wandb_run(options or logged_with(results), folder, **about) as run:
        if run is None:
            return False
        with unharmed("the report was not logged"), _plots(results) as plots:
            run.log(_media(results, sections) | plots)
            return True
    return False


def logged_with(results: Sequence[Result]) -> DictConfig:
    """The group ``logger`` of the first run that was logged to W&B, or what conf/logger/wandb.yaml says."""
    recorded = (result.get("config", {}).get("logger") or {} for result in results)
    own = next((options for options in recorded if options.get("kind") == LoggerKind.wandb.name), {})
    known = OmegaConf.structured(LoggerConfig)
    return OmegaConf.merge(known, {name: own[name] for name in own if name in known})  # other versions had others


def _media(results: Sequence[Result], sections: Sequence[Section]) -> dict[str, Any]:
    """The cells of all runs, and every section: a printed table by its name, others as ``runs``."""
    import wandb

    cells = [list(cell.values()) for result in results for cell in cells_of(result)]
    media = {"cells": wandb.Table(list(CELL_COLUMNS), cells)}
    for section in sections:
        rows = typed(section.all_rows or section.rows)
        head, colon, _ = section.title.partition(": ")
        name = head if colon and re.fullmatch(r"\w+", head) else "runs"  # W&B takes no path, and no long name
        name += f"_{len(media)}" * (name in media)
        media[name] = wandb.Table(list(rows[0]), [list(row.values()) for row in rows])
    return media


def typed(rows: Sequence[Cells]) -> list[dict[str, Any]]:
    """Rows whose columns are numbers where every cell that is there is one; empty ones become None."""
    numeric = {name for name in rows[0] if all(_is_number(row[name]) for row in rows if row[name])}
    return [
        {name: (float(value) if value else None) if name in numeric else value for name, value in row.items()}
        for row in rows
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextmanager
def _plots(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """Plots of the runs as pictures, none where there is nothing to plot or no matplotlib."""
    import wandb

    with tempfile.TemporaryDirectory() as folder:
        try:
            drawn = [path for path in write_plots(results, Path(folder)) if path.suffix == ".png"]
        except PlotsError as error:
            log.info("W&B report without plots: %s", error)
            drawn = []
        yield {path.stem: wandb.Image(str(path)) for path in drawn}

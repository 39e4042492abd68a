"""A report on W&B: one more run in the group of a sweep, with the scores of all runs, comparisons and plots.

At the end of every sweep with ``logger=wandb``, and by ``nuwa report <folders> --wandb``.
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

from nuwa.evaluation.processes import current
from nuwa.evaluation.runs import Run, collect, find_runs
from nuwa.evaluation.scores import scores_of
from nuwa.evaluation.unharmed import unharmed
from nuwa.report.figures.charts import charts
from nuwa.report.figures.plots import write_plots
from nuwa.report.figures.style import PlotsError
from nuwa.report.tables.formats import TableRow, value_text
from nuwa.report.tables.section import Section
from nuwa.schema import LoggerConfig, LoggerKind

log = logging.getLogger(__name__)


class SweepReport(Callback):
    """Hydra callback: reports the runs of a sweep's name, those of earlier sweeps included."""

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        """After the last job, in one process; what goes wrong here is a warning of Hydra's."""
        if config.logger.kind == LoggerKind.wandb and current(config).lead:
            folder = Path(config.paths.outputs) / config.name
            runs = collect(find_runs(folder))
            if runs:
                log_report(runs, [], folder, config.logger)


def log_report(
    runs: Sequence[Run], sections: Sequence[Section], folder: Path, options: DictConfig | None = None
) -> bool:
    """Put runs, sections and plots on W&B, in a run below ``folder``; whether that worked.

    ``options`` is the group ``logger``; without it, that of the first of the runs that were logged to W&B.
    """
    from nuwa.evaluation.loggers import wandb_run  # Lightning takes seconds to import

    names = dict.fromkeys(filter(None, (run.config.get("name") for run in runs)))
    name = "+".join(names) or folder.name
    key = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    about: dict[str, Any] = {"id": f"report-{key}", "name": f"{name}-report", "group": name, "job_type": "report"}
    about |= {"config": overview(runs), "tags": ["report"]}
    with wandb_run(options or logged_with(runs), folder, **about) as report:
        if report is not None:
            with unharmed("logger: the report was not logged"), tempfile.TemporaryDirectory() as place:
                report.log(_media(runs, sections) | _plots(runs, Path(place)))
                return True
    return False


def logged_with(runs: Sequence[Run]) -> DictConfig:
    """The group ``logger`` of the first run that was logged to W&B, or what conf/logger/wandb.yaml says."""
    recorded = (run.config.get("logger") or {} for run in runs)
    own = next((options for options in recorded if options.get("kind") == LoggerKind.wandb.name), {})
    known = OmegaConf.structured(LoggerConfig)
    merged = OmegaConf.merge(known, {name: own[name] for name in own if name in known})  # other versions had others
    assert isinstance(merged, DictConfig)
    return merged


def _media(runs: Sequence[Run], sections: Sequence[Section]) -> dict[str, Any]:
    """The scores of all runs, and every section: a printed table by its name, others as ``runs``."""
    import wandb

    scores = [score.record for run in runs for score in scores_of(run)]
    media = {"cells": wandb.Table(list(scores[0]), [list(score.values()) for score in scores])}
    for section in sections:
        rows = one_type_per_column(section.all_rows or section.rows)
        head, colon, _ = section.title.partition(": ")
        name = head if colon and re.fullmatch(r"\w+", head) else "runs"  # W&B takes no path, and no long name
        name += f"_{len(media)}" * (name in media)
        media[name] = wandb.Table(list(rows[0]), [list(row.values()) for row in rows])
    return media


def one_type_per_column(rows: Sequence[TableRow]) -> list[TableRow]:
    """Rows whose columns are numbers (missing: None) where no row has a text, and otherwise texts.

    >>> one_type_per_column([{"n": 100, "tokens": 64.0}, {"n": "99 (1 failed)", "tokens": ""}])
    [{'n': '100', 'tokens': 64.0}, {'n': '99 (1 failed)', 'tokens': None}]
    """
    texts = {name for row in rows for name, value in row.items() if value and isinstance(value, str)}
    numbers = [{name: None if value == "" else value for name, value in row.items()} for row in rows]
    return [row | {name: value_text(row[name]) for name in row if name in texts} for row in numbers]


def _plots(runs: Sequence[Run], folder: Path) -> dict[str, Any]:
    """Charts to point at, and plots as pictures, with their files in a folder; none without data or their packages."""
    import wandb

    shown: dict[str, Any] = {}
    with _explained():
        shown |= {f"charts/{name}": wandb.Plotly(chart) for name, chart in charts(runs).items()}
    with _explained():
        shown |= {path.stem: wandb.Image(str(path)) for path in write_plots(runs, folder) if path.suffix == ".png"}
    return shown


@contextmanager
def _explained() -> Iterator[None]:
    """Say why there are no plots."""
    try:
        yield
    except PlotsError as error:
        log.info("W&B report without plots: %s", error)


def overview(runs: Sequence[Run]) -> dict[str, Any]:
    """What a report is about, as the config of its run: every value of each choice, and the runs by their names."""
    words = [run.choices.flat for run in runs]
    values = {f"{name}s": sorted({own[name] for own in words}) for name in words[0]}
    return values | {"runs": {run.run_key: run.choices.title for run in runs}}

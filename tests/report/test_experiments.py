"""Experiments stand for the paper's tables: every printed row has a job, and the heads count right."""

import itertools
import re

import pytest
import yaml
from helpers.jobs import CONF

from nuwa.report.paper.printed import UNPRUNED, load_table

EXPERIMENTS = {file.stem: file for file in sorted((CONF / "experiment").glob("*.yaml"))}
TABLES = {name: name.split("_")[0] for name in EXPERIMENTS if re.match(r"table\d+_", name)}
FLASHVID = {"onevision": "llava-onevision-7b", "video": "llava-video-7b", "qwen": "qwen2.5-vl-7b"}
TABLES |= {"ablation_d_thresh": "table7", "ablation_parts": "table8", "efficiency": "table4"}
NEXT = {"32": 160.0, "64": 320.0, "128": 640.0}  # tokens of tiny_llava's 576 and of LLaVA-NeXT's 2,880


def grid(name):
    """The axes of an experiment."""
    params = yaml.safe_load(EXPERIMENTS[name].read_text())["hydra"]["sweeper"]["params"]
    return {axis: str(values).replace(" ", "").split(",") for axis, values in params.items()}


def points(name):
    """Every job as a dict of its choices; what the grid does not vary is what the file or conf/config.yaml says."""
    defaults = yaml.safe_load(EXPERIMENTS[name].read_text()).get("defaults", [])
    chosen = {"pruner": "nuwa", "budget": "avg64", "position": "native"}
    chosen |= {key.removeprefix("override /"): value for entry in defaults for key, value in entry.items()}
    axes = grid(name)
    return [chosen | dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def head(name):
    lines = EXPERIMENTS[name].read_text().splitlines()
    return "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_head_counts_the_jobs(name):
    text = head(name)
    assert text.splitlines()[1].startswith(f"python launch.py experiment={name}") and "Artefact: " in text
    assert int(re.search(r"Jobs: (\d+)", text)[1]) == len(points(name))
    assert "smoke" in name or re.search(rf"Report: nuwa (report )?{name}\b", text)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in ("smoke", "real_smoke")])
def test_the_head_counts_the_jobs_at_paper_scale(name):
    text = head(name)
    if name.startswith("efficiency"):  # costs do not depend on data sets
        told = rf"Jobs there: {len(points(name))} \(plus 1 unpruned run\).*, about \d GPU hour"
        assert re.search(told, text)
        return
    datasets = [part.split(",") for part in re.findall(r"dataset=(\S+)", text)]
    assert all((CONF / "dataset" / f"{dataset}.yaml").is_file() for part in datasets for dataset in part)
    splits = re.search(r"dataset.split=(\S+)", text)
    number = len(splits[1].split(",")) if splits else sum(map(len, datasets))
    told = r"Jobs there: (\d+) \(plus (\d+) unpruned runs\)"
    if name == "baselines":  # whose unpruned runs are jobs, one of two skipped
        told = r"Jobs there: (\d+), of which (\d+) are skipped"
    jobs, unpruned = re.search(rf"{told}.*, about \d+ GPU hours", text).groups()
    models = re.search(r"model=(\S+)", text)[1].split(",")
    assert (int(jobs), int(unpruned)) == (number * len(points(name)), number * len(models))
    assert all((CONF / "model" / f"{model}.yaml").is_file() for model in models)
    assert len(models) == len(grid(name).get("model", models))


def stands_for(point, row):
    """Whether a job is that of a printed row."""
    options = {key: str(point.get(f"pruner.{key}", value)).lower() for key, value in {"d_thresh": 280, "region": True,
               "pillar": True, "random": False}.items()}  # fmt: skip
    wanted = {key: str(value).lower() for key, value in row.options.items()}
    if "budget.average" in point:
        budget = NEXT[point["budget.average"]] == row.average
    else:
        budget = point["budget"] in (f"avg{row.tokens}", f"ratio{row.tokens.rstrip('%')}")
    return (
        point["pruner"] in row.pruners and point["position"] == row.position and budget
        and all(options[key] == value for key, value in wanted.items())
    )  # fmt: skip


@pytest.mark.parametrize(("name", "table"), TABLES.items())
def test_every_printed_row_has_a_job(name, table):
    jobs = points(name)
    rows = [row for row in load_table(table).rows if row.method != UNPRUNED]
    lacking = {row.method for row in rows if not any(stands_for(job, row) for job in jobs)}
    assert lacking <= {"random@fastv", "random@sparsevlm", "pooling@fastv"}
    assert all(method in head(name) for method in lacking)


@pytest.mark.parametrize(("name", "model"), FLASHVID.items())
def test_every_printed_row_of_flashvid_has_a_job(name, model):
    jobs = points(f"table_flashvid_{name}")
    rows = [row for row in load_table("flashvid_video").rows if row.model == model and row.method != UNPRUNED]
    assert len(rows) >= 8 and all(any(stands_for(job, row) for job in jobs) for row in rows)


def test_every_table_of_the_paper_that_runs_has_an_experiment():
    numbers = {int(table.removeprefix("table")) for table in TABLES.values()}
    assert numbers == {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14}

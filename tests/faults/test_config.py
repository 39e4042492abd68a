"""Values that cannot work, on the command line: one line that names the key, exit status 1, no folder."""

import json

import pytest
from helpers.faults import launch


def no_run(folder):
    """A refusal leaves no folder of a run."""
    assert not [path for path in folder.glob("out/main/*") if path.is_dir()]


def refused(override, *says, **others):
    """A single run that is refused before anything is loaded."""
    key = override.lstrip("+~").partition("=")[0]
    return launch(override, override, says=says or (key,), **{"after": no_run, **others})


CASES = [
    refused("pruner=magic", "pruner/magic"),
    refused("seed=abc"),
    refused("seed=-1", "seed=-1"),
    refused("limit=0", "limit=0"),
    refused("nonsense=1"),
    refused("trainer.batch_size=0"),
    refused("trainer.batch_size=2.5"),
    refused("trainer.num_workers=-1"),
    refused("trainer.prefetch=-1"),
    refused("baseline=maybe"),
    refused("on_error=ignore"),
    launch("position", "pruner=nuwa", "position.strategy=sideways", says=("position.strategy=sideways",), after=no_run),
    refused("position=none", "position"),
    refused("blocking.source=image"),
    refused("logger.kind=paper"),
    refused("generation.num_beams=0"),
    refused("generation.num_beams=5000", "generation.num_beams=5000: must be less than or equal to 64"),
    refused("trainer.prefetch=100000000", "trainer.prefetch=100000000: must be less"),
    refused("trainer.num_workers=3000", "trainer.num_workers=3000: must be less"),
    refused("dataset.picture_side=100000", "dataset.picture_side=100000 must be at most"),
    launch(
        "ranks", "trainer.accelerator=cpu", "trainer.devices=10000", says=("trainer.devices=10000: this machine has",)
    ),
    refused("generation.temperature=0"),
    refused("generation.temperature=-1"),
    refused("generation.top_p=2"),
    refused("generation.max_new_tokens=0"),
    refused("dataset.samples=0"),
    refused("dataset.samples=few"),
    refused("dataset.vqa_max_new_tokens=0", "dataset.vqa_max_new_tokens=0: must be greater"),
    refused("dataset.vg_max_new_tokens=-1", "dataset.vg_max_new_tokens=-1: must be greater"),
    refused("dataset.picture_side=0"),
    refused("model.layers=0", "model.layers"),
    refused("model.hidden_size=33", "model.hidden_size=33"),
    refused("model.dtype=float8", "model.dtype=float8"),
    refused("model.device=meta", "model.device=meta"),
    refused("model.device=tpu9000", "model.device=tpu9000"),
    refused("model.attention=magic", "model.attention=magic"),
    refused("model.family=flamingo", "model.family=flamingo"),
    *(
        refused(f"{key}={value}", f"{key}={value}")
        for value in ("nan", "inf")
        for key in (
            "generation.temperature",
            "generation.top_p",
            "trainer.cache_gb",
            "model.weights_boost",
        )
    ),
    launch("nan of a method", "pruner=nuwa", "pruner.d_thresh=nan", says=("pruner.d_thresh=nan: must be a finite",)),
    launch("negative budget", "pruner=nuwa", "budget.average=-1", says=("budget.average must be positive",)),
    launch("ratio above one", "pruner=nuwa", "budget.average=null", "budget.ratio=2", says=("budget.ratio",)),
    launch("both budgets", "pruner=nuwa", "budget.ratio=0.5", says=("budget.average and budget.ratio",)),
    launch("too much", "pruner=nuwa", "budget.average=1e9", says=("budget.average=1e+09",)),
    refused("pruner=null", "nothing is chosen; give pruner=<name>"),
    refused("~pruner", "nothing is chosen; give pruner=<name>"),
    refused("dataset=null", "nothing is chosen; give dataset=<name>"),
    refused("trainer=", "nothing is chosen"),
    launch("~dataset", "~dataset", says=("dataset",)),
    refused("model=null", "nothing is chosen; give model=<name>"),
    launch("no trainer", "~trainer", status=0, rows=2),
    refused("model.path=/nowhere", "model.path"),
    launch("no such checkpoint", "model=tiny_llava", "~model.layers", says=("model.layers",)),
]
SWEEPS = [
    launch(
        "one negative budget", "pruner=nuwa", "budget.average=16,-1", "-m", says=("budget.average must be positive",)
    ),
    launch("one budget that is too large", "pruner=nuwa", "budget.average=16,80", "-m", status=0),
    launch("one NaN", "pruner=nuwa", "budget.average=16,nan", "-m", says=("budget.average=nan",)),
    launch("a wrong threshold", "pruner=nuwa", "pruner.d_thresh=0,18", "-m", says=("pruner.d_thresh must be",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_wrong_value_is_one_line(case, server, tmp_path):
    case.check(server, tmp_path)


@pytest.mark.parametrize("case", SWEEPS, ids=lambda case: case.name)
def test_a_sweep_with_a_wrong_value_ends_as_a_single_run_does(case, server, tmp_path):
    """The other points are computed all the same."""
    case.check(server, tmp_path)
    states = [json.loads(file.read_text())["status"] for file in tmp_path.glob("out/main/*/result.json")]
    assert "done" in states and len(states) == 2

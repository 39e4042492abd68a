"""Fitted budgets: the value that spends a mean is found, said, and compared with what the run spent."""

from statistics import fmean

import numpy as np
import pytest
import torch
from helpers.jobs import small

import nuwa
from nuwa.config import run_key
from nuwa.evaluation.check import check
from nuwa.evaluation.fitting import compare_with_run, draw_samples
from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job
from nuwa.evaluation.runs import Run
from nuwa.pruning.budget import Budget, BudgetError, Dial, turn_dial
from nuwa.pruning.schedules import Schedule, Share
from nuwa.report.tables.runs import runs_section

ADAPTIVE = ("pruner=prumerge", "pruner.adaptive=true", "budget.samples=5", "baseline=skip")


def test_the_dial_is_turned_to_a_target():
    dial = Dial("threshold", fewest=4.0, most=-1.0)  # either end may be the larger number
    found = turn_dial(lambda value: 100 * (4 - value) / 5, dial, target=30)
    assert found == pytest.approx(2.5, abs=0.02)
    tried = []
    found = turn_dial(lambda value: tried.append(value) or 506 / max(value, 5), Dial("fence", 1e9, -10.0), target=1)
    assert found == pytest.approx(506, rel=0.02) and len(tried) < 20  # ends orders of magnitude apart
    stairs = turn_dial(lambda value: float(round(8 * (4 - value) / 5)), dial, target=3.4)  # which no value gives
    assert round(8 * (4 - stairs) / 5) == 3


def test_a_target_out_of_reach_names_what_is_in_reach():
    for target in (9, 31):
        with pytest.raises(BudgetError, match=rf"{target} is out of reach; it reaches 10 \(x=1\) to 30 \(x=0\)"):
            turn_dial(lambda value: 30 - 20 * value, Dial("x", fewest=1.0, most=0.0), target)


def entering(row, layers=4):
    """The mean over layers of an image's tokens, from its journal row, layer by layer."""
    ((*stages,),) = row["kept"]
    return fmean([[count for start, count in stages if start <= layer][-1] for layer in range(layers)])


@pytest.mark.parametrize(
    ("overrides", "option"),
    [
        ((), "fence"),
        (("pruner=prumerge_plus", "budget.average=32"), "fence"),
        (("pruner=saint", "budget.average=45"), "threshold"),
        (("pruner=ivc_prune", "budget.average=45"), "foreground"),
        (("pruner=occamtoken", "budget.average=30"), "lambda2"),
        (("pruner=composed", "pruner.vision=prumerge", "budget.average=20"), "fence"),
        (("budget.average=null", "budget.ratio=0.4"), "fence"),
    ],
)
def test_a_run_finds_the_value_that_spends_its_budget(tmp_path, overrides, option):
    cfg = small(tmp_path, *ADAPTIVE[:1], *[o for o in overrides if "pruner=" in o], *ADAPTIVE[1:], *overrides)
    result, rows = read_result(run_job(cfg)), read_rows(tmp_path / "main" / run_key(cfg) / JOURNAL)
    assert result["status"] == "done", result
    fitted, target = result["fitted"], cfg.budget.average or cfg.budget.ratio
    assert (fitted["option"], fitted["budget"], len(fitted["samples"])) == (option, target, 5)
    assert fitted["mean"] == pytest.approx(target, rel=0.15)  # few images, few tokens
    spent = [entering(row) / (row["image_tokens"][0] if cfg.budget.ratio else 1) for row in rows]
    low, middle, high = np.percentile(spent, (10, 50, 90))
    expected = {"mean": fmean(spent), "p10": low, "p50": middle, "p90": high}
    assert fitted["run"] == pytest.approx(expected)
    mine = [spend for spend, row in zip(spent, rows, strict=True) if row["id"] in fitted["samples"]]
    assert fitted["mean"] == pytest.approx(fmean(mine))
    assert ("misses the budget" in result.get("warning", "")) == (abs(fmean(spent) / target - 1) > 0.05)


def test_a_run_that_misses_its_budget_says_so(tmp_path):
    rows = [{"kept": [[[0, 20], [2, 10]]], "image_tokens": [64]}] * 3
    said = compare_with_run(nuwa.load_pruner("pooling", 16), {"option": "fence"}, rows, layers=4)
    assert said["fitted"]["run"] == {"mean": 15, "p10": 15, "p50": 15, "p90": 15}
    assert said["warning"] == "its mean of 15 misses the budget of 16 by -6.2%"
    assert compare_with_run(nuwa.load_pruner("pooling", 15.5), None, rows, layers=4) == {}
    assert (
        compare_with_run(nuwa.load_pruner("evs", Budget(ratio=0.25)), {}, rows, 4)["fitted"]["run"]["mean"] == 15 / 64
    )
    run = Run.of({"status": "done", "run_key": "0123", "warning": said["warning"]})
    assert runs_section([run], "").remarks == ["0123: its mean of 15 misses the budget of 16 by -6.2%"]


def test_a_method_that_cannot_spend_its_budget_says_so(tmp_path):
    """Of a picture there is no frame to drop."""
    result = read_result(run_job(small(tmp_path, "pruner=frame_drop", "budget.average=16", "baseline=skip")))
    assert result["warning"] == "its mean of 64 misses the budget of 16 by +300.0%"


def test_bad_input_is_named(tmp_path):
    outcome = read_result(run_job(small(tmp_path, *ADAPTIVE, "budget.samples=7")))
    assert outcome["status"] == "unreachable"
    assert "budget.samples=7: scenes has 6 readable samples with a picture" in outcome["reason"]
    outcome = read_result(run_job(small(tmp_path, *ADAPTIVE[1:], "pruner=ivc_prune", "budget.average=20")))
    assert outcome["status"] == "unreachable"
    assert "pruner ivc_prune, on 5 samples of scenes: a mean of 20 is out of reach" in outcome["reason"]
    with pytest.raises(ValueError, match=r"pruner\.adaptive must be false with pruner\.vision=divprune"):
        check(small(tmp_path, "pruner=composed", "pruner.vision=divprune", "pruner.adaptive=true"))


def test_the_samples_are_the_same_for_all(tmp_path):
    benchmark = check(small(tmp_path)).benchmark
    first, again, fewer = (draw_samples(benchmark, 6, wanted) for wanted in (4, 4, 2))
    assert [sample.id for sample in first] == [sample.id for sample in again]
    assert [sample.id for sample in fewer] == [sample.id for sample in first[:2]]
    assert [sample.id for sample in first] != [benchmark[index].id for index in range(4)]


def test_how_many_samples_matters_only_where_images_decide():
    keys = [run_key(small("o", *overrides, "budget.samples=9")) for overrides in ((), ADAPTIVE[:2])]
    assert keys[0] == run_key(small("o")) and keys[1] != run_key(small("o", *ADAPTIVE[:2]))


def test_shares_follow_what_entered():
    """PruMerge's images let different numbers in, and a later stage keeps a share of each."""
    from helpers.families import FAMILIES

    family = FAMILIES["llava"]
    pruner = nuwa.load_pruner("composed", 24, vision="prumerge", llm="pyramiddrop", adaptive=True).turned(0.5)
    stages = pruner.schedule(64, 6).llm
    assert stages and all(isinstance(share, Share) for _, share in stages)
    with torch.no_grad(), nuwa.prune(family.model(), pruner) as session:
        session.adapter.model(**family.inputs("middle", "two", "last"))
    images = session.report().images
    assert len({image.per_layer[0] for image in images}) > 1
    for image in images:
        expected = Schedule(image.per_layer[0], stages).per_layer(6)
        assert image.per_layer == expected

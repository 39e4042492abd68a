"""What is typed after a command: budgets as numbers, groups without a choice, overrides that Hydra refuses."""

import pytest

from nuwa.config import ConfigError
from nuwa.overrides import compose_job, for_hydra


@pytest.mark.parametrize(
    ("typed", "budget"),
    [("64", (64, None)), ("avg128", (128, None)), ("0.25", (None, 0.25)), ("1", (1, None)), ("full", (None, None))],
)
def test_a_number_is_a_budget(typed, budget):
    """The default has an average, the experiment a ratio: neither is left beside the number."""
    for overrides in ([], ["experiment=table13_qwen_grounding"]):
        cfg = compose_job([*overrides, f"budget={typed}"])
        assert (cfg.budget.average, cfg.budget.ratio) == budget


def test_numbers_of_a_sweep():
    assert for_hydra(["budget=avg64,ratio25", "-m", "a=b"]) == ["budget=avg64,ratio25", "-m", "a=b"]
    assert for_hydra(["budget=0.25,.5"]) == ["budget.ratio=0.25,.5", "budget.average=null"]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("pruner=", "pruner=: nothing is chosen"),
        ("model=null", "model=null: nothing is chosen"),
        ("pruner=magic", "pruner/magic"),
        ("budget=64,0.5", "budget=64,0.5: tokens, shares below 1 and names do not mix"),
        ("budget=64,avg128", "budget=64,avg128: tokens, shares below 1 and names do not mix"),
        ("pruner.d_tresh=1", "d_tresh"),
        ("budget=nan", "budget=nan: nothing is chosen"),
        ("pruner=3", "pruner=3: nothing is chosen"),
        ("limit=many", "Value 'many' of type 'str' could not be converted to Integer"),
        ("name=ü.1", "name=ü.1: cannot be read; in quotes it can: \"name='ü.1'\""),
        ("a b", "a b"),
    ],
)
def test_what_cannot_be_used_is_one_line(override, named):
    with pytest.raises(ConfigError) as refused:
        compose_job([override])
    assert named in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("value", ["ü.1", "it's ü", "a\\ü", "it\\'s ü"])
def test_what_is_proposed_for_a_value_can_be_read(value):
    with pytest.raises(ConfigError) as refused:
        compose_job([f"name={value}"])
    proposed = str(refused.value).partition("can: ")[2]
    assert compose_job([proposed[1:-1]]).name == value

"""What the rows of a run add up to, against numbers by hand: quality, and costs over images of several sizes."""

from types import SimpleNamespace

import pytest

from nuwa.benchmarks.local import Local
from nuwa.evaluation.summary import costs, doubts, summarise
from nuwa.pruning.flops import ModelShape

SHAPE = ModelShape(layers=4, hidden=8, intermediate=16, kv_heads=2, head_dim=3, vision_hidden=5)
PRUNER = SimpleNamespace(metric_flops=lambda tokens, shape: 1e6 * tokens)
ROWS = [
    {"kept": [[[0, 100]]], "image_tokens": [576]},
    {"kept": [[[0, 10]], [[0, 20], [2, 4]], [[0, 40]]], "image_tokens": [100, 200, 400]},
]
"""One row with one picture, and one with three, of which the second is pruned again before layer 2."""


def flops(tokens):
    """Of one layer, by Appendix C: projections, attention, two matrices of the feed-forward network."""
    return 8 * tokens * 8**2 + 4 * tokens**2 * 8 + 4 * tokens * 8 * 16


def test_costs_are_means_over_images_not_rows():
    found = costs(ROWS, PRUNER, SHAPE, value_bytes=2)
    assert found["tokens_per_layer"] == [42.5, 42.5, 38.5, 38.5]
    assert found["tokens_per_image"] == (576 + 100 + 200 + 400) / 4
    assert found["tokens_entering"] == 40.5 and found["tokens_leaving"] == (42.5 + 3 * 38.5) / 4
    each = [4 * flops(100), 4 * flops(10), 2 * flops(20) + 2 * flops(4), 4 * flops(40)]
    assert found["llm_tflops"] == pytest.approx(sum(each) / 4 / 1e12)  # those of the mean counts are fewer
    assert found["metric_mflops"] == (576 + 100 + 200 + 400) / 4
    assert found["kv_cache_bytes"] == 2 * 2 * 3 * 2 * (42.5 + 42.5 + 38.5 + 38.5)


def test_choosing_in_a_video_has_no_count():
    """A formula for one picture of all frames' tokens would be off by the number of frames, or its square."""
    filmed = [{"kept": [[[0, 100]]], "image_tokens": [576], "frames": [8]}]
    assert "metric_mflops" not in costs(filmed, PRUNER, SHAPE, value_bytes=2)
    assert "metric_mflops" not in costs([*ROWS, *filmed], PRUNER, SHAPE, value_bytes=2)


def test_costs_without_images():
    assert costs([{"kept": [], "image_tokens": []}], PRUNER, SHAPE, value_bytes=2) == {}


def scored(*values):
    return [{"id": str(i), "task": "t", "scores": {"t/m": value}} for i, value in enumerate(values)]


def test_a_summary():
    """Only a run that has an unpruned one has a retention, over the samples that both answered."""
    alone = summarise(Local.unloaded({}), scored(1.0, 0.0), None)
    assert alone["metrics"] == {"t/m": 0.5} and list(alone) == ["metrics", "standard_errors", "intervals"]
    beside = summarise(Local.unloaded({}), scored(1.0, 0.0), scored(1.0, 0.0, 1.0, 1.0))
    assert beside["retention"]["t/m"]["value"] == 1.0 and {key: beside[key] for key in alone} == alone
    assert summarise(Local.unloaded({}), scored(1.0), [])["retention"] == {}


def test_what_makes_the_numbers_doubtful():
    plain, empty, foreign = {"prediction": "yes"}, {"prediction": ""}, {"prediction": "no", "unknown": ["Is", "cat"]}
    assert [*doubts([plain, empty], "m")] == []
    assert [*doubts([empty, empty], "m")] == ["all 2 answers are empty"]
    more = {"prediction": "", "unknown": ["cat", *"abcd"]}
    (said,) = doubts([plain, foreign, more], "m")
    assert said.startswith(
        "2 of 3 prompts hold words that m does not know (Is, cat, a, b, c ...); ask in its own words"
    )

"""Options of methods: the values at the ends of their ranges, those just outside, and what methods cite."""

import re

import pytest

from nuwa.pruners.catalogue import find_method, method_names

RANGES = [
    ("dart", "visual_pivots", [1], [0], "1 or more"),
    ("dart", "text_pivots", [0], [-1], "0 or more"),
    ("dart", "layer", [0.001, 0.999], [0.0, 1.0], "a fraction of the depth in (0, 1)"),
    ("feather", "stride", [1], [0], "1 token or more"),
    ("hiprune", "anchor_share", [0.0, 1.0], [-0.001, 1.001], "a share in [0, 1]"),
    ("hiprune", "object_layer", [None, 0.001, 1.0], [0.0, 1.001], "null or a fraction of the depth in (0, 1]"),
    ("holitom", "threshold", [-1.0, 1.0], [1.001], "a cosine in [-1, 1]"),
    ("holitom", "inner_layer", [0.001, 0.999], [0.0, 1.0], "a fraction of the depth in (0, 1)"),
    ("holitom", "inner_keep", [0.001, 1.0], [0.0, 1.001], "in (0, 1]"),
    ("holov", "crops", [1], [0], "1 or more"),
    ("holov", "alpha", [0.0], [-0.001], "0 or more"),
    ("nuwa", "d_thresh", [0.001], [0.0], "a positive squared distance"),
    ("nuwa", "region_size", [1], [0], "1 cell or more"),
    ("nuwa", "pillar_quantile", [0.0, 1.0], [-0.001, 1.001], "in [0, 1]"),
    ("nuwa", "stage2_layer", [0.001, 0.999], [0.0, 1.0], "a fraction of the depth in (0, 1)"),
    ("nuwa", "stage2_ratio", [0.001, 1.0], [0.0, 1.001], "in (0, 1]"),
    ("nuwa_release_qwen", "distance", [0.001], [0.0], "a positive share of the diagonal"),
    ("nuwa_release_qwen", "pillar_quantile", [0.0, 1.0], [-0.001, 1.001], "in [0, 1]"),
    ("nuwa_release_qwen", "stage2_layer", [0.001, 0.999], [0.0, 1.0], "a fraction of the depth in (0, 1)"),
    ("nuwa_release_qwen", "window", [None, 1], [0], "null or 1 token or more"),
    ("prumerge", "neighbours", [1], [0], "1 token or more"),
    ("prumerge", "tiles", ["each"], ["stitched"], "each, because stitched tiles have several CLS tokens"),
    ("prumerge", "variant", ["paper", "release"], ["both"], "paper or release"),
    ("pyramiddrop", "ladder", ["auto", "late", "early"], ["middle"], "auto, late or early"),
    ("composed", "split", [0.0, 1.0], [-0.001, 1.001], "in [0, 1]"),
    ("sparsevlm_plus", "heads", [0.001, 1.0], [0.0, 1.001], "a share in (0, 1]"),
    ("visionzip", "contextual", [0.0, 0.999], [-0.001, 1.0], "a share of the tokens in [0, 1)"),
    ("vispruner", "important", [0.0, 1.0], [-0.001, 1.001], "a share in [0, 1]"),
]


@pytest.mark.parametrize(("name", "key", "taken", "refused", "rule"), RANGES)
def test_ends_of_ranges(name, key, taken, refused, rule):
    kind = find_method(name)[0]
    for value in taken:
        assert getattr(kind(**{key: value}), key) == value
    for value in refused:
        with pytest.raises(ValueError, match=re.escape(f"pruner.{key} must be {rule}, not {value!r}")):
            kind(**{key: value})


@pytest.mark.parametrize("name", method_names())
@pytest.mark.parametrize("value", [0.5, True, "1"])
def test_every_method_checks_the_types_of_its_options(name, value):
    with pytest.raises(ValueError, match=f"pruner.seed must be of type int, not {value!r}"):
        find_method(name)[0](seed=value)


@pytest.mark.parametrize("name", method_names())
def test_published_methods_cite_paper_and_commit(name):
    info = find_method(name)[0].info
    if name in ("composed", "downsample", "frame_drop", "grid", "none", "pooling", "random", "temporal_pool"):
        assert (info.paper, info.source) == ("", "")
    else:
        assert re.fullmatch(r"arXiv \d{4}\.\d{5}|(CVPR|EMNLP|ICLR|ICML) \d{4}", info.paper)
        published = re.search(r"\w/[\w-]+@([0-9a-f]{7,}|[\d.]+)\b", info.source)
        assert published or (name in ("occamtoken", "tofu") and not info.source)  # whose authors published none


def test_what_the_page_says_of_a_choice():
    methods = {name: find_method(name)[0] for name in method_names()}
    merging = {
        "fastvid",
        "flashvid",
        "holitom",
        "nuwa",
        "nuwa_release",
        "nuwa_release_qwen",
        "pooling",
        "prumerge",
        "prumerge_plus",
        "prunevid",
        "restore",
        "sparsevlm",
        "temporal_pool",
        "tofu",
        "visionzip",
        "vlm_pruner",
    }
    assert {name for name, kind in methods.items() if kind.info.merges} == merging
    assert {name for name, kind in methods.items() if kind.info.needs_cls} == {"prumerge", "prumerge_plus"}
    in_the_llm = {name for name, kind in methods.items() if kind().prunes_llm}
    asks = {name for name, kind in methods.items() if kind.info.text_aware}
    assert asks == in_the_llm - {"composed", "saint", "vlm_pruner"} | {"mmtok"}  # two of them look at images alone

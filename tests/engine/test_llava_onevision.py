"""LLaVA-OneVision: interpolated tiles, and received attention in place of a CLS token's."""

from __future__ import annotations

import warnings

import pytest
import torch
from engine.test_llava_next import random_sizes
from helpers.families import FAMILIES
from helpers.families_tiles import best_tiles, shrunk, unpadded
from helpers.support import small_text
from torch.nn.functional import interpolate
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig

import nuwa
from nuwa.models import adapter_for
from nuwa.pruners import visionzip
from nuwa.pruners.base import Tap
from nuwa.pruners.visionzip import key_metric
from nuwa.pruning.budget import Budget

FAMILY = FAMILIES["llava_onevision"]
KINDS = ("cls_attention", "received_attention", "keys", "hidden_mean")


@pytest.mark.parametrize("size", [*random_sizes(), (700, 2100), (2000, 2000)], ids=str)
def test_layout_of_the_real_grid(size):
    """27x27 patches per tile, at most nine tiles' tokens."""
    pinpoints = [(384 * height, 384 * width) for height in range(1, 7) for width in range(1, 7)]
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=4,
            intermediate_size=4,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=384,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=small_text(Qwen2Config, layers=1),
        image_grid_pinpoints=[list(pinpoint) for pinpoint in pinpoints],
    )
    adapter = adapter_for(LlavaOnevisionForConditionalGeneration(config))
    whole = unpadded(size, pinpoints, 384, 27)
    height, width = shrunk(*whole, 27, 9)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        (layout,) = adapter.layouts([], {"image_sizes": torch.tensor([size])})
    assert bool(raised) == ((height, width) != whole)
    assert [view.grid for view in layout.views] == [(27, 27), (height, width)]
    assert layout.n_tokens == 729 + height * (width + 1)
    assert int((layout.source == -1).sum()) == height


@pytest.mark.filterwarnings("ignore:llava_onevision interpolates")
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_taps_equal_eager_attention_on_the_stitched_grid(number):
    taps = [Tap(kind, 0.5) if kind == "hidden_mean" else Tap(kind) for kind in KINDS]
    model, arguments = FAMILY.model(), FAMILY.pictures(3, number)
    adapter = adapter_for(model)
    with torch.no_grad(), adapter.record(taps, arguments) as recording:
        images = model.model.get_image_features(**arguments).pooler_output
    layout = adapter.layouts(images, arguments)[1]
    with torch.no_grad():
        tower = FAMILY.model("eager").model.vision_tower
        eager = tower(adapter.pixels(arguments)[1], output_attentions=True, output_hidden_states=True)
        received, layer = eager.attentions[-1].mean(2), tower.encoder.layers[-1]
        expected = {
            "cls_attention": received.mT,
            "received_attention": received.mean(1)[..., None],
            "keys": layer.self_attn.k_proj(layer.layer_norm1(eager.hidden_states[-2])),
            "hidden_mean": torch.stack(eager.hidden_states[2:]).mean(0),
        }
    for which, view in enumerate(layout.views):
        rows = layout.source[view.tokens]
        for tap in taps:
            values = stitched(expected[tap.kind], number)[which]
            got = recording.view(tap, 1, rows)
            got = got.T if tap.kind == "cls_attention" else got.view(len(rows), -1)
            # keys and states are sums of two kernels' outputs, scores are what they are compared for
            limits = {"atol": 2e-6, "rtol": 0} if tap.kind.endswith("attention") else {"atol": 1e-4, "rtol": 0}
            assert values.std() > 1e-4  # not flat: the comparison can fail
            torch.testing.assert_close(got, values, **limits)
        torch.testing.assert_close(recording.features(1, rows), images[1][view.tokens], atol=1e-6, rtol=0)


def test_visionzip_averages_keys_over_heads(monkeypatch):
    model, seen = FAMILY.model(), []

    def watch(keys, heads):
        seen.append(heads)
        return key_metric(keys, heads)

    monkeypatch.setattr(visionzip, "key_metric", watch)
    with torch.no_grad(), nuwa.prune(model, nuwa.load_pruner("visionzip", budget=Budget(ratio=0.5))):
        model(**FAMILY.inputs("last"))
    assert set(seen) == {model.config.vision_config.num_attention_heads} != {1}


def stitched(values, number):
    """Base view and tile view of (crops, 16, D), by hand: put tiles together, cut padding, interpolate."""
    high, wide = best_tiles(FAMILY.sizes[number], FAMILY.pinpoints, 16)
    height, width = unpadded(FAMILY.sizes[number], FAMILY.pinpoints, 16, 4)
    canvas = torch.zeros(high * 4, wide * 4, values.shape[-1])
    for tile in range(high * wide):
        row, column = divmod(tile, wide)
        canvas[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = values[1 + tile].view(4, 4, -1)
    top, left = (high * 4 - height) // 2, (wide * 4 - width) // 2
    canvas = canvas[top : top + height, left : left + width]
    size = shrunk(height, width, 4, FAMILY.limit)
    if size != (height, width):
        canvas = interpolate(canvas.permute(2, 0, 1)[None], size, mode="bilinear")[0].permute(1, 2, 0)
    return values[0], canvas.reshape(-1, values.shape[-1])


def test_there_is_no_cls_token():
    taps = (Tap("cls_feature"), Tap("reader_query"), Tap("reader_keys"))
    adapter = adapter_for(FAMILY.model())
    with torch.no_grad(), adapter.record(taps, FAMILY.pictures(0)) as recording:
        FAMILY.model().model.get_image_features(**FAMILY.pictures(0))
    assert [recording.view(tap, 0, torch.arange(16)) for tap in taps] == [None] * 3


def test_several_images_in_a_prompt_are_refused():
    with (
        torch.no_grad(),
        nuwa.prune(FAMILY.model(), nuwa.load_pruner("none")),
        pytest.raises(ValueError, match="several"),
    ):
        FAMILY.model()(**FAMILY.inputs("two"), batch_num_images=torch.tensor([2]))

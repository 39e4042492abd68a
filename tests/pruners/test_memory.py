"""No method holds a matrix of all tokens by all tokens that its definition does not ask for, at 2,304 tokens."""

import pytest
import torch
from helpers.golden_cases import noise, vision_context
from helpers.methods import OVER_TIME, spending
from torch.utils._python_dispatch import TorchDispatchMode

from nuwa.pruners.catalogue import find_method, method_names
from nuwa.pruning.budget import Budget

GRID, WIDTH, HEADS, KEEP = (48, 48), 8, 2, 64
COUNT = GRID[0] * GRID[1]
SHAPES = {
    "cls_attention": (1, HEADS, COUNT),
    "received_attention": (1, COUNT),
    "keys": (1, COUNT, WIDTH),
    "cls_feature": (1, 1, WIDTH),
    "reader_query": (1, 1, WIDTH),
    "reader_keys": (1, 1 + COUNT, WIDTH),
    "hidden_mean": (1, COUNT, WIDTH),
    "states": (1, COUNT, WIDTH),
}
ALL_PAIRS = {"mmtok": COUNT * (COUNT + 3), "prunesid": COUNT**2, "restore": COUNT**2, "tofu": COUNT**2 / 4}
ALL_PAIRS |= dict.fromkeys(("fastvid", "flashvid", "prunevid"), COUNT**2)
"""Methods defined by the similarity of pairs: of all tokens (MMTok: and three words) or all of a frame, or of even with
odd ones."""


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if torch.is_tensor(value):
                self.elements = max(self.elements, value.numel())
        return result


VISION = [name for name in method_names() if find_method(name)[0]().prunes_vision]


@pytest.mark.parametrize("name", VISION)
def test_no_matrix_of_all_by_all(name):
    pruner = spending(name, Budget(average=KEEP))
    taps = {name: noise(*SHAPES[tap.kind], seed=1).abs() for name, tap in pruner.taps.items()}
    size = KEEP if name == "downsample" else COUNT  # the small image's features
    context = vision_context(GRID, noise(1, size, WIDTH), taps)
    context.frames = COUNT // KEEP if name in OVER_TIME else 1
    with Largest() as largest:
        decision = pruner.prune_vision(context, KEEP)
    assert decision.keep.shape == (1, COUNT // 4 if name == "dycoke" else KEEP)
    if name not in ("random", "grid", "downsample", "pooling", "frame_drop"):
        assert COUNT <= largest.elements <= ALL_PAIRS.get(name, COUNT**2 / 4 - 1)


def test_what_is_measured():
    with Largest() as largest:
        noise(COUNT, 2) @ noise(2, COUNT)
    assert largest.elements == COUNT**2

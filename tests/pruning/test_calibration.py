"""Calibration: sizes and distances against RESTORE's published code, and what they do to attention against copies."""

import pytest
import torch
from helpers.golden_cases import Golden, golden_runs

from nuwa.pruning.calibration import biased, distance_bias, even_sizes
from nuwa.pruning.positions import median_ids

START, TOKENS, BEHIND = 35, 144, 9


def rotary(ids, half=64, base=10000.0):
    """Cosines and sines (1, K, d) as LLaMA makes them, written out."""
    angles = ids[:, None].double() * base ** (-torch.arange(half).double() / half)
    return torch.cat([angles, angles], 1).cos()[None], torch.cat([angles, angles], 1).sin()[None]


@pytest.mark.parametrize(("name", "run"), golden_runs("restore_n144", only=lambda run: run == "k35"))
def test_restores_biases(name, run):
    """The published code writes -inf where a key lies behind its query."""
    case, kept = Golden(name), Golden(name).params(run)["keep"]
    out = {key: case.tensors[f"out.{run}.{key}"] for key in ("sizes", "position_ids", "bias_layer0", "bias_later")}
    image = torch.full((1, START + kept + BEHIND), -1)
    image[:, START : START + kept] = 0
    size = torch.ones(image.shape).masked_scatter(image == 0, out["sizes"].float())
    causal = torch.ones(len(image[0]), len(image[0]), dtype=torch.bool).tril()[None, None]
    distance = distance_bias(*rotary(out["position_ids"]), len(image[0]))
    for key, sizes in (("bias_later", size), ("bias_layer0", even_sizes(image, torch.tensor([[TOKENS]])))):
        found = biased(causal, sizes.log()[:, None] + distance, torch.float32)[0, 0]
        expected = out[key]
        assert torch.equal(found == torch.finfo(torch.float32).min, expected.isinf())
        torch.testing.assert_close(found[causal[0, 0]], expected[causal[0, 0]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "run"), golden_runs("restore_n144", only=lambda run: run == "k35"))
def test_restores_ids(name, run):
    case, kept = Golden(name), Golden(name).params(run)["keep"]
    owner, ids = case.tensors[f"out.{run}.owner"], case.tensors[f"out.{run}.position_ids"]
    first = torch.stack([(owner == slot).nonzero()[0, 0] for slot in range(kept)])  # any place to stand for the slot
    medians = median_ids(START + torch.arange(TOKENS)[None, None], first[owner][None])
    assert medians[0, 0, first].tolist() == ids[START : START + kept].tolist()


def test_a_key_of_size_n_gets_what_n_equal_keys_get():
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(1, 1, n, 8, generator=generator) for n in (1, 3, 3))
    often = torch.tensor([1, 4, 2])
    allowed = torch.ones(1, 1, 1, 3, dtype=torch.bool)
    for mask in (allowed, torch.zeros(1, 1, 1, 3)):
        bias = biased(mask, often.float().log().view(1, 1, 3), torch.float32)
        found = torch.nn.functional.scaled_dot_product_attention(query, keys, values, bias)
        copies = (x.repeat_interleave(often, 2) for x in (keys, values))
        torch.testing.assert_close(found, torch.nn.functional.scaled_dot_product_attention(query, *copies))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_forbidden_keys_stay_forbidden(dtype):
    lowest = torch.finfo(dtype).min
    for mask in (torch.tensor([True, False]), torch.tensor([0.0, lowest], dtype=dtype)):
        for bias in (-3.0, 3.0):
            found = biased(mask.view(1, 1, 1, 2), torch.full((1, 1, 2), bias), dtype)
            assert found.dtype == dtype and found.flatten().tolist() == [bias, lowest]


def test_the_distance_term_of_printed_distances():
    """What the published formula gives for width 128 and base 10,000. Embeddings may be scaled (YaRN)."""
    at = torch.tensor([0, 1, 4, 16, 64, 256, 576])
    cos, sin = rotary(at)
    for scale in (1.0, 1.3):
        found = distance_bias(scale * cos, scale * sin, len(at))[0, :, 0]
        expected = torch.tensor([0, 0.0294, 0.2158, 0.3218, 0.4208, 0.5184, 0.5688])
        torch.testing.assert_close(found, expected, atol=6e-5, rtol=0)
    assert torch.equal(distance_bias(cos, sin, 2)[0], distance_bias(cos, sin, 7)[0, -2:])

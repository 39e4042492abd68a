"""Qwen's families in the engine's matrix: small random models, four pictures, and decoding on three axes by hand."""

from __future__ import annotations

import math
from functools import cache

import torch
from helpers.family import Family
from helpers.support import IMAGE, VOCABULARY, Choose, pixels
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

PATCH, MERGE = 4, 2
VIDEO, START, END = 3, 6, 7
DEEPSTACK = {
    "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 48, "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1, 2]}  # fmt: skip
LAYER_TYPES = 3 * ["linear_attention", "full_attention"]
Place = tuple[int, int, int]


def random_qwen(attention: str = "sdpa", dtype: torch.dtype = torch.float32, layers: int = 6, boost: float = 3.0):
    """Qwen2.5-VL: windows of 2 x 2 tokens, full attention in every second block."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 48}
    vision |= {"window_size": 2 * PATCH * MERGE, "fullatt_block_indexes": [1, 3]}
    return random_model(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, vision, attention, dtype, layers, boost)


def random_qwen2(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
    """Qwen2-VL: every block sees whole images."""
    vision = {"embed_dim": 32, "mlp_ratio": 2, "hidden_size": 48}
    return random_model(Qwen2VLForConditionalGeneration, Qwen2VLConfig, vision, attention, dtype)


def random_qwen3(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
    """Qwen3-VL: deepstack planes of three of its four blocks, interleaved axes."""
    options = {"sections": (4, 2, 2), "head_dim": 16}
    return random_model(
        Qwen3VLForConditionalGeneration, Qwen3VLConfig, DEEPSTACK, attention, dtype, interleaved=True, **options
    )


def random_qwen3_moe(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
    """As Qwen3-VL, with four experts, two for a token."""
    options = {"sections": (4, 2, 2), "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2}
    options |= {"moe_intermediate_size": 32, "interleaved": True}
    return random_model(Qwen3VLMoeForConditionalGeneration, Qwen3VLMoeConfig, DEEPSTACK, attention, dtype, **options)


def random_qwen3_5(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
    """Qwen3.5: attention in every second of six layers, half of a head's channels rotated."""
    vision = {name: value for name, value in DEEPSTACK.items() if name != "deepstack_visual_indexes"}
    options = {"sections": (2, 1, 1), "head_dim": 16, "interleaved": True, "partial": 0.5}
    options |= {"linear_num_key_heads": 3, "linear_num_value_heads": 6, "layer_types": LAYER_TYPES}
    options |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    return random_model(Qwen3_5ForConditionalGeneration, Qwen3_5Config, vision, attention, dtype, **options)


def random_model(
    kind: type,
    config_kind: type,
    vision: dict,
    attention: str,
    dtype: torch.dtype,
    layers: int = 6,
    boost: float = 3.0,
    sections: tuple[int, int, int] = (2, 3, 3),
    interleaved: bool = False,
    partial: float = 1.0,
    **text,
):
    """Four blocks, two heads, patches of 4 pixels; weights boosted so that attention is not flat."""
    torch.manual_seed(0)
    vision = {"depth": 4, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGE, **vision}
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 100.0,
            "mrope_section": list(sections),
            "mrope_interleaved": interleaved,
            "partial_rotary_factor": partial,
        },
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **text,
    }
    ids = {"image": IMAGE, "video": VIDEO, "vision_start": START, "vision_end": END}
    tokens = {f"{name}_token_id": token for name, token in ids.items()}
    config = config_kind(vision_config={"temporal_patch_size": 2, **vision}, text_config=text, **tokens)
    config._attn_implementation = attention
    model = kind(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and ("language_model.layers" in name or "visual" in name):
                parameter.mul_(3 * boost if any(part in name for part in ("q_proj", "k_proj", "qkv")) else boost)
        model.lm_head.weight[[IMAGE, VIDEO]] = (
            0  # a generated placeholder would want an image when decoding without cache
        )
    model.generation_config.eos_token_id = None  # random models may generate any other token
    return model.eval().to(dtype)


def patches(image: Tensor) -> Tensor:
    """(3, H, W) -> the patches of an image (P, 3 * 2 * PATCH * PATCH), merge unit by merge unit, as Qwen takes them."""
    rows, columns = (side // PATCH for side in image.shape[1:])
    out = []
    for top in range(0, rows, MERGE):
        for left in range(0, columns, MERGE):
            for y in range(top, top + MERGE):
                for x in range(left, left + MERGE):
                    patch = image[:, y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH]
                    out.append(torch.stack([patch, patch], 1).flatten())
    return torch.stack(out)


class Qwen(Family):
    """Qwen2.5-VL: four pictures, each between a start token and an end token with a word."""

    name = "qwen2_5_vl"
    before, after = (START,), (END, 9)
    sizes = ((5, 7), (8, 4), (6, 6), (7, 5))

    @staticmethod
    @cache
    def model(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
        return random_qwen(attention, dtype)

    def cells(self, picture: int):
        rows, columns = self.sizes[picture]
        return [(0, row, column) for row in range(rows) for column in range(columns)]

    def pictures(self, *numbers: int) -> dict[str, Tensor]:
        side, values = PATCH * MERGE, []
        for number in numbers:
            rows, columns = self.sizes[number]
            whole = pixels(1, seed=number, side=side * max(rows, columns))[0]
            values.append(patches(whole[:, : side * rows, : side * columns]))
        grids = [[1, MERGE * self.sizes[number][0], MERGE * self.sizes[number][1]] for number in numbers]
        return {"pixel_values": torch.cat(values), "image_grid_thw": torch.tensor(grids)}

    def finish(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Says where images are; ids as `generate` makes them have the text's own axis in front."""
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
        if "position_ids" in inputs:
            known = {k: inputs[k] for k in ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")}
            axes, _ = self.model().model.get_rope_index(**known)
            inputs["position_ids"] = torch.cat([inputs["position_ids"][None], axes])
        return inputs


class Qwen2(Qwen):
    """Qwen2-VL."""

    name = "qwen2_vl"

    @staticmethod
    @cache
    def model(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
        return random_qwen2(attention, dtype)


class Qwen3(Qwen):
    """Qwen3-VL."""

    name = "qwen3_vl"
    shares_beginnings = False

    @staticmethod
    @cache
    def model(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
        return random_qwen3(attention, dtype)


class Qwen3Moe(Qwen):
    """Qwen3-VL with experts."""

    name = "qwen3_vl_moe"
    shares_beginnings = False

    @staticmethod
    @cache
    def model(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
        return random_qwen3_moe(attention, dtype)


class Qwen35(Qwen):
    """Qwen3.5."""

    name = "qwen3_5"
    shares_beginnings = False
    ratio = 0.5

    @staticmethod
    @cache
    def model(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
        return random_qwen3_5(attention, dtype)


def places_of(ids: list[int], sizes: list[tuple[int, int]]) -> list[tuple[Place, int, int]]:
    """Frame, height and width id of every token of a prompt, its image (or -1) and its number in it (or -1)."""
    out, following, image, i = [], 0, -1, 0
    while i < len(ids):
        if ids[i] == IMAGE:
            image += 1
            rows, columns = sizes[image]
            for cell in range(rows * columns):
                out.append(((following, following + cell // columns, following + cell % columns), image, cell))
            following, i = following + max(rows, columns), i + rows * columns
        else:
            out.append(((following,) * 3, -1, -1))
            following, i = following + 1, i + 1
    return out


def moved(strategy: str, kept: list, sizes: list[tuple[int, int]], following: int) -> list[Place]:
    """Ids of kept entries (place, image, number), then of generated ones (None, -1, -1), by the definitions."""
    if strategy == "perc":
        return [(rank,) * 3 for rank in range(len(kept))]
    out, generated = [], 0
    for place, image, number in kept:
        if place is None:
            out.append((following + generated,) * 3)
            generated += 1
        elif image < 0 or strategy == "pesp":
            out.append(place)
        else:
            mine = [entry for entry in kept if entry[1] == image]
            rows, columns = sizes[image]
            corner = tuple(a - b for a, b in zip(place, (0, number // columns, number % columns), strict=True))
            if strategy == "rpme_1d":
                cell = spread(number, [entry[2] for entry in mine], rows * columns - 1)
                out.append((corner[0], corner[1] + cell // columns, corner[2] + cell % columns))
            else:
                ends = (0, rows - 1, columns - 1)
                out.append(
                    tuple(
                        corner[axis]
                        + spread(place[axis] - corner[axis], [e[0][axis] - corner[axis] for e in mine], ends[axis])
                        for axis in range(3)
                    )
                )
    return out


def spread(value: int, values: list[int], reach: int) -> int:
    """The first of ``values`` goes to 0, any other value to ceil(value * reach / last)."""
    return 0 if value == min(values) else math.ceil(value * reach / max(values))


@torch.no_grad()
def plain_mrope_decode(
    model,
    ids: list[int],
    images: dict[str, Tensor],
    sizes: list[tuple[int, int]],
    keep: list[list[int]],
    stages: dict[int, Choose],
    strategy: str,
    steps: int,
) -> tuple[list[int], Tensor]:
    """As `support.plain_decode`, for three axes: no hooks, masks or cache. ``sizes``: tokens of each image.

    ``stages``: layer -> function of (hidden (L, D), [(place, image, number)]) giving the indices to keep.
    """
    lm = model.model.language_model
    output = model.model.get_image_features(**images)
    features, planes = output.pooler_output, getattr(output, "deepstack_features", [])
    whole = places_of(ids, sizes)
    entries = [entry for entry in whole if entry[1] < 0 or entry[2] in keep[entry[1]]]
    text = iter([token for token in ids if token != IMAGE])
    vectors = torch.stack([
        lm.embed_tokens(torch.tensor(next(text))) if image < 0 else features[image][number]
        for _, image, number in entries
    ])  # fmt: skip
    following = max(max(place) for place, _, _ in whole) + 1
    decided: dict[int, list] = {}
    generated, logits = [], []
    for _ in range(steps):
        hidden, alive = vectors, list(entries)
        if generated:
            hidden = torch.cat([vectors, lm.embed_tokens(torch.tensor(generated))])
            alive += [(None, -1, -1)] * len(generated)
        for number, layer in enumerate(lm.layers):
            if number in stages:
                if number not in decided:
                    decided[number] = [alive[i] for i in stages[number](hidden, alive)]
                stay = [i for i, entry in enumerate(alive) if entry[0] is None or entry in decided[number]]
                hidden, alive = hidden[stay], [alive[i] for i in stay]
            hidden = plain_mrope_layer(lm, layer, hidden, moved(strategy, alive, sizes, following))
            for i, (_, image, cell) in enumerate(alive if number < len(planes) else ()):
                if image >= 0:
                    hidden[i] += planes[number][image][cell]
        logits.append(model.lm_head(lm.norm(hidden[-1])))
        generated.append(int(logits[-1].argmax()))
    return generated, torch.stack(logits)


def plain_mrope_layer(lm, layer, hidden: Tensor, places: list[Place]) -> Tensor:
    """One layer over (L, D), written out."""
    x = layer.input_layernorm(hidden)
    if hasattr(layer, "linear_attn"):
        hidden = hidden + plain_linear_attention(layer.linear_attn, x)
    else:
        hidden = hidden + plain_mrope_attention(lm, layer.self_attn, x, places)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden)[None])[0]


def plain_mrope_attention(lm, attention, x: Tensor, places: list[Place]) -> Tensor:
    """Full causal attention over (L, D), every pair of channels turned by the id of its own axis, or not at all."""
    axis = axis_of_each_pair(lm.config.rope_parameters)
    half, theta = len(axis), lm.config.rope_parameters["rope_theta"]
    angle = torch.tensor([[place[axis[j]] * theta ** (-j / half) for j in range(half)] for place in places])
    cos, sin = angle.cos(), angle.sin()

    def heads(name):
        y = getattr(attention, f"{name}_proj")(x).view(len(x), -1, attention.head_dim)
        y = y[:, ::2] if name == "q" and gated else y
        y = getattr(attention, f"{name}_norm", nn.Identity())(y).transpose(0, 1)
        a, b, rest = y[..., :half], y[..., half : 2 * half], y[..., 2 * half :]
        return y if name == "v" else torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)

    gated = attention.q_proj.out_features > attention.o_proj.in_features
    q, k, v = heads("q"), heads("k"), heads("v")
    k, v = (part.repeat_interleave(q.shape[0] // part.shape[0], 0) for part in (k, v))
    scores = q @ k.transpose(1, 2) / attention.head_dim**0.5
    causal = torch.ones(len(x), len(x), dtype=torch.bool).tril()
    weights = scores.masked_fill(~causal, float("-inf")).softmax(-1)
    out = (weights @ v).transpose(0, 1)
    if gated:
        out = out * attention.q_proj(x).view(len(x), -1, attention.head_dim)[:, 1::2].sigmoid()
    return attention.o_proj(out.reshape(len(x), -1))


def plain_linear_attention(net, x: Tensor) -> Tensor:
    """The gated delta rule over (L, D), token by token."""
    mixed, length, kernel = net.in_proj_qkv(x), len(x), net.conv1d.weight[:, 0]
    seen = torch.cat([mixed.new_zeros(kernel.shape[1] - 1, mixed.shape[1]), mixed])
    mixed = sum(seen[j : j + length] * kernel[:, j] for j in range(kernel.shape[1]))
    mixed = functional.silu(mixed)
    q, k, v = mixed.split([net.key_dim, net.key_dim, net.value_dim], 1)
    groups = net.num_v_heads // net.num_k_heads
    q, k = (y.view(length, -1, net.head_k_dim).repeat_interleave(groups, 1) for y in (q, k))
    q, k = (y / (y.pow(2).sum(-1, keepdim=True) + 1e-6).sqrt() for y in (q, k))
    v, gate = v.view(length, -1, net.head_v_dim), net.in_proj_z(x).view(length, -1, net.head_v_dim)
    rate, decay = net.in_proj_b(x).sigmoid(), functional.softplus(net.in_proj_a(x) + net.dt_bias) * net.A_log.exp()
    state, out = x.new_zeros(net.num_v_heads, net.head_k_dim, net.head_v_dim), []
    for t in range(length):
        state = state * (-decay[t]).exp()[:, None, None]
        known = (state * k[t, :, :, None]).sum(1)
        state = state + k[t, :, :, None] * ((v[t] - known) * rate[t, :, None])[:, None]
        out.append((state * q[t, :, :, None]).sum(1) / net.head_k_dim**0.5)
    out = torch.stack(out)
    out = out * (out.pow(2).mean(-1, keepdim=True) + net.layer_norm_epsilon).rsqrt() * net.norm.weight
    return net.out_proj((out * functional.silu(gate)).reshape(length, -1))


def axis_of_each_pair(rope: dict) -> list[int]:
    """The axis by whose id each pair of channels turns."""
    sections = rope["mrope_section"]
    if not rope["mrope_interleaved"]:
        return [a for a, count in enumerate(sections) for _ in range(count)]
    axis = [0] * sum(sections)
    for a in (1, 2):
        for pair in range(a, 3 * sections[a], 3):
            axis[pair] = a
    return axis

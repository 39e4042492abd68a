"""Small random models of the real architectures, a pruner with a fixed choice, and a decoder loop without hooks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from nuwa.pruners.base import LLMContext, LLMDecision, Pruner, Tap, VisionContext, VisionDecision
from nuwa.pruning.schedules import Schedule

IMAGE, SIDE, VOCABULARY = 4, 8, 64
BOOSTED = ("language_model.layers", "text_model.layers", "projector", "connector", "encoder")


def random_llava(attention: str = "sdpa", dtype: torch.dtype = torch.float32, layers: int = 6, boost: float = 3.0):
    """LLaVA with an 8x8 grid and random weights, boosted so that attention is not flat."""
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=small_tower(image_size=SIDE * 4, projection_dim=16),
        text_config=small_text(layers=layers),
        image_token_id=IMAGE,
        image_token_index=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=SIDE * SIDE,
    )
    config._attn_implementation = attention
    model = boosted(LlavaForConditionalGeneration(config), boost)
    with torch.no_grad():
        model.model.vision_tower.embeddings.class_embedding.normal_()
    return model.eval().to(dtype)


def small_tower(kind: type = CLIPVisionConfig, **options):
    """A small vision tower of patches of 4 pixels."""
    return kind(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, patch_size=4, **options
    )


def small_text(kind: type = LlamaConfig, layers: int = 6, **options):
    """A small text model of Llama's shape."""
    return kind(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **options,
    )


def boosted(model, boost: float):
    """Scale the weights of tower, projector and layers, so that attention is not flat."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and any(part in name for part in BOOSTED):
                parameter.mul_(boost)
    # random models may generate any token: let them run to the length asked for
    model.generation_config.eos_token_id = None
    return model


def pixels(images: int, seed: int = 0, side: int = SIDE * 4) -> Tensor:
    """(images, 3, side, side) random images with some structure."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(images, 3, side // 4, side // 4, generator=generator)
    fine = torch.randn(images, 3, side, side, generator=generator)
    return torch.nn.functional.interpolate(coarse, scale_factor=4) + 0.3 * fine


def prompt(*parts: int | str) -> list[int]:
    """Token ids: numbers are text lengths (filled with varying ids), 'image' is one image."""
    ids = [1]
    for place, part in enumerate(parts):
        if part == "image":
            ids += [IMAGE] * (SIDE * SIDE)
        else:
            ids += [5 + (7 * place + 3 * k) % (VOCABULARY - 5) for k in range(part)]
    return ids


def batch(*prompts: list[int], side: str = "left") -> dict[str, Tensor]:
    """Pad prompts to one length: input_ids and attention_mask."""
    length = max(map(len, prompts))
    rows, masks = [], []
    for ids in prompts:
        pad, ones = [0] * (length - len(ids)), [1] * len(ids)
        rows.append(pad + ids if side == "left" else ids + pad)
        masks.append(pad + ones if side == "left" else ones + pad)
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}


def tapped(recording, tap: Tap, images: int, rows: Tensor | None = None) -> Tensor:
    """A tap of several images of one size, stacked; all patches of an 8x8 grid by default."""
    rows = torch.arange(SIDE * SIDE) if rows is None else rows
    return torch.stack([recording.view(tap, image, rows) for image in range(images)])


def tapped_features(recording, images: int) -> Tensor:
    """The features of several images with an 8x8 grid, stacked."""
    return torch.stack([recording.features(image, torch.arange(SIDE * SIDE)) for image in range(images)])


@dataclass
class Fixed(Pruner):
    """Keeps tokens by a rule on their index alone: every ``stride``-th before the LLM, fewer at each of ``layers``."""

    stride: int = 1
    layers: tuple[int, ...] = ()

    name: ClassVar[str] = "fixed"
    counts_by_itself: ClassVar[bool] = True

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        counts = [len(kept_tokens(n_tokens, self.stride, i + 1)) for i in range(len(self.layers) + 1)]
        return Schedule(counts[0], tuple(zip(self.layers, counts[1:], strict=True)))

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        kept = torch.tensor(kept_tokens(context.features.shape[1], self.stride, 1))
        return VisionDecision(kept.expand(len(context.features), -1))

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        stage = self.layers.index(context.layer) + 2
        allowed = torch.tensor([t for t in range(int(context.token.max()) + 1) if survives(t, self.stride, stage)])
        return context.text | torch.isin(context.token, allowed) & (context.image >= 0)


@dataclass
class Merging(Pruner):
    """At each of ``layers``, the even visual tokens stay and the odd ones become one, placed after them.

    The merged token, their mean, takes the slot of the first odd token.
    """

    layers: tuple[int, ...] = ()

    name: ClassVar[str] = "merging"

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        counts = [n_tokens]
        for _ in self.layers:
            counts.append((counts[-1] + 1) // 2 + 1)
        return Schedule(n_tokens, tuple(zip(self.layers, counts[1:], strict=True)))

    def prune_llm(self, context: LLMContext, keep: Tensor) -> LLMDecision:
        kept, hidden = context.text.clone(), context.hidden.clone()
        order = 2 * torch.arange(kept.shape[1]).repeat(len(kept), 1)
        for row, _, mine in context.each_image():
            kept[row, mine[::2]] = True
            kept[row, mine[1]] = True
            hidden[row, mine[1]] = context.hidden[row, mine[1::2]].mean(0)
            order[row, mine[1]] = 2 * mine[-1] + 1
        return LLMDecision(kept, hidden, order)


def kept_tokens(n_tokens: int, stride: int, stage: int) -> list[int]:
    """Tokens that `Fixed` keeps up to a stage (1 = before the LLM)."""
    return [t for t in range(n_tokens) if t % stride == 0 and survives(t, stride, stage)]


def survives(token: int, stride: int, stage: int) -> bool:
    """Whether `Fixed` keeps a token that entered the LLM up to a stage."""
    return all((token // stride) % (k + 2) for k in range(stage - 1))


Choose = Callable[[Tensor, list[tuple[int, int, int]]], list[int]]


@torch.no_grad()
def plain_decode(
    model,
    ids: list[int],
    images: dict[str, Tensor],
    keep: list[list[int]],
    stages: dict[int, Choose],
    strategy: str | Callable[[int, list[tuple[int, int, int]]], list[int]],
    steps: int,
    features: list[Tensor] | None = None,
    bias: Callable[[int, list[tuple[int, int, int]], list[int]], Tensor] | None = None,
) -> tuple[list[int], Tensor]:
    """Greedy decoding of one prompt without hooks, masks or cache: the slow, obvious reference.

    Args:
        images: arguments of ``get_image_features``.
        keep: kept tokens of each image before the LLM, in order.
        stages: layer -> function of (hidden (L, D), entries) giving the sequence indices to keep, in order, or these
            and a dict of new states by index; called at the prefill only, decisions are kept for later steps. An entry
            is (place in the full prompt, image or -1, token or -1).
        strategy: a strategy's name, or a function of layer and entries that gives their ids.
        features: projected features (n_tokens, H) of each image to use instead of the model's.
        bias: what a layer (by number) adds to the scores (L, L) of entries at positions.

    Returns:
        the generated ids and the logits (steps, vocabulary) they were chosen from.
    """
    lm = text_model(model)
    if features is None:
        features = model.model.get_image_features(**images).pooler_output if images else []
    sizes = [len(image) for image in features]
    entries, vectors = _lay_out(model, ids, features, keep)
    decided, generated, logits = {}, [], []
    for _ in range(steps):
        hidden = torch.cat([vectors, lm.embed_tokens(torch.tensor(generated, dtype=torch.long))])
        alive = entries + [(len(ids) + i, -1, -1) for i in range(len(generated))]
        for number, layer in enumerate(lm.layers):
            if number in stages:
                if number not in decided:
                    decided[number] = _decision(stages[number](hidden, alive), alive)
                places, new = decided[number]
                at = {entry[0]: i for i, entry in enumerate(alive)}
                stay = [at[place] for place in places] + [i for i, e in enumerate(alive) if e[0] >= len(ids)]
                hidden, alive = hidden[stay], [alive[i] for i in stay]
                hidden = torch.stack([new.get(e[0], x) for e, x in zip(alive, hidden, strict=True)])
            position = strategy(number, alive) if callable(strategy) else positions_of(strategy, alive, sizes, ids)
            added = 0 if bias is None else bias(number, alive, position)
            hidden = _plain_layer(lm, layer, hidden, torch.tensor(position), added)
        logits.append(model.lm_head(lm.norm(hidden[-1])))
        generated.append(int(logits[-1].argmax()))
    return generated, torch.stack(logits)


def _decision(chosen, alive: list[tuple[int, int, int]]) -> tuple[list[int], dict[int, Tensor]]:
    """The places that a stage keeps, and new states by place."""
    chosen, new = chosen if isinstance(chosen, tuple) else (chosen, {})
    return [alive[i][0] for i in chosen], {alive[i][0]: x for i, x in new.items()}


def places_of(ids: list[int], sizes: list[int]) -> list[list[int]]:
    """Where the placeholders of each image stand; text may stand between them."""
    placeholders = iter([place for place, token in enumerate(ids) if token == IMAGE])
    return [[next(placeholders) for _ in range(size)] for size in sizes]


def _lay_out(model, ids, features, keep):
    """Entries and input vectors of what enters the LLM: kept tokens, in their order, where those that stay stood."""
    embed = text_model(model).embed_tokens
    table = {
        place: ((place, -1, -1), embed(torch.tensor(ids[place]))) for place in range(len(ids)) if ids[place] != IMAGE
    }
    for image, places in enumerate(places_of(ids, list(map(len, features)))):
        for slot, token in zip(sorted(keep[image]), keep[image], strict=True):
            table[places[slot]] = (places[token], image, token), features[image][token]
    entries, vectors = zip(*(table[place] for place in sorted(table)), strict=True)
    return list(entries), torch.stack(vectors)


def positions_of(
    strategy: str, entries: list[tuple[int, int, int]], sizes: list[int], ids: list[int] | None = None
) -> list[int]:
    """Position ids by the definitions, one token at a time; generated tokens follow on. ``sizes``: tokens per image.

    ``ids``: the prompt, where text stands between the tokens of an image.
    """
    if strategy == "perc":
        return list(range(len(entries)))
    spans = [(places[0], places[-1]) for places in places_of(ids, sizes)] if ids is not None else None
    out = []
    for place, image, token in entries:
        if image < 0 or strategy == "pesp":
            out.append(place)
            continue
        start, end = spans[image] if spans else (place - token, place - token + sizes[image] - 1)
        mine = [other_place - start for other_place, other, _ in entries if other == image]
        first, last = min(mine), max(mine)
        stretched = start if last == 0 else math.ceil((place - start) * (end - start) / last) + start
        out.append(start if place - start == first else stretched)
    return out


def text_model(model):
    """The decoder without its head, whatever a family calls it."""
    return getattr(model.model, "language_model", None) or model.model.text_model


def _plain_layer(lm, layer, hidden: Tensor, position: Tensor, bias: Tensor | float = 0) -> Tensor:
    """One Llama layer over (L, D) with full causal attention, written out."""
    attention = layer.self_attn
    x = layer.input_layernorm(hidden)
    weights = plain_attention(lm, layer, hidden, position, bias)
    v = attention.v_proj(x).view(len(x), -1, attention.head_dim).transpose(0, 1)
    v = v.repeat_interleave(weights.shape[0] // v.shape[0], 0)
    hidden = hidden + attention.o_proj((weights @ v).transpose(0, 1).reshape(len(x), -1))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def plain_attention(lm, layer, hidden: Tensor, position: Tensor, bias: Tensor | float = 0) -> Tensor:
    """(H, L, L) causal attention weights of one Llama layer, the whole matrix, with a ``bias`` (L, L) of the scores."""
    attention = layer.self_attn
    x = layer.input_layernorm(hidden)
    half = attention.head_dim // 2
    frequency = lm.config.rope_parameters["rope_theta"] ** (-torch.arange(half).float() / half)
    angle = position[:, None].float() * frequency
    cos, sin = angle.cos(), angle.sin()

    def heads(projection):
        y = projection(x).view(len(x), -1, attention.head_dim).transpose(0, 1)
        a, b = y[..., :half], y[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    q, k = heads(attention.q_proj), heads(attention.k_proj)
    k = k.repeat_interleave(q.shape[0] // k.shape[0], 0)
    scores = q @ k.transpose(1, 2) / attention.head_dim**0.5 + bias
    causal = torch.ones(len(x), len(x), dtype=torch.bool).tril()
    return scores.masked_fill(~causal, float("-inf")).softmax(-1)

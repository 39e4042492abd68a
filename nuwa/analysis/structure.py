"""How a model sees space, layer by layer: Visual Attention Entropy, Object-Centric Cohesion, text, registers.

Records as in `nuwa.analysis.survey`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from nuwa.analysis.measures import mean_entropy, object_cohesion, text_alignment, top_overlap, visual_attention_entropy
from nuwa.analysis.survey import Record, read_layers, read_tower, record
from nuwa.benchmarks.base import Benchmark
from nuwa.benchmarks.scoring import Box
from nuwa.engine.calls import LayerCall
from nuwa.engine.groups import LAST, TEXT
from nuwa.models.loaded import LoadedModel
from nuwa.models.towers import LayerRun, Recording
from nuwa.pictures.geometry import BoxError, center_patch, in_frame, patches_in_box, view_frames
from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.scores import CHUNK
from nuwa.samples import Sample

ObjectCells = tuple[Tensor, int]
"""The tokens (k,) of a sample's box in one view, and the one at its centre."""


def object_cells(
    loaded: LoadedModel, benchmark: Benchmark, sample: Sample, layout: ImageLayout
) -> list[ObjectCells | str]:
    """The tokens of the sample's box in every view, or why there are none."""
    if sample.task not in benchmark.unit_box_tasks:
        return ["no box"] * len(layout.views)
    found: list[ObjectCells | str] = []
    frames = view_frames(loaded.pictures, sample.images[0].size, len(layout.views))
    for view, frame in zip(layout.views, frames, strict=True):
        try:
            box = in_frame(cast(Box, sample.target), frame)
            found.append((torch.tensor(patches_in_box(view.grid, box)), center_patch(view.grid, box)))
        except BoxError as error:
            found.append(str(error))
    return found


def patches(layout: ImageLayout) -> Tensor:
    """The image's tokens that are patches, in prompt order (no newlines)."""
    return torch.cat([view.tokens for view in layout.views]).sort().values


def llm_entropy(call: LayerCall) -> float:
    """VAE (Eq. 1) of a decoder layer, over all patches of the first image."""
    at = call.places(0, 0)[patches(call.prompt.rows[0][0].layout)]
    parts = [
        visual_attention_entropy(call.rows(query)[0].mean(0)[:, at], first * CHUNK)
        for first, query in enumerate(at.split(CHUNK))
    ]
    return float(mean_entropy(torch.cat(parts)))


def tower_entropy(recording: Recording, run: LayerRun, causal: bool = True) -> float:
    """VAE of a tower layer, mean over the crops of the first image; ``causal`` as Eq. 1 has it."""
    parts = [visual_attention_entropy(rows, first, causal) for first, rows in recording.attention_chunks(run, 0)]
    return float(mean_entropy(torch.cat(parts, 1)).mean())


def spatial_structure(loaded: LoadedModel, benchmark: Benchmark, sample: Sample) -> list[Record]:
    """VAE and OCC of every layer of the LLM and of the tower (``part``), OCC in every view.

    ``vae`` runs over earlier tokens, as Eq. 1; ``vae_all`` of tower layers, which look both ways, over all. ``occ``
    needs a box: a sample without one leaves a record ``no_occ`` per view, with the reason.
    """
    records: list[Record] = []
    layouts: list[ImageLayout] = []

    def note(part: str, layer: int, states: Callable[[Tensor], Tensor], **entropies: float) -> None:
        """Records of a layer, ``states`` giving those of some of the image's tokens."""
        for measure, value in entropies.items():
            records.append(record(sample, layer, value, part=part, measure=measure))
        for number, cells in enumerate(object_cells(loaded, benchmark, sample, layouts[0])):
            if not isinstance(cells, str):
                cohesion = object_cohesion(states(layouts[0].views[number].tokens), *cells)
                records.append(record(sample, layer, cohesion, part=part, measure="occ", view=number))

    def watch_llm(call: LayerCall) -> None:
        layouts[:] = [call.prompt.rows[0][0].layout]
        places = call.places(0, 0)
        note("llm", call.index, lambda tokens: call.output[0, places[tokens]], vae=llm_entropy(call))

    def watch_vision(recording: Recording, run: LayerRun) -> None:
        entropies = {"vae": tower_entropy(recording, run), "vae_all": tower_entropy(recording, run, causal=False)}
        rows = layouts[0].source
        note("tower", run.index, lambda tokens: recording.states(run, 0, rows[tokens]), **entropies)

    read_layers(loaded, sample, watch_llm)
    read_tower(loaded, sample, watch_vision)
    for number, cells in enumerate(object_cells(loaded, benchmark, sample, layouts[0])):
        if isinstance(cells, str):
            records.append(record(sample, None, None, part=None, measure="no_occ", view=number, reason=cells))
    return records


def text_relation(loaded: LoadedModel, benchmark: Benchmark, sample: Sample) -> list[Record]:
    """Cosine of visual tokens with the mean of the text after the image (paper Fig. 8, 9), per layer.

    ``measure``: ``all`` patches; where the sample has a box, also those ``inside`` and ``outside`` of it.
    """
    records: list[Record] = []

    def watch(call: LayerCall) -> None:
        layout, groups = call.prompt.rows[0][0].layout, call.groups()[0]
        places, text = call.places(0, 0), ((groups == TEXT) | (groups == LAST)).nonzero()[:, 0]
        likeness = places.new_full((layout.n_tokens,), float("nan"), dtype=torch.float32)
        tokens = patches(layout)
        likeness[tokens] = text_alignment(call.output[0], places[tokens], text)
        means = {"all": likeness[tokens].mean()}
        inside = torch.zeros(layout.n_tokens, dtype=torch.bool)
        for view, cells in zip(layout.views, object_cells(loaded, benchmark, sample, layout), strict=True):
            if not isinstance(cells, str):
                inside[view.tokens[cells[0]]] = True
        if inside.any():
            means |= {"inside": likeness[inside].mean(), "outside": likeness[~inside].nanmean()}
        records.extend(record(sample, call.index, float(value), measure=name) for name, value in means.items())

    read_layers(loaded, sample, watch)
    return records


def registers(loaded: LoadedModel, sample: Sample, count: int = 3) -> list[Record]:
    """Overlap of the highest-norm visual tokens with those that the text attends to most, per layer (paper, D.1).

    ``measure``: norms of the ``tower``'s features, or of the states that enter the ``llm`` layer. The text is what
    stands after the image; attention is the mean over its tokens and heads.
    """
    tower = read_tower(loaded, sample, lambda recording, run: None)
    records: list[Record] = []

    def watch(call: LayerCall) -> None:
        layout, groups = call.prompt.rows[0][0].layout, call.groups()[0]
        tokens = patches(layout)
        at = call.places(0, 0)[tokens]
        text = ((groups == TEXT) | (groups == LAST)).nonzero()[:, 0]
        attended = call.rows(text)[0].mean((0, 1))[at]
        for name, states in (("tower", tower.features(0, layout.source[tokens])), ("llm", call.hidden[0, at])):
            overlap = top_overlap(states.float().norm(dim=-1), attended, count)
            records.append(record(sample, call.index, overlap, measure=name))

    read_layers(loaded, sample, watch)
    return records

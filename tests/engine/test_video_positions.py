"""Where the tokens of a video stand in time, and what comes behind them: by hand, without hooks, masks or a cache."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.families_qwen import plain_mrope_layer, spread
from helpers.support import Fixed, kept_tokens, survives
from helpers.video_prompts import VIDEO, Clips

import nuwa
from nuwa.engine.guards import SessionError
from nuwa.pruning.budget import Budget

STRATEGIES = ("perc", "pesp", "rpme")
QWENS = ("qwen2_5_vl", "qwen2_vl")


def stock_places(clips, given):
    """The ids (L, 3) that transformers gives the tokens of one prompt."""
    known = {name: x for name, x in given.items() if not name.startswith("pixel")}
    if clips.family.name == "qwen2_vl":
        known.pop("second_per_grid_ts", None)
    return clips.model().model.get_rope_index(**known)[0][:, 0].T.tolist()


def moved(strategy, alive, spans):
    """Ids of entries (place, video, number) that are left: spans are (smallest, largest) of each video on each axis."""
    if strategy == "perc":
        return [(rank,) * 3 for rank in range(len(alive))]
    places = []
    for place, video, _ in alive:
        if video >= 0 and strategy == "rpme":
            low, high = spans[video]
            mine = [[entry[0][axis] - low[axis] for entry in alive if entry[1] == video] for axis in range(3)]
            place = tuple(low[a] + spread(place[a] - low[a], mine[a], high[a] - low[a]) for a in range(3))
        places.append(tuple(place))
    return places


@torch.no_grad()
def decode_by_hand(clips, given, strategy, following, steps=4, stride=3, stages=((2, 2), (4, 3))):
    """Greedy tokens of a prompt in which `Fixed` acts, recomputing everything; ``following``: ids behind the prompt."""
    model, ids = clips.model(), given["input_ids"][0].tolist()
    known = {name: given[name] for name in ("pixel_values_videos", "video_grid_thw")}
    features, lm = model.model.get_video_features(**known).pooler_output, model.model.language_model
    places, entries, vectors, video, number = stock_places(clips, given), [], [], -1, 0
    for at, token in enumerate(ids):
        if token != VIDEO:
            entries.append((places[at], -1, -1))
            vectors.append(lm.embed_tokens(torch.tensor(token)))
            number = 0
            continue
        video += number == 0
        entries.append((places[at], video, number))
        vectors.append(features[video][number])
        number += 1
    every = [[place for place, mine, _ in entries if mine == one] for one in range(video + 1)]
    spans = [tuple(tuple(pick(axis) for axis in zip(*mine, strict=True)) for pick in (min, max)) for mine in every]
    cells = math.prod(clips.grid)
    enters = [one < 0 or which % cells in kept_tokens(cells, stride, 1) for _, one, which in entries]  # frame by frame
    entries = [entry for entry, stays in zip(entries, enters, strict=True) if stays]
    vectors = [vector for vector, stays in zip(vectors, enters, strict=True) if stays]
    tokens, logits = [], []
    for _ in range(steps):
        hidden, alive = torch.stack(vectors), list(entries)
        for layer, module in enumerate(lm.layers):
            for at, stage in stages:
                if layer == at:
                    stay = [i for i, (_, one, which) in enumerate(alive) if one < 0 or survives(which, stride, stage)]
                    hidden, alive = hidden[stay], [alive[i] for i in stay]
            hidden = plain_mrope_layer(lm, module, hidden, moved(strategy, alive, spans))
        logits.append(model.lm_head(lm.norm(hidden[-1])))
        tokens.append(int(logits[-1].argmax()))
        vectors.append(lm.embed_tokens(torch.tensor(tokens[-1])))
        entries.append((tuple(axis + len(tokens) - 1 for axis in following), -1, -1))
    return tokens, torch.stack(logits)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", QWENS)
def test_generated_tokens_against_a_loop_by_hand(name, strategy):
    """`generate` goes on from the last token's ids, though the video's time may be later: so do we."""
    clips = Clips(name, 5)
    given, model = clips.inputs("video"), clips.model()
    places = stock_places(clips, given)
    following = [axis + 1 for axis in places[-1]]
    if name == "qwen2_5_vl":
        assert max(map(max, places)) > following[0]  # a long video, and ids that come twice
    tokens, logits = decode_by_hand(clips, given, strategy, following)
    options = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad(), nuwa.prune(model, Fixed(3, (2, 4)), strategy):
        out = model.generate(**given, **options)
    torch.testing.assert_close(torch.cat(out.logits), logits, atol=5e-6, rtol=0)
    assert out.sequences[0, -4:].tolist() == tokens


@pytest.mark.parametrize("strategy", STRATEGIES)
@torch.no_grad()
def test_a_manual_loop_goes_on_behind_the_largest_id(strategy):
    """Called with a cache and without ids, the model counts on from the largest id of all axes: so do we."""
    clips = Clips("qwen2_5_vl", 5)
    given, model = clips.inputs("two"), clips.model()
    largest = max(map(max, stock_places(clips, given)))
    expected, _ = decode_by_hand(clips, given, strategy, (largest + 1,) * 3)
    with nuwa.prune(model, Fixed(3, (2, 4)), strategy):
        out, tokens = model(**given), []
        for _ in expected:
            tokens.append(int(out.logits[0, -1].argmax()))
            out = model(input_ids=torch.tensor([tokens[-1:]]), cache=out.cache)
    assert tokens == expected


@pytest.mark.parametrize("name", QWENS)
def test_rpme_1d_is_refused_where_time_jumps(name):
    clips, jumps = Clips(name), name == "qwen2_5_vl"
    model, given = clips.model(), clips.inputs("video")
    with torch.no_grad(), nuwa.prune(model, Fixed(3), "rpme_1d") as session:
        if jumps:
            with pytest.raises(SessionError, match=r"rpme_1d numbers the 18 tokens of .* use position=rpme"):
                model(**given)
        else:
            model(**given)
            assert session.report().images_seen == 1


@pytest.mark.parametrize("name", ["llava_onevision", *QWENS])
@torch.no_grad()
def test_frames_in_another_order(name):
    """Kept tokens are those of the frames wherever these stand; what the model says of them depends on the order."""
    clips, pruner = Clips(name), nuwa.load_pruner("visionzip", budget=Budget(ratio=0.5))
    there, cells = clips.inputs("video"), math.prod(clips.grid)
    back = dict(there)
    frames = there["pixel_values_videos"]
    back["pixel_values_videos"] = (
        frames.unflatten(0, (clips.frames, -1)).flip(0).flatten(0, 1) if clips.packed else frames.flip(1)
    )
    kept, logits = [], []
    for given in (there, back):
        with nuwa.prune(clips.model(), pruner) as session:
            logits.append(clips.model()(**given).logits[0, -1])
        (_, tokens, _), *_ = session.report().images[0].stages
        kept.append([[t % cells for t in tokens if t // cells == frame] for frame in range(clips.frames)])
    assert kept[1] == kept[0][::-1] and kept[0] != kept[0][::-1]
    assert (logits[0] - logits[1]).abs().max() > 1e-3

"""Contact sheets: what is drawn of a video lies where independent arithmetic says."""

import numpy as np
import pytest
import torch
from helpers.families_toy import toy
from PIL import Image, ImageColor

from nuwa import load_pruner, prune
from nuwa.pictures.canvas import GAP, KEPT, MOVED
from nuwa.pictures.sheets import (
    BAR,
    BETWEEN,
    MOST_FRAMES,
    contact_sheet,
    frame_image,
    merged_colours,
    stage_caption,
    stage_strip,
)
from nuwa.pictures.text import LINE_HEIGHT, Phrase
from nuwa.pictures.traces import ImageTrace, StageTrace, VideoTrace, trace_decisions, video_trace
from nuwa.pruning.budget import Budget
from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.prompt import ImagePlan
from nuwa.pruning.schedules import Schedule
from nuwa.samples import Sample, Video

GREEN = (40, 160, 60)


def video(frames, size=(60, 40)):
    return Video(tuple(Image.new("RGB", size, GREEN) for _ in range(frames)), tuple(0.5 * n for n in range(frames)))


def trace_of(frames=3, **changed):
    """Frames of 2 x 3 cells: token 0 stays, 1 took in 7 and 13, 2 and 8 are alone, all else is gone."""
    cells = [list(range(6 * n, 6 * n + 6)) for n in range(frames)]
    into = [-1] * (6 * frames)
    for token in (0, 1, 2, 8):
        into[token] = token
    into[7] = into[13] = 1
    stages = [StageTrace(0, [0, 1, 2, 8], {}), StageTrace(4, [1, 8], {})]
    shown = video(frames)
    cuts = [0, 0, *[1] * (frames - 2)]
    fields = {"stages": stages, "into": into, "segments": cuts, "scores": [{}] * frames} | changed
    return VideoTrace(shown, list(shown.frames), list(shown.times), (2, 3), cells, **fields)


def middle(image, cell, side=56):
    row, column = divmod(cell, 3)
    return image.getpixel((column * side + side // 2, row * side + side // 2))


def test_cells_are_kept_faded_or_in_the_colour_of_their_token():
    trace = trace_of()
    colours = merged_colours(trace)
    assert list(colours) == [1]
    tint = np.array(ImageColor.getrgb(colours[1]))
    frames = [frame_image(trace, frame, 0, colours) for frame in range(3)]
    faded = middle(frames[0], 5)
    assert frames[0].size == (168, 112) and faded != GREEN
    assert middle(frames[0], 0) == middle(frames[0], 2) == middle(frames[1], 2) == GREEN
    assert np.allclose(middle(frames[0], 1), (tint + GREEN) / 2, atol=1)
    for frame in (1, 2):  # dropped themselves, they live on in token 1
        assert np.allclose(middle(frames[frame], 1), (tint + faded) / 2, atol=1)
        assert middle(frames[frame], 5) == faded
    assert frames[0].getpixel((0, 0)) == ImageColor.getrgb(KEPT) and frames[0].getpixel((56, 0)) == tuple(tint)
    later = [frame_image(trace, frame, 1, colours) for frame in range(3)]
    assert middle(later[0], 0) == middle(later[0], 2) == faded and middle(later[1], 2) == GREEN
    assert middle(later[2], 1) == middle(frames[2], 1)


def test_bars_say_how_many_tokens_and_cuts_where_segments_end():
    trace = trace_of()
    assert [trace.counts(number) for number in (0, 1)] == [[3, 1, 0], [1, 1, 0]]
    assert stage_caption(trace, 0) == "enters layer 0: 4 of 18 tokens, of 2 of 3 frames"
    strip = np.asarray(stage_strip(trace, range(3), 0, {}))
    under = strip[112 + GAP : 112 + GAP + BAR]
    bars = [(under[:, (168 + BETWEEN) * n + 84] == ImageColor.getrgb(KEPT)).all(1).sum() for n in range(3)]
    assert bars == [BAR // 2, -(-BAR // 6), 0]
    cut = (strip == ImageColor.getrgb(MOVED)).all(2).all(0).nonzero()[0]
    assert cut.tolist() == list(range(2 * (168 + BETWEEN) - 8, 2 * (168 + BETWEEN) - 4))
    uncut = np.asarray(stage_strip(trace_of(segments=None), range(3), 0, {}))
    assert not (uncut == ImageColor.getrgb(MOVED)).all(2).any()


@pytest.mark.parametrize("frames", [1, 3, 16, 40])
def test_a_sheet_has_at_most_sixteen_frames(frames):
    plan = ImagePlan("v", ImageLayout.single((2, 3), frames), Schedule(6 * frames))
    sheet = contact_sheet(video_trace(video(frames), plan, [StageTrace(0, [0, 1], {})]), [[Phrase("title")]])
    assert sheet.width == max(min(frames, MOST_FRAMES) * (168 + BETWEEN) - BETWEEN, 4 * 168)
    assert sheet.height > 2 * 112 + BAR + 4 * LINE_HEIGHT


def test_a_sample_with_a_picture_and_a_video():
    """Traced by a session; what stays is what the report says of the video."""
    loaded, clip = toy("llava_onevision", weights_boost=3.0), video(5)
    sample = Sample("one", "vqa", (clip.frames[0],), "what happens?", "nothing", videos=(clip,))
    with prune(loaded.model, load_pruner("temporal_pool", Budget(ratio=0.4))) as session:
        picture, traced = trace_decisions(session, loaded, sample)
        report = session.report().images[1]
    assert isinstance(picture, ImageTrace) and isinstance(traced, VideoTrace)
    assert traced.stages[0].kept == report.stages[0][1] and traced.frames == list(clip.frames)
    cells = len(traced.cells[0])
    assert (traced.counts(0), traced.segments) == ([cells, 0, 0, cells, 0], [0, 0, 1, 1, 1])
    assert [traced.into[cells * frame] for frame in range(5)] == [0, 0, *[3 * cells] * 3]
    assert contact_sheet(traced, []).width == 5 * (168 + BETWEEN) - BETWEEN


def test_a_plan_and_a_video_become_a_trace():
    """Two frames of a video in one of tokens, as Qwen reads them: the first is shown, and a last one alone."""
    layout = ImageLayout.single((2, 3), frames=2)
    members = torch.full((12,), -1).index_fill(0, torch.tensor([0, 6]), 0)
    plan = ImagePlan("v", layout, Schedule(1), members=members, extras={"segment": torch.arange(12) // 6})
    trace = video_trace(video(3), plan, [])
    assert (trace.times, trace.grid, trace.segments) == ([0.0, 1.0], (2, 3), [0, 1])
    assert trace.cells[1] == list(range(6, 12)) and trace.into == members.tolist()

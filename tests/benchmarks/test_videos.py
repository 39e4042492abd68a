"""Videos to frames: every frame shows its own number, so that the right ones at the right times can be told."""

import math
import multiprocessing
import resource
import struct
import sys
from fractions import Fraction
from itertools import repeat

import numpy as np
import pytest
from helpers.videos import number_of, numbered, write_video
from PIL import Image

from nuwa.benchmarks import videos
from nuwa.benchmarks.base import BenchmarkError
from nuwa.benchmarks.frames import frame_indices
from nuwa.benchmarks.local import Local
from nuwa.benchmarks.videos import find_video, read_video
from nuwa.samples import PassingError, SampleError
from nuwa.schema import FramesConfig

FIVE = FramesConfig(5)
GROUPS = {"g": "40"}
OPEN = {"x264-params": "open-gop=1:scenecut=0:log-level=none"}
KINDS = [
    ("a.mp4", "libx264", {"g": "40", "bf": "3"}), ("b.mp4", "libx264", GROUPS | OPEN), ("c.mkv", "libx264", GROUPS),
    ("d.webm", "libvpx-vp9", GROUPS | {"deadline": "realtime"}), ("e.ts", "libx264", GROUPS),
    ("f.avi", "mpeg4", GROUPS), ("g.avi", "libx264", GROUPS), ("h.mov", "mjpeg", {}), ("i.flv", "flv1", GROUPS),
    ("j.mpg", "mpeg2video", {}), ("k.gif", "gif", {}), ("l.MP4", "libx264", {}),
]  # fmt: skip
FRAMES, RATE = 250, 25


def shown(video):
    """The numbers on the frames of a video."""
    return [number_of(frame) for frame in video.frames]


def refused(folder, name, kind=SampleError):
    """Why a video cannot be read."""
    with pytest.raises(kind) as caught:
        read_video(folder, name, FIVE)
    message = str(caught.value)
    assert type(caught.value) is kind and message.startswith("video ") and name in message.replace("\\x00", "\0")
    return message


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """An mp4 of 200 frames whose head comes first, as the web has them."""
    return write_video(tmp_path_factory.mktemp("good") / "good.mp4", 200, movflags="faststart")


# which frames


@pytest.mark.parametrize("total", [1, 2, 5, 31, 32, 33, 300, 108_000])
def test_which_frames(total):
    evenly = frame_indices(total, 30.0, FramesConfig(32))
    assert evenly == [math.floor(k * (total - 1) / 31 + 1e-9) for k in range(32)]
    assert (evenly[0], evenly[-1], len(evenly)) == (0, total - 1, 32)
    assert frame_indices(total, 30.0, FramesConfig(32, spacing="arange")) == [k * total // 32 for k in range(32)]
    by_time = frame_indices(total, 30.0, FramesConfig(32, fps=2.0))
    assert sorted(set(by_time)) == by_time and by_time[0] == 0 and by_time[-1] == (total - 1 if total > 1 else 0)
    assert len(by_time) == {1: 1, 2: 2, 5: 4, 31: 4, 32: 4, 33: 4, 300: 20, 108_000: 32}[total]


def test_no_frames_of_nothing():
    assert frame_indices(0, 30.0, FIVE) == []


# files


@pytest.mark.parametrize(("name", "codec", "options"), KINDS)
def test_the_wanted_frames_at_their_times(name, codec, options, tmp_path):
    write_video(tmp_path / name, FRAMES, RATE, codec, **options)
    video = read_video(tmp_path, name, FIVE)
    assert shown(video) == [0, 62, 124, 186, 249] and video.note == ""
    slack = (
        0.1 if name == "g.avi" else 0.02
    )  # AVI has no times of its own, and this one's frames are stored out of order
    assert video.times == pytest.approx([number / RATE for number in shown(video)], abs=slack)
    assert video.frames[0].size == (64, 64) and video.frames[0].mode == "RGB"
    assert np.abs(np.asarray(video.frames[2], float) - np.asarray(numbered(124), float)).mean() < 20


def test_times_may_be_constant(good):
    video = read_video(good.parent, good.name, FramesConfig(5, time="constant"))
    assert video.times == (0.0, 0.5, 1.0, 1.5, 2.0) and shown(video) == [0, 49, 99, 149, 199]
    video = read_video(good.parent, good.name, FramesConfig(32, fps=1.0))
    assert shown(video) == [0, 40, 80, 119, 159, 199] and video.times[1] == pytest.approx(40 / 30)


def test_frames_with_uneven_times_keep_them(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = 64
        for number in range(10):
            frame = av.VideoFrame.from_image(numbered(number))
            frame.pts, frame.time_base = number**2, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = read_video(tmp_path, "a.mp4", FramesConfig(4))
    assert shown(video) == [0, 3, 6, 9] and video.times == pytest.approx([0, 9 / 30, 36 / 30, 81 / 30], abs=1e-3)


def test_a_video_of_one_frame(tmp_path):
    write_video(tmp_path / "a.mp4", 1)
    video = read_video(tmp_path, "a.mp4", FIVE)
    assert shown(video) == [0] * 5 and video.times == (0.0,) * 5 and video.note == ""


def test_phones_turn_their_videos(good, tmp_path):
    """The head says by which matrix: here a quarter clockwise, and what was up is on the right."""
    content = bytearray(good.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 64 << 16, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    frame = read_video(tmp_path, "turned.mp4", FIVE).frames[3]
    upright = np.asarray(numbered(149).transpose(Image.Transpose.ROTATE_270), float)
    assert np.abs(np.asarray(frame, float) - upright).mean() < 5


# damage


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9"), ("a.mkv", "libx264")])
def test_a_file_that_ends_early_gives_its_frames_and_says_so(name, codec, tmp_path):
    content = write_video(tmp_path / name, 200, codec=codec, **({"movflags": "faststart"} if "mp4" in name else {}))
    (tmp_path / f"cut-{name}").write_bytes(content.read_bytes()[: content.stat().st_size * 2 // 3])
    video = read_video(tmp_path, f"cut-{name}", FIVE)
    there = shown(video)[-1] + 1
    assert 20 < there < 180 and shown(video) == np.linspace(0, there - 1, 5, dtype=int).tolist()
    assert video.note == f"video cut-{name}: {there} of 200 promised frames"


def test_a_damaged_file_gives_the_frames_before(good, tmp_path):
    content = bytearray(good.read_bytes())
    start = content.index(b"mdat") + len(content) // 3
    content[start : start + 600] = np.random.default_rng(0).bytes(600)
    (tmp_path / "a.mp4").write_bytes(content)
    video = read_video(tmp_path, "a.mp4", FIVE)
    there = shown(video)[-1] + 1
    assert shown(video) == np.linspace(0, there - 1, 5, dtype=int).tolist()
    assert video.note == f"video a.mp4: {there} of 200 promised frames"


def test_what_is_no_video_is_refused(good, tmp_path):
    import av

    whole = write_video(tmp_path / "whole.mp4", 50).read_bytes()
    files = {
        "text.mp4": b"hello\n" * 99, "empty.mp4": b"", "head.mp4": good.read_bytes()[:2000],
        "lost.mp4": whole[: len(whole) // 2], "list.mp4": b"ffconcat version 1.0\nfile whole.mp4\n",
        "list.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.mp4\n#EXT-X-ENDLIST\n",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert "cannot be read: it " in refused(tmp_path, name), name
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="flt", layout="mono")
        sound.sample_rate = 16_000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert "it holds no video" in refused(tmp_path, "sound.mp4")
    with av.open(str(tmp_path / "none.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = 64
        container.start_encoding()
    assert "it holds no video" in refused(tmp_path, "none.mp4")
    (tmp_path / "right.avi").write_bytes(whole)  # what is inside counts, not the ending
    assert shown(read_video(tmp_path, "right.avi", FIVE)) == [0, 12, 24, 36, 49]


def test_where_a_video_may_lie(good, tmp_path):
    assert "does not exist" in refused(tmp_path, "away.mp4", PassingError)
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "a.mp4").write_bytes(good.read_bytes())
    assert "leads outside the folder" in refused(inside, "../a.mp4")
    assert "can be no file" in refused(inside, "a\0.mp4")


def test_a_copy_may_have_another_ending(tmp_path):
    for name in ("videos/a.MP4", "b.mkv", "videos/c.x.mp4", "c.x.MP4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "videos/d").mkdir()
    found = [find_video(tmp_path, f"{name}.mp4", ("videos", "")) for name in ("a", "b", "c.x", "d", "e")]
    assert found == ["videos/a.MP4", "b.mkv", "videos/c.x.mp4", "videos/d", "videos/e.mp4"]


def test_without_the_decoder_the_extra_is_named(monkeypatch, good):
    monkeypatch.setitem(sys.modules, "av", None)
    videos._read.cache_clear()
    with pytest.raises(BenchmarkError, match=r"pip install 'nuwa-vlm\[video\]'"):
        read_video(good.parent, good.name, FIVE)


# folders of frames


def test_a_folder_of_frames_in_natural_order(tmp_path):
    (tmp_path / "clip").mkdir()
    for number in range(12):
        numbered(number).save(tmp_path / f"clip/frame_{number}.png")
    (tmp_path / "clip/notes.txt").touch()
    told = read_video(tmp_path, "clip", FIVE, rate=3.0)
    assert shown(told) == [0, 2, 5, 8, 11] and told.times == pytest.approx([0, 2 / 3, 5 / 3, 8 / 3, 11 / 3])
    assert told.note == ""
    untold = read_video(tmp_path, "clip", FIVE)
    assert untold.times == (0.0, 1.0, 2.5, 4.0, 5.5) and "taken for 2 frames a second" in untold.note
    assert read_video(tmp_path, "clip", FramesConfig(5, time="constant")).note == ""
    (tmp_path / "bare").mkdir()
    assert "a folder without pictures" in refused(tmp_path, "bare")
    (tmp_path / "clip/frame_5.png").write_bytes(b"no picture")
    with pytest.raises(SampleError, match=r"image frame_5\.png cannot be read"):
        read_video(tmp_path, "clip", FramesConfig(12))


# cost


def test_a_video_is_decoded_once_until_it_changes(good, tmp_path, monkeypatch):
    opened = []
    decode = videos.decode
    monkeypatch.setattr(videos, "decode", lambda *given: opened.append(given) or decode(*given))
    file = tmp_path / "a.mp4"
    file.write_bytes(good.read_bytes())
    rows = [{"video": "a.mp4", "question": f"{k}?", "answer": "yes"} for k in range(3)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(str, rows)).replace("'", '"'))
    first, second, third = Local(str(tmp_path), frames=FIVE)
    assert len(opened) == 1 and first.videos[0] is second.videos[0] is third.videos[0]
    read_video(tmp_path, "a.mp4", FramesConfig(4))
    assert len(opened) == 2
    write_video(file, 9)
    assert shown(read_video(tmp_path, "a.mp4", FIVE)) == [0, 2, 4, 6, 8] and len(opened) == 3


def grown_by_reading(folder, sender):
    """Send the megabytes by which this process's largest memory grows while it reads a video."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    frames = read_video(folder, "long.mp4", FramesConfig(8)).frames
    sender.send((len(frames), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024))


def test_memory_does_not_grow_with_length(tmp_path):
    """300 frames of 640 x 480 are 276 MB; decoding the eight that are wanted takes a fraction of it."""
    frames = repeat(Image.new("RGB", (640, 480), "navy"), 300)
    write_video(tmp_path / "long.mp4", frames, preset="ultrafast", g="300")
    processes = multiprocessing.get_context("fork")  # a new interpreter would import torch first
    receiver, sender = processes.Pipe(duplex=False)
    reading = processes.Process(target=grown_by_reading, args=(tmp_path, sender))
    reading.start()
    sender.close()
    count, megabytes = receiver.recv()
    reading.join()
    assert count == 8 and megabytes < 90

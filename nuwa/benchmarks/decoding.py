"""Frames of a video file by number, through PyAV.

Only wanted frames are converted and held, so that memory does not grow with a video's length. All packets are looked at
first, which decodes nothing: files without a count of frames (webm) have one then, and keyframes can be jumped to.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nuwa.benchmarks.base import BenchmarkError
from nuwa.benchmarks.frames import ASSUMED_RATE, frame_indices
from nuwa.schema import FramesConfig

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif"
"""What files are opened as. FFmpeg's other demuxers (playlists, scripts) open further files or addresses."""
JUMP_FROM = 24
"""Frames from which on jumping to a keyframe is cheaper than decoding on."""
Shown = tuple[Image.Image, float | None]
"""A frame, upright, and its time in the file in seconds, if it has one."""


@dataclass(frozen=True)
class Contents:
    """What a file's packets say before any is decoded.

    ``times`` of its frames in the order of showing, in the stream's unit, None if they cannot be told; ``keys``: the
    numbers of frames that can be jumped to; ``places``: where; ``rate``: frames a second; ``promised``: how many frames
    the file's head announces.
    """

    total: int
    times: list[int] | None
    keys: list[int]
    places: list[int]
    rate: float
    promised: int


def require_decoder() -> Any:
    """The package ``av``, which comes with the extra ``video``; a BenchmarkError if it is not there."""
    try:
        import av
    except ImportError as error:
        raise BenchmarkError("videos need the package av: pip install 'nuwa-vlm[video]'") from error
    return av


def decode(file: Path, options: FramesConfig) -> tuple[list[Image.Image], list[float], str]:
    """The wanted frames of a file, their times in seconds from its first frame, and what is wrong with it, if anything.

    Of a file that ends early or is damaged these are taken from the frames before.

    Raises:
        ValueError, OSError: it is no video, or no frame of it can be decoded.
    """
    contents = look_through(file)
    total, rate = contents.total, contents.rate
    found = decoded(file, indices := frame_indices(total, rate, options), contents)
    if len(found) < len(set(indices)):
        total = countable(file)
        found = decoded(file, indices := frame_indices(total, rate, options), None)
    if not found:
        raise ValueError(f"not one of {contents.promised} promised frames can be decoded")
    frames, moments = zip(*(found[number] for number in indices), strict=True)
    if contents.times is None or None in moments:
        moments = tuple(number / rate for number in indices)
    note = f"{total} of {contents.promised} promised frames" if total < contents.promised else ""
    return list(frames), [at - moments[0] for at in moments], note


def look_through(file: Path) -> Contents:
    """Read all packets of a file's video."""
    with _opened(file) as (av, container, stream):
        packets = []
        with suppress(av.error.InvalidDataError):  # cut off within a packet
            for packet in container.demux(stream):
                if packet.size:
                    packets.append((packet.pts, packet.dts, packet.is_keyframe))
        rate = float(stream.average_rate or stream.guessed_rate or ASSUMED_RATE)
        length = (container.duration or 0) / av.time_base
        total, promised = len(packets), stream.frames or round(rate * length)
        if not stream.frames and promised - total <= rate:  # the length is that of the sound, too
            promised = total
        makes_up_times = "avi" in container.format.name  # in the order of storing
    times = sorted(shown for shown, _, _ in packets if shown is not None)
    if makes_up_times or len(set(times)) < total:
        return Contents(total, None, [], [], rate, max(promised, total))
    keys = sorted((bisect_left(times, shown), shown if at is None else at) for shown, at, key in packets if key)
    numbers, places = [number for number, _ in keys], [place for _, place in keys]
    return Contents(total, times, numbers, places, rate, max(promised, total))


def decoded(file: Path, indices: Sequence[int], contents: Contents | None) -> dict[int, Shown]:
    """Frames of a file by number, up to its end, the first damage, or the first that is not where it should be.

    With ``contents`` keyframes are jumped to, after which frames are numbered by their times, and threads may decode.
    """
    found: dict[int, Shown] = {}
    with _opened(file, threads=0 if contents else 1) as (av, container, stream), suppress(av.error.InvalidDataError):
        number, times, frames = -1, None, container.decode(stream)
        for wanted in sorted(set(indices)):
            key = bisect_right(contents.keys, wanted) - 1 if contents else -1
            if contents and key >= 0 and contents.keys[key] > number + JUMP_FROM:
                container.seek(contents.places[key], stream=stream)
                frames = container.decode(stream)
                times = contents.times
            for frame in frames:
                number = number + 1 if times is None else _place(times, frame.pts)
                if number >= wanted:
                    break
            if number != wanted:
                break
            found[wanted] = frame.to_image().rotate(frame.rotation, expand=True), frame.time
    return found


def countable(file: Path) -> int:
    """How many frames of a file can be decoded, from the first up to the first damage."""
    count = 0
    with _opened(file, threads=1) as (av, container, stream), suppress(av.error.InvalidDataError):
        for _ in container.decode(stream):
            count += 1
    return count


def _place(times: Sequence[int], time: int | None) -> int:
    """The number of the frame with this time; beyond the last if there is none."""
    place = len(times) if time is None else bisect_left(times, time)
    return place if place < len(times) and times[place] == time else len(times)


@contextmanager
def _opened(file: Path, threads: int = 0) -> Iterator[tuple[Any, Any, Any]]:
    """PyAV, the open file and its video; ``threads`` decode it (0: as many as FFmpeg likes).

    Raises:
        ValueError: it holds no video; a cover picture is none.
    """
    av = require_decoder()
    try:
        container = av.open(str(file), options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"})
    except (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError) as error:
        raise ValueError(f"it is no whole file of {CONTAINERS.replace(',', ', ')}") from error
    with container:
        cover = av.stream.Disposition.attached_pic
        videos = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not videos:
            raise ValueError("it holds no video, or ends before it says where")
        videos[0].thread_type = "AUTO"
        videos[0].thread_count = threads
        yield av, container, videos[0]

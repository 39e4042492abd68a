"""Videos of a data set, files or folders of pictures, to the frames that are wanted of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path

from nuwa.benchmarks.decoding import decode, require_decoder
from nuwa.benchmarks.frames import ASSUMED_RATE, frame_indices, told_times
from nuwa.benchmarks.images import decoding_of, located, read_image
from nuwa.samples import SampleError, Video
from nuwa.schema import FramesConfig

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
SUFFIXES = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov", "")
"""Endings that a copy of a video may have instead of the one that data name; "" is a folder of its frames."""
HELD = 2
"""Videos whose frames stay in memory for the next questions about them."""


def read_video(folder: Path, name: str, options: FramesConfig, rate: float | None = None) -> Video:
    """The wanted frames of a video inside ``folder``: a file, or a folder of pictures in the order of their names.

    Times count from the first frame. A folder of pictures has ``rate`` frames a second (None: `ASSUMED_RATE`, which the
    video notes). The last few videos stay in memory until their file changes.

    Raises:
        SampleError: it is outside the folder, or not a single frame of it can be had; or its name can be no file's.
        PassingError: it is missing, or the disk fails.
        BenchmarkError: it is a file, and PyAV is not installed.
    """
    place = located(folder, name, "video")
    state = place.stat()
    return _read(place, name, (state.st_size, state.st_mtime_ns), astuple(options), rate)


def find_video(folder: Path, name: str, inside: Sequence[str]) -> str:
    """What a video is called in ``folder``: its name, or one with another ending, below one of the places ``inside``.

    Where it is nowhere, the name below the first place.
    """
    named = [f"{place}/{name}".lstrip("/") for place in inside]
    others = [str(Path(one).with_suffix(end)) for one in named for end in SUFFIXES]
    return next((one for one in (*named, *others) if (folder / one).exists()), named[0])


@lru_cache(maxsize=HELD)
def _read(place: Path, name: str, version: tuple[int, int], options: tuple, rate: float | None) -> Video:
    """The wanted frames of one ``version`` of a video."""
    wanted = FramesConfig(*options)
    if place.is_dir():
        return _in_folder(place, name, wanted, rate)
    require_decoder()
    with decoding_of(f"video {name}"):
        frames, times, note = decode(place, wanted)
    return Video(tuple(frames), told_times(times, wanted), note and f"video {name}: {note}")


def _in_folder(place: Path, name: str, options: FramesConfig, rate: float | None) -> Video:
    """The wanted pictures of a folder."""
    files = [file.name for file in place.iterdir() if file.suffix.lower() in PICTURES]
    if not files:
        raise SampleError(f"video {name} is a folder without pictures ({', '.join(PICTURES)})")
    files.sort(key=_natural)
    assumed = rate is None and options.time == "absolute"
    note = f"video {name}: a folder of pictures, taken for {ASSUMED_RATE:g} frames a second" if assumed else ""
    rate = rate or ASSUMED_RATE
    indices = frame_indices(len(files), rate, options)
    pictures = {number: read_image(place, files[number]) for number in dict.fromkeys(indices)}
    frames = tuple(pictures[number] for number in indices)
    return Video(frames, told_times([number / rate for number in indices], options), note)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which ``2.jpg`` stands before ``10.jpg``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

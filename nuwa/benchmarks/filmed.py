"""What data sets of videos share: rows that name a video, which somebody has fetched into a folder."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from nuwa.benchmarks.base import BenchmarkError, Doc
from nuwa.benchmarks.decoding import require_decoder
from nuwa.benchmarks.hub import HubBenchmark
from nuwa.benchmarks.videos import find_video, read_video
from nuwa.samples import Video
from nuwa.schema import FramesConfig


@dataclass(kw_only=True, eq=False)
class VideoBenchmark(HubBenchmark):
    """Rows with one video each.

    Args:
        videos_folder: where the videos lie; None: the folder of ``path``.
        frames: which of a video's frames are taken.
    """

    videos_folder: str | None = None
    frames: FramesConfig = field(default_factory=FramesConfig)

    pictures: ClassVar = ()
    inside: ClassVar[tuple[str, ...]] = ("videos", "")
    """Where below the folder of videos they may lie, the place in which the archives unpack first."""

    def __post_init__(self) -> None:
        require_decoder()
        self.folder = self._folder()
        super().__post_init__()

    @abstractmethod
    def video_name(self, doc: Doc) -> str:
        """The name of a row's video; a copy may have another ending."""

    def rate(self, doc: Doc) -> float | None:
        """Frames a second of a row's video, where it is a folder of frames."""
        return None

    def videos(self, doc: Doc) -> tuple[Video, ...]:
        name = find_video(self.folder, self.video_name(doc), self.inside)
        return (read_video(self.folder, name, self.frames, self.rate(doc)),)

    def _folder(self) -> Path:
        given = self.videos_folder or self.path
        if given is None:
            raise BenchmarkError(
                f"dataset.videos_folder is not set: rows of {self.name} only name their videos, which are fetched by "
                f"hand (docs/running.md); give the folder in which they lie"
            )
        place = Path(given).expanduser()
        folder = place.parent if self.videos_folder is None and place.is_file() else place
        if not folder.is_dir():
            key = "path" if self.videos_folder is None else "videos_folder"
            raise BenchmarkError(f"dataset.{key}={given}: there is no such folder")
        return folder

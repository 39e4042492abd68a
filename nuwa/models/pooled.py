"""Videos of LLaVA's families: the tower sees frame by frame, and pooling makes a coarser grid of each frame.

Whatever is read off the tower is pooled as the model pools features, and not normalised again.

Shape letters: M videos, F frames, S side of a frame in pixels, N patches of a frame, D values of a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from nuwa.models.crops import CropRecording
from nuwa.models.llava import Llava
from nuwa.pruning.layout import Grid, ImageLayout


@dataclass(eq=False, repr=False)
class FrameRecording(CropRecording):
    """A recording whose rows are those of pooled frames, ``cells`` of each; ``pool`` makes (F, cells, D) of (F, N, D).

    Features are taken behind the projector, where pooling follows that.
    """

    pool: Callable[[Tensor], Tensor]
    cells: int

    def features(self, image: int, rows: Tensor) -> Tensor:
        return self.rows(self._features["projected"], image, rows)

    def rows(self, values: Tensor, image: int, rows: Tensor) -> Tensor:
        first, last = (int(row) // self.cells for row in (rows.min(), rows.max()))
        mine = values[self.crops[image]][first : last + 1]
        pooled = self.pool(mine.flatten(2) if mine.dim() > 2 else mine[..., None]).flatten(0, 1)
        return pooled[(rows - first * self.cells).to(pooled.device)].view(len(rows), *values.shape[2:])

    def _leave_reader(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        super()._leave_reader(module, inputs, output)
        self._features["projected"] = output


class FramesOfVideos(Llava):
    """What families share whose videos are ``pixel_values_videos`` (M, F, 3, S, S), all of a call as long."""

    kind = "video"
    recording: ClassVar[type[FrameRecording]] = FrameRecording

    def frames(self, arguments: Mapping[str, Any]) -> int:
        """Frames F of every video of a call."""
        return arguments[self.pixels_at].shape[1]

    def crops(self, arguments: Mapping[str, Any]) -> list[int]:
        """Every frame is one crop."""
        return [self.frames(arguments)] * len(arguments[self.pixels_at])

    def pixels(self, arguments: Mapping[str, Any]) -> Sequence[Tensor]:
        return arguments[self.pixels_at]

    def sizes(self, arguments: Mapping[str, Any]) -> Sequence[Grid]:
        return [self.square for _ in self.pixels(arguments)]

    def select_images(self, arguments: Mapping[str, Any], images: Sequence[int]) -> dict[str, Any]:
        return {**arguments, self.pixels_at: arguments[self.pixels_at][list(images)]}

    def pool(self, frames: Tensor) -> Tensor:
        """Frames (F, N, D) as the model pools their features: (F, cells, D)."""
        raise NotImplementedError

    @property
    def pooled(self) -> Grid:
        """The grid of a frame's tokens."""
        raise NotImplementedError

    def layout(self, frames: int) -> ImageLayout:
        """The layout of a video."""
        return ImageLayout.single(self.pooled, frames)

    def layouts(self, images: Sequence[Tensor], arguments: Mapping[str, Any]) -> list[ImageLayout]:
        return [self.layout(self.frames(arguments)) for _ in images]

    def new_recording(self, arguments: Mapping[str, Any]) -> FrameRecording:
        parts = self.tower_layers, self.projector, self.feature_layer, self.crops(arguments)
        return self.recording(*parts, self.pool, self.pooled[0] * self.pooled[1], cls=self.tower.cls)

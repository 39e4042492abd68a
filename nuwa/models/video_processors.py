"""Videos as each family's vision tower takes them, and the text that stands for them in a prompt.

transformers' own video processors need torchvision; these need PIL alone. Shape letters: M videos, F frames, S side of
a square, T pairs of frames, P patches of all videos, D values of a patch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from nuwa.models.processors import PictureProcessor, Size, smart_size
from nuwa.pruning.layout import ImageLayout
from nuwa.samples import SampleError, Video, to_rgb


def pixel_values(frames: Sequence[Image.Image], pil: Any) -> Tensor:
    """Frames of one size as pixel values (F, 3, H, W), by the mean and deviation of a picture processor ``pil``."""
    bytes_ = torch.stack([torch.frombuffer(bytearray(frame.tobytes()), dtype=torch.uint8) for frame in frames])
    width, height = frames[0].size
    values = bytes_.view(len(frames), height, width, 3).permute(0, 3, 1, 2).float() * pil.rescale_factor
    mean, deviation = (torch.tensor(x).view(-1, 1, 1) for x in (pil.image_mean, pil.image_std))
    return (values - mean) / deviation


class VideoProcessor(ABC):
    """Turns videos into the inputs of one family, with the settings of what does so with ``pictures``.

    ``wrapped``: what a prompt puts around a picture it puts around a video.
    """

    wrapped: ClassVar[bool] = True

    def __init__(self, pictures: PictureProcessor, placeholder: str) -> None:
        self.pil, self.placeholder = pictures.pil, placeholder

    def check(self, video: Video) -> None:
        """Refuse a video that the tower cannot take.

        Raises:
            SampleError: it has no frames, or they have no pixels, several sizes, or not a time each.
        """
        sizes = {frame.size for frame in video.frames}
        if len(sizes) != 1 or 0 in next(iter(sizes)):
            found = ", ".join(f"{width} x {height}" for width, height in sorted(sizes)) or "none"
            raise SampleError(f"frames of a video must have one size, in pixels, but these have: {found}")
        if len(video.times) != len(video.frames):
            raise SampleError(f"a video of {len(video.frames)} frames has {len(video.times)} times")

    def encode(self, videos: Sequence[Video]) -> dict[str, Tensor]:
        """Inputs of ``get_video_features`` for M videos, and what else the model wants to know of them.

        Raises:
            SampleError: videos that cannot stand in one batch.
        """
        made: dict[int, Tensor] = {}
        for video in videos:  # several questions may be about one
            if id(video) not in made:
                made[id(video)] = self.pixels(video)
        return self.collate(videos, [made[id(video)] for video in videos])

    @abstractmethod
    def pixels(self, video: Video) -> Tensor:
        """The pixel values of one video."""

    @abstractmethod
    def collate(self, videos: Sequence[Video], pixels: Sequence[Tensor]) -> dict[str, Tensor]:
        """The inputs for videos, from the pixel values of each."""

    @abstractmethod
    def texts(self, inputs: Mapping[str, Tensor], videos: Sequence[Video]) -> list[str]:
        """What stands in a prompt for each of the videos, given their `encode`."""


class FrameProcessor(VideoProcessor):
    """LLaVA's families: every frame is one square, ``pixel_values_videos`` (M, F, 3, S, S).

    ``layout`` is that of a video of so many frames. ``crop``: a frame's centre, instead of all of it, squashed.
    """

    def __init__(
        self,
        pictures: PictureProcessor,
        placeholder: str,
        side: int,
        layout: Callable[[int], ImageLayout],
        crop: bool = False,
    ) -> None:
        super().__init__(pictures, placeholder)
        self.side, self.layout, self.crop = side, layout, crop

    def pixels(self, video: Video) -> Tensor:
        return pixel_values([self.square(to_rgb(frame)) for frame in video.frames], self.pil)

    def square(self, frame: Image.Image) -> Image.Image:
        """A frame as a square."""
        if not self.crop:
            return frame.resize((self.side, self.side), self.pil.resample)
        scale = self.side / min(frame.size)
        width, height = (max(self.side, int(side * scale)) for side in frame.size)
        left, top = (width - self.side) // 2, (height - self.side) // 2
        whole = frame.resize((width, height), self.pil.resample)
        return whole.crop((left, top, left + self.side, top + self.side))

    def collate(self, videos: Sequence[Video], pixels: Sequence[Tensor]) -> dict[str, Tensor]:
        counts = sorted({len(frames) for frames in pixels})
        if len(counts) > 1:
            raise SampleError(
                f"videos of {' and '.join(map(str, counts))} frames cannot stand in one batch of this family; take as "
                "many of each (a conf/frames with a fixed count), or set dataset.batch_size=1"
            )
        return {"pixel_values_videos": torch.stack(list(pixels))}

    def texts(self, inputs: Mapping[str, Tensor], videos: Sequence[Video]) -> list[str]:
        return [self.placeholder * self.layout(len(video.frames)).n_tokens for video in videos]


class NativeVideos(VideoProcessor):
    """Qwen: frames keep their shape, ``pixel_values_videos`` (P, D) and ``video_grid_thw`` (M, 3) in patches.

    Two frames make one patch; of an odd number the last one is repeated. Areas of a frame are between ``limits``.
    """

    def __init__(self, pictures: PictureProcessor, placeholder: str, limits: tuple[int, int]) -> None:
        super().__init__(pictures, placeholder)
        self.limits = limits

    def check(self, video: Video) -> None:
        super().check(video)
        self.resized(video.frames[0])

    def resized(self, frame: Image.Image) -> Size:
        """The size to which a frame is brought.

        Raises:
            SampleError: one side is more than 200 times the other.
        """
        return smart_size(frame, self.pil.patch_size * self.pil.merge_size, self.limits)

    def pixels(self, video: Video) -> Tensor:
        """(T, 3, 2, H, W): as it stands before it is cut to patches."""
        size, pair = self.resized(video.frames[0]), self.pil.temporal_patch_size
        frames = pixel_values([to_rgb(frame).resize(size, self.pil.resample) for frame in video.frames], self.pil)
        missing = -len(frames) % pair
        return torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]).unflatten(0, (-1, pair)).transpose(1, 2)

    def collate(self, videos: Sequence[Video], pixels: Sequence[Tensor]) -> dict[str, Tensor]:
        side = self.pil.patch_size
        grids = [[len(one), one.shape[3] // side, one.shape[4] // side] for one in pixels]
        packed = torch.cat([cut_to_patches(one, side, self.pil.merge_size) for one in pixels])
        return {"pixel_values_videos": packed, "video_grid_thw": torch.tensor(grids)}

    def texts(self, inputs: Mapping[str, Tensor], videos: Sequence[Video]) -> list[str]:
        counts = inputs["video_grid_thw"].prod(1) // self.pil.merge_size**2
        return [self.placeholder * tokens for tokens in counts.tolist()]


class PacedVideos(NativeVideos):
    """Qwen2.5-VL: its model is told how many seconds a pair of frames spans, ``second_per_grid_ts`` (M,)."""

    def collate(self, videos: Sequence[Video], pixels: Sequence[Tensor]) -> dict[str, Tensor]:
        steps = [self.pil.temporal_patch_size * frame_step(video) for video in videos]
        return super().collate(videos, pixels) | {"second_per_grid_ts": torch.tensor(steps)}


class TimedVideos(NativeVideos):
    """From Qwen3-VL on: the time of every pair of frames stands in front of its placeholders, as text."""

    wrapped = False

    def texts(self, inputs: Mapping[str, Tensor], videos: Sequence[Video]) -> list[str]:
        pair, cells = self.pil.temporal_patch_size, inputs["video_grid_thw"][:, 1:].prod(1) // self.pil.merge_size**2
        texts = []
        for video, tokens in zip(videos, cells.tolist(), strict=True):
            times = [*video.times, *video.times[-1:] * (-len(video.times) % pair)]
            middles = [(first + last) / 2 for first, last in zip(times[::pair], times[pair - 1 :: pair], strict=True)]
            frame = f"<|vision_start|>{self.placeholder * tokens}<|vision_end|>"
            texts.append("".join(f"<{time:.1f} seconds>{frame}" for time in middles))
        return texts


def frame_step(video: Video) -> float:
    """Seconds from one frame to the next, on average; half a second where there is one frame only.

    >>> frame_step(Video((), (0.0, 1.0, 4.0)))
    2.0
    """
    if len(video.times) < 2:
        return 0.5
    return (video.times[-1] - video.times[0]) / (len(video.times) - 1)


def cut_to_patches(frames: Tensor, side: int, merge: int) -> Tensor:
    """Frames (T, 3, 2, H, W) as patches (P, D), those of a merge unit in a row."""
    columns = frames.unflatten(4, (-1, merge, side)).unflatten(3, (-1, merge, side))
    # (T, 3, 2, rows, merge, side, columns, merge, side)
    return columns.permute(0, 3, 6, 4, 7, 1, 2, 5, 8).flatten(0, 4).flatten(1)

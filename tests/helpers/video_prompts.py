"""Prompts about videos, alone and beside pictures, for the small random models of the engine's matrix."""

from __future__ import annotations

import torch
from helpers.families import FAMILIES
from helpers.families_qwen import MERGE, PATCH, patches
from helpers.families_tiles import LlavaNextVideo
from helpers.support import VOCABULARY, batch, pixels
from torch import Tensor

VIDEO = 3
"""The placeholder of every family here."""
PARTS = {
    "video": (5, "video", 4),
    "picture first": (3, "image", 4, "video", 3),
    "video first": ("video", 2, "image", 5),
    "two": (2, "video", 3, "video", 6),
}
"""Prompts: text lengths, pictures and videos."""
FILMED = FAMILIES | {"llava_next_video": LlavaNextVideo()}
NAMES = ("llava_onevision", "llava_next_video", "qwen2_5_vl", "qwen2_vl", "qwen3_vl")


class Clips:
    """A family and videos of ``frames`` frames (temporal patches of Qwen's), which differ from each other."""

    def __init__(self, name: str, frames: int = 3) -> None:
        self.family, self.frames = FILMED[name], frames
        self.packed = name.startswith("qwen")
        self.grid = (3, 2) if self.packed else (2, 2)

    def model(self, attention: str = "sdpa"):
        return self.family.model(attention)

    @property
    def tokens(self) -> int:
        """Placeholders of a video: a newline closes OneVision's."""
        return self.frames * self.grid[0] * self.grid[1] + (self.family.name == "llava_onevision")

    def videos(self, *seeds: int) -> dict[str, Tensor]:
        """What the model takes for videos, one for each seed."""
        if not self.packed:
            return {"pixel_values_videos": torch.stack([self.pixels(seed, 16) for seed in seeds])}
        side = PATCH * MERGE
        frames = [self.pixels(seed, 3 * side)[..., : 2 * side] for seed in seeds]
        grids = torch.tensor([[self.frames, 3 * MERGE, 2 * MERGE]] * len(seeds))
        timed = {"second_per_grid_ts": torch.tensor([2.0 + seed for seed in range(len(seeds))])}
        packed = torch.cat([patches(frame) for video in frames for frame in video])
        given = {"pixel_values_videos": packed, "video_grid_thw": grids}
        return given | timed if self.family.name == "qwen2_5_vl" else given

    def pixels(self, seed: int, side: int) -> Tensor:
        """Frames (F, 3, side, side); the first ones of a longer video are those of a shorter one."""
        return torch.cat([pixels(1, 100 * seed + frame, side) for frame in range(self.frames)])

    def ids(self, name: str) -> list[int]:
        """The token ids of a prompt of `PARTS`; every picture is the family's first."""
        ids = [1]
        for place, part in enumerate(PARTS[name]):
            if part == "image":
                ids += self.family.picture_ids(0)
            elif part == "video":
                ids += self.video_ids()
            else:
                ids += [8 + (7 * place + 3 * k) % (VOCABULARY - 8) for k in range(part)]
        return ids

    def video_ids(self) -> list[int]:
        """What stands in a prompt for a video; from Qwen3-VL on a run for every frame, each behind its time."""
        start, end = self.family.before, self.family.after
        if self.family.name != "qwen3_vl":
            return [*start, *[VIDEO] * self.tokens, *end]
        cells = [VIDEO] * (self.tokens // self.frames)
        return [token for frame in range(self.frames) for token in (20 + frame, *start, *cells, *end)]

    def inputs(self, *names: str, seed: int = 0) -> dict[str, Tensor]:
        """A batch of prompts, padded on the left; videos are numbered from ``seed`` on."""
        parts = [part for name in names for part in PARTS[name]]
        given = self.finish(batch(*map(self.ids, names)))
        if parts.count("image"):
            given |= self.family.pictures(*[0] * parts.count("image"))
        return given | self.videos(*range(seed, seed + parts.count("video")))

    def finish(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """What Qwen wants to know besides: 1 on placeholders of pictures, 2 on those of videos."""
        if self.packed:
            given["mm_token_type_ids"] = (given["input_ids"] == 4).long() + 2 * (given["input_ids"] == VIDEO)
        return given

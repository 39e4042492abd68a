"""Small data sets of videos with the columns, folders and quirks of the published ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from helpers.published import write_parquet
from helpers.videos import numbered, write_video

LENGTH = 24
OPTIONS = ["A. red bus", "B. blue dog", "C. white table", "D. dark pizza"]


def videomme(folder: Path) -> list[dict]:
    """Three questions to each of three videos, of which one is an ``.MP4`` and one is missing."""
    write_video(folder / "data/vid0.mp4", LENGTH)
    write_video(folder / "data/vid1.MP4", LENGTH)
    return [
        {
            "video_id": f"{i // 3:03}", "duration": ("short", "medium", "long")[i // 3], "domain": "Knowledge",
            "sub_category": "Geography", "url": "u", "videoID": f"vid{i // 3}", "question_id": f"{i // 3:03}-{i % 3}",
            "task_type": "OCR Problems", "question": f"What happens {i}?", "options": OPTIONS, "answer": "ABCD"[i % 4],
        }
        for i in range(9)
    ]  # fmt: skip


def egoschema(folder: Path, answers: bool = False) -> list[dict]:
    """Two questions to two videos, whose answers are withheld unless asked for."""
    for i in range(2):
        write_video(folder / f"videos/ego{i}.mp4", LENGTH)
    return [
        {"question_idx": str(i), "question": f"What does c do {i}?", "video_idx": f"ego{i}",
         "option": [*OPTIONS, "E. white dog"], "answer": str(4 - i) if answers else None}
        for i in range(2)
    ]  # fmt: skip


def longvideobench(folder: Path) -> list[dict]:
    """A video that ends early, and one of a single frame with two options."""
    whole = write_video(folder / "videos/0.mp4", 200, movflags="faststart")
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    write_video(folder / "videos/1.mp4", 1)
    return [
        {
            "video_id": f"v{i}", "question": f"What {i}?", "question_wo_referring_query": "",
            "option0": "red bus", "option1": "blue dog", **{f"option{k}": "N/A" for k in range(2 + 2 * (1 - i), 5)},
            **({} if i else {"option2": "white table", "option3": "dark pizza"}), "correct_choice": 1 - i,
            "position": [1], "topic_category": "KH", "question_category": ("S2E", "T2A")[i], "level": "L1-Perception",
            "id": f"lvb_{i}", "video_path": f"{i}.mp4", "subtitle_path": f"{i}.json", "duration_group": (15, 3600)[i],
            "starting_timestamp_for_subtitles": 0.0, "duration": 6.7, "view_count": 1.0,
        }
        for i in range(2)
    ]  # fmt: skip


def mvbench(folder: Path) -> dict[str, list[dict]]:
    """Two questions of three tasks each: videos, cut videos with times to be passed over, and folders of frames."""
    write_video(folder / "ssv2_video_mp4/0.mp4", LENGTH)
    write_video(folder / "data0613/star/Charades_segment/0.mp4", LENGTH)
    frames = folder / "tvqa/video_fps3_hq_segment/castle_s01e01_seg02_clip_00"
    frames.mkdir(parents=True)
    for number in range(12):
        numbered(number).save(frames / f"{number + 1:05}.jpg", quality=95)
    rows = [
        {"question": f"What {i}?", "candidates": ["red bus", "blue dog", "table"][: 2 + i], "answer": "blue dog"}
        for i in range(2)
    ]
    return {
        "action_antonym": [row | {"video": "0.mp4"} for row in rows],
        "action_sequence": [row | {"video": "0.mp4", "start": 3.0, "end": 9.0} for row in rows],
        "episodic_reasoning": [row | {"video": frames.name, "start": 1.0, "end": 4.0, "fps": 3} for row in rows],
    }


ROWS: dict[str, Callable[[Path], list[dict]]] = {
    "videomme": videomme, "egoschema": egoschema, "egoschema_subset": lambda folder: egoschema(folder, answers=True),
    "longvideobench_val": longvideobench,
}  # fmt: skip
PLACES = {
    "videomme": "videomme/test", "egoschema": "MC/test", "egoschema_subset": "Subset/test",
    "longvideobench_val": "data/validation",
}  # fmt: skip
VIDEO_SETS = (*ROWS, "mvbench")


def write_video_set(name: str, folder: Path) -> Path:
    """A local copy of a data set in its authors' layout."""
    if name == "mvbench":
        (folder / "json").mkdir(parents=True)
        for task, rows in mvbench(folder).items():
            (folder / f"json/{task}.json").write_text(json.dumps(rows), encoding="utf-8")
    else:
        write_parquet(ROWS[name](folder), folder / PLACES[name])
    return folder

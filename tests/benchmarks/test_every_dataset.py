"""Every kind of data set through launch.py on the tiny model: rows of the published schema, limit, kill, resume.

Files of conf/dataset that differ in their split only are read in test_published.
"""

import importlib.util
import json
import sys

import pytest
from helpers.jobs import CONF, ROOT
from helpers.published import ONE_OF_A_KIND, SETS, picture, write_set
from helpers.published_videos import VIDEO_SETS, write_video_set
from omegaconf import OmegaConf

from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.result import RESULT, read_result
from nuwa.evaluation.run import run_job
from nuwa.schema import Config

pytestmark = pytest.mark.usefixtures("own_cache")
NAMES = sorted(file.stem for file in (CONF / "dataset").glob("*.yaml"))
FIXED = (
    "pruner=nuwa", "budget=avg64", "baseline=skip", "logger=none", "callbacks=none", "trainer=cpu", "limit=3",
    "generation.max_new_tokens=2", "trainer.batch_size=2",
)  # fmt: skip
KINDS = ("local", "nuwa_qwen_refcoco", "scenes", "clips", "plates", *ONE_OF_A_KIND, *VIDEO_SETS)
HEADLINES = {"mme": "mme/total_score", "mmmu_val": "mmmu/acc", "refcoco_test": "refcoco/ACC@0.5", "mmvet": None}
HEADLINES |= {"egoschema": None, "mvbench": "mvbench/accuracy"}
HEADLINES |= {"refcoco_grounding_test": "refcoco_grounding/ACC@0.5"}
TASKS = {"mvbench": ("dataset.tasks=[action_antonym,action_sequence,episodic_reasoning]",)}
PICTURES = {"mmmu_val": {1, 2, 3}, "seedbench": {1, 2}}
GENERATED = ("scenes", "clips", "plates")
SEVERAL = ("model=llava_1_5_random", "model.layers=4", "model.hidden_size=64", "model.intermediate_size=64")
"""For samples of several pictures, which tiny_llava has no positions for."""
VIDEOS = (
    "model=llava_onevision_random", "model.layers=2", "model.hidden_size=64", "model.intermediate_size=64",
    "model.image_size=84", "frames.count=2", "pruner=visionzip", "budget=ratio25",
)  # fmt: skip
MODELS = dict.fromkeys(PICTURES, SEVERAL) | dict.fromkeys(VIDEO_SETS, VIDEOS) | {"clips": ("model=tiny_video",)}
MODELS |= {"plates": ("model=tiny_text",)}
COUNTS = dict.fromkeys(("mme", "mmbench_en_dev", "hallusion_bench_image"), 2)
COUNTS |= dict.fromkeys(("egoschema", "egoschema_subset", "longvideobench_val"), 2)
"""How many samples a limit of three takes: whole groups of two, or all that there are."""


def write_local(folder):
    """A question and an expression about one picture, in turns."""
    picture(0).save(folder / "a.png")
    question = {"image": "a.png", "question": "is there a red circle ?", "answer": "yes"}
    expression = {"image": "a.png", "expression": "red circle", "box": [8, 8, 40, 40]}
    lines = [json.dumps(row) + "\n" for row in (question, expression, question, expression)]
    (folder / "data.jsonl").write_text("".join(lines), encoding="utf-8")


def write_records(folder):
    """VLM-R1's records: a list in a .json, pictures in a folder of COCO's name."""
    (folder / "train2014").mkdir()
    rows = []
    for i in range(4):
        picture(i).save(folder / f"train2014/{i}.png")
        width, height = picture(i).size
        row = {
            "dataset": "refcoco", "text_type": "caption", "height": height, "width": width, "problem": "?",
            "normal_caption": f"cup {i}", "image": f"train2014/{i}.png", "solution": [1, 2, 30, 40],
        }  # fmt: skip
        rows.append(row)
    (folder / "refcoco_testA.json").write_text(json.dumps(rows), encoding="utf-8")


@pytest.fixture
def launch(monkeypatch, tmp_path):
    """``python launch.py`` in this process: exit status, and the folder of the run."""
    spec = importlib.util.spec_from_file_location("launch", ROOT / "launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["launch.py", *FIXED, f"paths.outputs={tmp_path / 'out'}", *arguments])
        status = module.main()
        (result,) = (tmp_path / "out/main").glob(f"*/{RESULT}")
        return status, result.parent

    return call


@pytest.mark.parametrize("name", KINDS)
def test_a_limited_run_that_is_killed_and_resumed(name, launch, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    arguments = [f"dataset={name}"]
    if name not in GENERATED:
        write = {"local": write_local, "nuwa_qwen_refcoco": write_records}.get(name)
        if name in VIDEO_SETS:
            write_video_set(name, data)
        else:
            write(data) if write else write_set(name, data, 9)
        arguments.append(f"dataset.path={data}")
    status, folder = launch(*arguments, *MODELS.get(name, ()), *TASKS.get(name, ()))
    result, count = read_result(folder), COUNTS.get(name, 3)
    assert (status, result["status"], result["n"], result["n_failed"]) == (0, "done", count, 0), result.get("reason")
    assert result["dataset"] == name
    rows, content = read_rows(folder / JOURNAL), (folder / JOURNAL).read_bytes()
    assert len(rows) == count and all(row["status"] == "ok" and row["kept"] for row in rows)
    assert set(result["metrics"]) == set(result["standard_errors"]) and (
        result["metrics"] or name in ("egoschema", "mmvet")
    )
    headline = next(iter(result["metrics"]), None)
    assert headline == HEADLINES.get(name, headline)
    assert {len(row["kept"]) for row in rows} == PICTURES.get(name, {1})

    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    (folder / RESULT).unlink()
    (folder / JOURNAL).write_bytes(content[: ends[0] + 20])  # as a kill in the second line leaves it
    again = OmegaConf.merge(OmegaConf.structured(Config), result["config"])
    assert run_job(again) == folder  # what launch.py runs; the record is enough to run it again
    assert read_rows(folder / JOURNAL) == rows and read_result(folder)["metrics"] == result["metrics"]


def test_every_published_set_has_made_up_rows():
    assert {*SETS, *VIDEO_SETS, "local", "nuwa_qwen_refcoco", *GENERATED} == set(NAMES)

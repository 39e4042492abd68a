"""The bridge in lmms-eval itself, where that is installed: its command, its registry, its task and its score."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from helpers.jobs import compose
from helpers.published import write_parquet

from nuwa.config import build, typed
from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("lmms_eval", "pytablewriter")),
    reason="lmms-eval is not installed (the extra lmms)",
)
SCENES = ("dataset=scenes", "dataset.samples=8", "dataset.tasks=[vqa]")
TASK = """
task: generated_scenes
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.pictures
doc_to_text: "question"
doc_to_target: "answer"
generation_kwargs: {{max_new_tokens: 8, temperature: 0}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def task(tmp_path):
    """The folder of a task of lmms-eval about generated scenes."""
    scenes = build(typed(compose(*SCENES), "dataset"))
    samples = [scenes[index] for index in range(len(scenes))]
    for sample in samples:
        sample.images[0].save(tmp_path / f"{sample.id}.png")
    rows = [
        {"question": sample.text, "answer": sample.target[0],
         "image": {"bytes": (tmp_path / f"{sample.id}.png").read_bytes(), "path": None}}
        for sample in samples
    ]  # fmt: skip
    file = write_parquet(rows, tmp_path / "scenes")
    (tmp_path / "scenes.yaml").write_text(TASK.format(file=file), encoding="utf-8")
    (tmp_path / "utils.py").write_text('def pictures(doc):\n    return [doc["image"].convert("RGB")]\n')
    return tmp_path


def test_its_answers_and_its_score_are_those_of_launch(task):
    model = "pretrained=tiny_llava,pruner=nuwa,budget=64,position=pesp"
    subprocess.run(
        [sys.executable, "-m", "lmms_eval", "--model", "nuwa", "--model_args", model, "--tasks", "generated_scenes",
         "--include_path", task, "--batch_size", "3", "--device", "cpu", "--log_samples", "--output_path", task],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(task / "cache")},
        check=True, capture_output=True,
    )  # fmt: skip
    (found,) = task.rglob("*samples*.jsonl")
    answers = [json.loads(line)["filtered_resps"] for line in found.read_text(encoding="utf-8").splitlines()]
    (found,) = task.glob("*/*results.json")
    score = json.loads(found.read_text(encoding="utf-8"))["results"]["generated_scenes"]["exact_match,none"]

    options = ("budget=avg64", "position=pesp", "baseline=skip", "logger=none", "callbacks=none", "trainer=cpu")
    folder = run_job(compose(*SCENES, *options, f"paths.outputs={task}"))
    own = {row["id"]: row["prediction"] for row in read_rows(folder / JOURNAL)}
    assert answers == [own[f"scene-0-{number}-vqa"] for number in range(8)]
    assert score == pytest.approx(read_result(folder)["metrics"]["vqa/exact_match"]) and score > 0.5

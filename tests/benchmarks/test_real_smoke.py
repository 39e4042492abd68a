"""experiment=real_smoke through launch.py: photographs with POPE questions and RefCOCO expressions, to their scores."""

import importlib.util
import json
import subprocess
import sys

import pytest
from helpers.jobs import ROOT
from helpers.published import picture

from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.result import read_result

REAL = ROOT.parent / "shared/data/real"
FIXED = (
    "limit=4",
    "generation.max_new_tokens=9",
    "callbacks=none",
    "logger=none",
    "trainer=cpu",
    "trainer.batch_size=2",
)


def made_up(folder):
    """JPEG and PNG of noise with the rows that `experiments/real_photos.py` writes."""
    folder.mkdir()
    rows = []
    for number in range(2):
        picture(number).resize((320, 240)).save(folder / f"{number}.jpg")
        rows += [
            {
                "id": f"pope-{number}",
                "image": f"{number}.jpg",
                "question": "Is there a dog in the image?",
                "answer": "no",
            },
            {"id": f"refcoco-{number}", "image": f"{number}.jpg", "expression": "left dog", "box": [10, 20, 200, 180]},
        ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def real(folder):
    subprocess.run([sys.executable, ROOT / "experiments/real_photos.py", REAL, folder], check=True)
    lines = (folder / "data.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    chosen = [next(line for line in lines if word in line) for word in ("question", "expression")]
    (folder / "data.jsonl").write_text("".join(chosen), encoding="utf-8")


@pytest.mark.parametrize(
    "write", [made_up, pytest.param(real, marks=pytest.mark.skipif(not REAL.is_dir(), reason=f"needs {REAL}"))]
)
def test_from_photograph_to_score(write, tmp_path, monkeypatch):
    write(tmp_path / "photos")
    spec = importlib.util.spec_from_file_location("launch", ROOT / "launch.py")
    launch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launch)
    options = (f"dataset.path={tmp_path / 'photos'}", f"paths.outputs={tmp_path}", *FIXED)
    monkeypatch.setattr(sys, "argv", ["launch.py", "experiment=real_smoke", *options])
    assert launch.main() == 0
    results = {result["method"]: result for result in map(read_result, (tmp_path / "real_smoke").glob("*/"))}
    assert set(results) == {"none", "nuwa", "fastv"}
    for method, result in results.items():
        assert (result["status"], result["n_failed"]) == ("done", 0) and result["n"] in (2, 4)
        assert {"vqa/exact_match", "vg/acc@0.5", "vg/miou", "vg_padded/miou"} <= set(result["metrics"])
        rows = read_rows(tmp_path / "real_smoke" / result["run_key"] / JOURNAL)
        assert {row["task"] for row in rows} == {"vqa", "vg"}
        assert all(row["image_tokens"] == [576] for row in rows)
        assert result["tokens_entering"] == (576 if method == "none" else pytest.approx(64, abs=1))

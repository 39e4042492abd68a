"""``nuwa explore``: what the folder holds, for runs that can be read again and for those that cannot."""

import json
import shutil

import pytest
from helpers.jobs import small
from PIL import Image

from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.result import RESULT
from nuwa.evaluation.run import run_job
from nuwa.explore.__main__ import main
from nuwa.explore.folder import script

HOSTILE = "</script><script>document.title='owned'</script>\u2028<img src=x onerror=alert(1)>"


def read(path):
    """The name and the value that a data file hands over."""
    text = path.read_text(encoding="utf-8")
    before, after = "explorer.add(", ");\n"
    assert text.startswith(before) and text.endswith(after) and "<" not in text and "\u2028" not in text
    return json.loads("[" + text[len(before) : -len(after)] + "]")


def explored(root, *arguments):
    """The index of the folder that is written, and the decisions of each run by sample."""
    assert main([str(root), *arguments]) == 0
    out = root / "explorer"
    (name, index), chunks = read(out / "data" / "index.js"), {}
    assert name == "index"
    for path in sorted((out / "data").glob("*-*.js")):
        name, decisions = read(path)
        chunks.setdefault(name.rpartition("-")[0], {}).update(decisions)
    return index, chunks


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Two methods and the unpruned run on six scenes."""
    root = tmp_path_factory.mktemp("runs")
    for method in ("nuwa", "visionzip"):
        run_job(small(root, f"pruner={method}", "name=main"))
    return root / "main"


@pytest.fixture
def copied(outputs, tmp_path):
    return shutil.copytree(outputs, tmp_path / "main", ignore=shutil.ignore_patterns("explorer"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Own pictures: one that is missing, names with quotes, and a question that is a script."""
    data = tmp_path_factory.mktemp("data")
    Image.new("RGB", (40, 30), "red").save(data / 'it\'s "a" <b>.png')
    rows = [{"id": "gone", "image": "gone.png"}, {"id": '"><i>', "image": 'it\'s "a" <b>.png'}]
    lines = (json.dumps(row | {"question": HOSTILE, "answer": "yes"}) + "\n" for row in rows)
    (data / "data.jsonl").write_text("".join(lines))
    local = ("dataset=local", "dataset.samples=null", f"dataset.path={data}", "baseline=skip", "name=local")
    return run_job(small(data / "out", *local)).parent


def test_every_sample_of_every_run_is_there(outputs):
    index, chunks = explored(outputs)
    assert [run["label"] for run in index["runs"]] == ["unpruned", "nuwa 16 pesp", "visionzip 16 perc"]
    assert [one["name"] for one in index["sets"]] == ["scenes"] and not index["notes"]
    out = outputs / "explorer"
    for run in index["runs"]:
        rows = {row["id"]: row for row in read_rows(outputs / run["key"] / JOURNAL)}
        assert (out / run["result"]).resolve() == (outputs / run["key"] / RESULT).resolve()
        assert not run["reason"] and set(chunks[run["key"]]) == set(rows) == {one["id"] for one in index["samples"]}
        for sample in index["samples"]:
            row, answer = rows[sample["id"]], sample["answers"][run["key"]]
            assert (answer["text"], answer["scores"], answer["kept"]) == (row["prediction"], row["scores"], row["kept"])
            assert sample["question"] == row["prompt"] and answer["right"] == (
                next(iter(row["scores"].values())) >= 0.5
            )
            (image,), ((*stages,),) = chunks[run["key"]][sample["id"]]["images"], row["kept"]
            assert "differs" not in chunks[run["key"]][sample["id"]]
            for layer, count in stages:
                assert sum(left < 0 or left > layer for left in image["left"]) == count
    for sample in index["samples"]:
        with Image.open(out / sample["thumbnail"]) as small_one, Image.open(out / sample["pictures"][0]) as picture:
            assert small_one.width <= 144 and picture.width == 96 and len(sample["pictures"]) == 1
        assert (sample["box"] is not None) == (sample["task"] == "vg")


def test_the_page_lies_beside_the_data(outputs):
    """Every script and style that the page names is there, and no address leads elsewhere."""
    explored(outputs, "--samples", "1")
    page = (outputs / "explorer" / "index.html").read_text(encoding="utf-8")
    named = [part.split('"')[0] for mark in ('src="', 'href="') for part in page.split(mark)[1:]]
    assert "page/app.js" in named and "data/index.js" in named
    assert all((outputs / "explorer" / name).is_file() for name in named if name != "data:,")
    assert "default-src 'none'" in page and "://" not in page


def test_samples_and_runs_are_chosen(outputs):
    """Over what an interrupted call has left."""
    explored(outputs)
    (outputs / "explorer" / "data" / "index.js").unlink()
    index, chunks = explored(outputs, "--samples", "2")
    assert len(index["samples"]) == 2 and index["sets"][0]["total"] == 6 and len(index["runs"]) == 3
    assert [len(decisions) for decisions in chunks.values()] == [2, 2, 2]
    key = index["runs"][1]["key"]
    index, chunks = explored(outputs, "--runs", key[:6])
    assert [run["key"] for run in index["runs"]] == [key] == list(chunks) and len(index["samples"]) == 6


def test_what_is_hostile_stays_text(hostile):
    index, chunks = explored(hostile)
    good, gone = sorted(index["samples"], key=lambda sample: sample["id"])
    assert good["id"] == '"><i>' and HOSTILE in good["question"] and good["thumbnail"].startswith("pictures/0-")
    (decisions,) = chunks.values()
    assert decisions[good["id"]]["images"]
    assert "gone.png" in gone["answers"][index["runs"][0]["key"]]["failed"] and "thumbnail" not in gone
    assert "gone.png" in decisions["gone"]["reason"]


def test_what_cannot_be_read_again_is_said(copied):
    """A run by vLLM, one that kept other numbers of tokens, one that was asked something else, an unfinished one."""
    runs = {run["label"].split()[0]: copied / run["key"] for run in explored(copied)[0]["runs"]}

    def rewrite(path, old, new):
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    rewrite(runs["visionzip"] / RESULT, '"engine": "transformers"', '"engine": "vllm"')
    rewrite(runs["nuwa"] / JOURNAL, "[0, ", "[0, 9")
    rewrite(runs["unpruned"] / JOURNAL, '"prompt": "', '"prompt": "please, ')
    shutil.copytree(runs["nuwa"], copied / "0123456789ab")
    (copied / "0123456789ab" / RESULT).unlink()
    index, chunks = explored(copied)
    reasons = {run["label"].split()[0]: run["reason"] for run in index["runs"]}
    assert "vLLM" in reasons["visionzip"] and not reasons["nuwa"] and runs["visionzip"].name not in chunks
    assert any("0123456789ab" in note and "unfinished, 6 samples" in note for note in index["notes"])
    assert any("vLLM" in note for note in index["notes"])
    assert all("today it keeps" in told["differs"] for told in chunks[runs["nuwa"].name].values())
    assert all("asks another question" in told["reason"] for told in chunks[runs["unpruned"].name].values())
    assert all(sample["thumbnail"] and len(sample["answers"]) == 3 for sample in index["samples"])


def test_without_the_data_there_are_answers(hostile, tmp_path):
    """The data set was moved: what the journal says is shown, and why there is no more."""
    root = shutil.copytree(hostile, tmp_path / "local", ignore=shutil.ignore_patterns("explorer"))
    (result,) = root.glob(f"*/{RESULT}")
    content = json.loads(result.read_text(encoding="utf-8"))
    content["config"]["dataset"]["path"] = str(tmp_path / "nowhere")
    result.write_text(json.dumps(content), encoding="utf-8")
    index, chunks = explored(root)
    assert not chunks and "nowhere" in index["runs"][0]["reason"] and len(index["samples"]) == 2
    assert not any("pictures" in sample for sample in index["samples"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--samples", "0"], "--samples 0: must be at least 1"),
        (["--runs", "ffff"], "--runs ffff: no run below"),
        (["--out", "."], "--out .: it holds something else than an explorer"),
    ],
)
def test_bad_input_is_one_line(outputs, arguments, said, capsys, monkeypatch):
    monkeypatch.chdir(outputs)
    assert main([str(outputs), *arguments]) == 1
    wrong = capsys.readouterr().err
    assert wrong.startswith("error: ") and said in wrong and wrong.count("\n") == 1


def test_a_folder_without_a_finished_run_is_refused(copied, capsys):
    for result in copied.glob(f"*/{RESULT}"):
        result.unlink()
    assert main([str(copied)]) == 1 and not (copied / "explorer").exists()
    assert "no finished run (3 unfinished)" in capsys.readouterr().err
    shutil.rmtree(copied)
    assert main([str(copied)]) == 1
    assert "no finished run (no run at all)" in capsys.readouterr().err


def test_numbers_that_json_lacks_are_refused():
    with pytest.raises(ValueError):
        script("a", float("nan"))

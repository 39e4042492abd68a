"""Local folders: what is read, what one bad row costs, and what is refused before a model loads."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.published import benchmark
from PIL import Image

from nuwa.benchmarks.base import BenchmarkError
from nuwa.benchmarks.local import Local
from nuwa.samples import SampleError

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared/data/real"
QUESTION = {"image": "a.png", "question": "Is there a dog?", "answer": "yes"}
EXPRESSION = {"image": "b.jpg", "expression": "left dog", "box": [40, 20, 200, 120]}


@pytest.fixture
def folder(tmp_path):
    """Two pictures: a.png of 40 x 30, b.jpg of 400 x 200."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((40, 30)).save(tmp_path / "a.png")
    Image.fromarray(noise).resize((400, 200)).save(tmp_path / "b.jpg")
    return tmp_path


def write(folder, *rows, name="data.jsonl"):
    """Write rows (objects, or raw lines as text) and return the folder."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)


def error_of(folder, row, **options):
    """The error of the second row; the first, a good one, must still work."""
    local = Local(write(folder, QUESTION, row), **options)
    assert local[0].target == ("yes",)
    with pytest.raises(SampleError) as caught:
        local[1]
    assert str(caught.value).startswith("data.jsonl line 2: ")
    return str(caught.value)


# what is read


def test_questions_and_expressions(folder):
    local = Local(write(folder, QUESTION, "", EXPRESSION | {"id": "mine"}), vqa_prompt="{question} One word.")
    assert len(local) == 2 and [local.sample_id(i) for i in range(2)] == ["data-1", "mine"]
    question, expression = pickle.loads(pickle.dumps(local))
    assert (question.task, question.text, question.target) == ("vqa", "Is there a dog? One word.", ("yes",))
    assert (expression.task, expression.text) == ("vg", "left dog")
    assert expression.target == pytest.approx((0.1, 0.1, 0.5, 0.6))
    assert expression.images[0].size == (400, 200) and expression.meta["width"] == 400
    json.dumps([question.meta, expression.meta])


def test_box_formats_agree(folder):
    corners = Local(write(folder, EXPRESSION))[0].target
    sized = Local(write(folder, EXPRESSION | {"box": [40, 20, 160, 100]}), box_format="xywh")[0].target
    assert corners == pytest.approx(sized)


def test_several_pictures_none_and_several_answers(folder):
    rows = ({**QUESTION, "image": ["a.png", "b.jpg"], "answer": ["yes", "Yep", 1]}, {**QUESTION, "image": []})
    pair, blind = Local(write(folder, *rows))
    assert [image.size for image in pair.images] == [(40, 30), (400, 200)] and pair.target == ("yes", "Yep", "1")
    assert blind.images == ()


def test_pictures_are_turned_upright_and_made_rgb(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    Image.open(folder / "b.jpg").convert("L").save(folder / "turned.jpg", exif=exif)
    image = Local(write(folder, {**QUESTION, "image": "turned.jpg"}))[0].images[0]
    assert image.size == (200, 400) and image.mode == "RGB"


def test_a_box_in_the_stored_frame_of_a_turned_photograph_says_so(folder):
    """The upright picture is 200 x 400; the box fits the 400 x 200 that the file holds."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "b.jpg").save(folder / "turned.jpg", exif=exif)
    reason = error_of(folder, EXPRESSION | {"image": "turned.jpg", "box": [200, 60, 390, 190]})
    assert "leaves the picture of 200 x 400 pixels; the photograph is stored as 400 x 200 and was turned" in reason
    assert "turned" not in error_of(folder, EXPRESSION | {"box": [200, 60, 390, 390]})
    row = {"question_id": "q", "answer": ["x"], "bbox": [200, 60, 190, 100], "image": "turned.jpg"}
    (folder / "testA.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(SampleError, match=r"leaves the picture of 200 x 400 pixels; .* stored as 400 x 200 and"):
        benchmark("refcoco_testA", folder)[0]


def test_which_file_is_read(folder):
    write(folder, QUESTION, name="only.jsonl")
    assert len(Local(str(folder))) == 1
    write(folder, QUESTION, QUESTION, name="other.jsonl")
    with pytest.raises(BenchmarkError, match=r"dataset\.path=.* lacks data\.jsonl; .*only\.jsonl, other\.jsonl"):
        Local(str(folder))
    assert len(Local(str(folder / "other.jsonl"))) == 2
    write(folder, QUESTION, QUESTION, QUESTION)
    assert len(Local(str(folder))) == 3
    assert len(Local(str(folder), samples=2)) == 2


# scores


def test_both_frames_are_reported_and_the_option_says_which_leads(folder):
    local = Local(write(folder, EXPRESSION))
    sample = local[0]
    padded = "[0.10, 0.30, 0.50, 0.55]"  # 400 x 200 sits at y 0.25 .. 0.75 of its square
    scores = local.score(sample, padded)
    assert scores["vg_padded/miou"] == pytest.approx(1.0) and scores["vg_padded/acc@0.5"] == 1.0
    assert scores["vg/miou"] == pytest.approx(0.4 * 0.25 / (0.4 * 0.5)) and scores["vg/parsed"] == 1.0
    fair = Local(write(folder, EXPRESSION), box_frame="padded").score(sample, padded)
    assert fair["vg/miou"] == scores["vg_padded/miou"] and fair["vg_original/miou"] == scores["vg/miou"]


def test_punctuation_rule(folder):
    gqa, pope = Local(write(folder, QUESTION)), Local(write(folder, QUESTION), ignore_punctuation=False)
    assert gqa.score(gqa[0], "Yes.") == {"vqa/exact_match": 1.0}
    assert pope.score(pope[0], "Yes.") == {"vqa/exact_match": 0.0}
    assert pope.score(pope[0], " YES ") == {"vqa/exact_match": 1.0}


# one bad row


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"image": "a.png", ', "is not valid JSON"),
        ('["a.png"]', "is a JSON list, not an object"),
        ({"image": "a.png", "question": "Dog?"}, r"lacks answer \(its columns: image, question\)"),
        ({"image": "a.png", "expression": "dog"}, r"lacks box \(its columns: image, expression\)"),
        ({"file": "a.png", "question": "Dog?", "answer": "no"}, r"lacks image \(its columns: file, question, answer\)"),
        ({**QUESTION, "question": 7}, "question must be a text, not 7"),
        ({**QUESTION, "question": " "}, "question must be a text"),
        ({**QUESTION, "question": "<image> and <image>?"}, "places 2 pictures, the row has 1"),
        ({**QUESTION, "answer": None}, r"lacks answer \(its columns: image, question\)"),
        ({**QUESTION, "answer": " "}, "answer must not be blank, not ' '"),
        ({**QUESTION, "answer": ["", ""]}, "answer must not be blank"),
        ('{"image": "a.png", "question": "Dog?", "answer": NaN}', "answer must be a text or a list of texts, not nan"),
        ({**QUESTION, "answer": []}, "answer must be a text"),
        ({**QUESTION, **EXPRESSION}, "both a question and an expression"),
        ({**QUESTION, "image": None}, r"lacks image \(its columns: question, answer\)"),
        ({**QUESTION, "image": 5}, "image must be a file name"),
        ({**QUESTION, "image": "none.png"}, "image none.png does not exist"),
        ({**QUESTION, "image": "."}, "image . is a folder, not a file"),
        ({**QUESTION, "image": "../secret.png"}, "leads outside the folder"),
        ({**QUESTION, "image": "/etc/passwd"}, "leads outside the folder"),
        ({**EXPRESSION, "box": [1, 2, 3]}, "box must be four numbers"),
        ({**EXPRESSION, "box": ["1", 2, 3, 4]}, "box must be four numbers"),
        ({**EXPRESSION, "box": "1,2,3,4"}, "box must be four numbers"),
        ({**EXPRESSION, "box": [1, 2, 10**400, 4]}, "box must be four numbers"),
        ({**EXPRESSION, "box": [1, 2, True, 4]}, "box must be four numbers"),
        ({**EXPRESSION, "box": [40, 20, 30, 120]}, "is empty as xyxy; is dataset.box_format right"),
        ({**EXPRESSION, "box": [40, 20, 500, 120]}, "leaves the picture of 400 x 200 pixels"),
        ({**EXPRESSION, "box": [0.1, 0.1, 0.5, 0.5]}, "looks like fractions; pixels are expected"),
        ({**EXPRESSION, "image": ["a.png", "b.jpg"]}, "needs one picture, the row has 2"),
    ],
)
def test_a_bad_row_fails_alone_and_says_why(folder, row, message):
    assert re.search(message, error_of(folder, row))


HALF = "x \ud83d"  # a lone surrogate: JSON can hold it, neither a tokenizer nor a UTF-8 file can


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**QUESTION, "question": HALF}, r"question must be a text without lone surrogates, not 'x \\ud83d'"),
        ({**QUESTION, "answer": ["yes", HALF]}, "answer must be a text without lone surrogates"),
        ({**EXPRESSION, "expression": HALF}, "expression must be a text without lone surrogates"),
        ({**QUESTION, "image": HALF}, "image must be a text without lone surrogates"),
        ({**QUESTION, "image": "a\0b"}, "can be no file"),
        ({**QUESTION, "image": "a" * 999}, "can be no file"),
        ({HALF: 1}, r"its columns: x \\ud83d"),
    ],
)
def test_texts_and_names_that_cannot_be_written(folder, row, message):
    reason = error_of(folder, row)
    assert re.search(message, reason) and reason.encode()


def test_an_id_that_cannot_be_written_is_spelt_out(folder):
    assert Local(write(folder, QUESTION | {"id": HALF}))[0].id == r"x \ud83d"


def test_numbers_that_are_none(folder):
    assert "box must be four numbers" in error_of(
        folder, '{"image": "b.jpg", "expression": "x", "box": [0, 0, NaN, 9]}'
    )


def test_a_null_is_no_column(folder):
    """A table of both kinds of rows fills them up; a whole number that it made a float is written without a point."""
    nulls = dict.fromkeys(("image", "video", "question", "answer", "expression", "box"))
    rows = Local(write(folder, nulls | QUESTION | {"answer": 3.0}, nulls | EXPRESSION))
    assert [rows[0].task, rows[1].task] == ["vqa", "vg"] and rows[0].target == ("3",)


@pytest.mark.parametrize("keep", [0, 10, 1500])
@pytest.mark.parametrize("name", ["a.png", "b.jpg"])
def test_truncated_pictures(folder, name, keep):
    content = (folder / name).read_bytes()
    assert keep < len(content)
    (folder / f"cut_{name}").write_bytes(content[:keep])
    assert f"image cut_{name} cannot be read" in error_of(folder, {**QUESTION, "image": f"cut_{name}"})


def test_a_text_file_is_no_picture(folder):
    (folder / "notes.png").write_text("hello")
    assert "cannot be read" in error_of(folder, {**QUESTION, "image": "notes.png"})


def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "c.png"
    Image.new("RGB", (8, 8)).save(outside)
    (folder / "link.png").symlink_to(outside)
    assert "leads outside the folder" in error_of(folder, {**QUESTION, "image": "link.png"})


def test_a_line_that_is_not_utf8(folder):
    path = write(folder, QUESTION)
    with (folder / "data.jsonl").open("ab") as file:
        file.write(b'{"image": "\xff"}\n')
    with pytest.raises(SampleError, match="line 2: is not valid JSON"):
        Local(path)[1]


# what is refused at once


@pytest.mark.parametrize("path", [None, "", "no/such/folder"])
def test_missing_folder(path):
    with pytest.raises(BenchmarkError, match=r"dataset\.path"):
        Local(path)


def test_folder_without_rows(folder):
    with pytest.raises(BenchmarkError, match=r"dataset\.path=.* lacks data\.jsonl"):
        Local(str(folder))
    with pytest.raises(BenchmarkError, match="holds no rows"):
        Local(write(folder, "", " "))


def test_a_file_of_which_no_row_can_be_used(folder):
    with pytest.raises(
        BenchmarkError, match=r"no row of .*; line 1: lacks question, answer \(its columns: image, text"
    ):
        Local(write(folder, {"image": "a.png", "text": "x"}, {"image": "a.png", "text": "y"}))


def test_ids_must_be_unique(folder):
    with pytest.raises(BenchmarkError, match="lines 1 and 3 have the same id 'x'"):
        Local(write(folder, QUESTION | {"id": "x"}, QUESTION, QUESTION | {"id": "x"}))


@pytest.mark.parametrize(
    ("options", "key"),
    [({"box_frame": "square"}, "box_frame"), ({"box_format": "cxcywh"}, "box_format"), ({"samples": 0}, "samples"),
     ({"vqa_prompt": "{expression}"}, "vqa_prompt"), ({"vg_prompt": "where?"}, "vg_prompt")],
)  # fmt: skip
def test_impossible_options_are_named(folder, options, key):
    with pytest.raises(BenchmarkError, match=rf"dataset\.{key}"):
        Local(write(folder, QUESTION), **options)


# the shipped configuration and the real photographs


def test_shipped_config_asks_as_lmms_eval_does(folder):
    question, expression = benchmark("local", write(folder, QUESTION, EXPRESSION), "model=llava_1_5_random")
    golden = json.loads((ROOT / "tests/golden/scoring/real_refcoco_nuwa.json").read_text(encoding="utf-8"))
    prompt, answer = golden["samples"][0]["prompt"], golden["samples"][0]["doc"]["answer"]
    assert expression.text == prompt.replace(answer, "left dog")
    assert question.text == "Is there a dog?\nAnswer the question using a single word or phrase."


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real photographs in {REAL}")
def test_real_photos_become_a_folder_and_score_as_lmms_eval(tmp_path):
    script = ROOT / "experiments/real_photos.py"
    subprocess.run([sys.executable, script, REAL, tmp_path / "photos"], check=True)
    local = benchmark("local", tmp_path / "photos", "dataset.ignore_punctuation=false", "model=llava_1_5_random")
    samples = {sample.id: sample for sample in local}
    assert len(samples) == 82 and {sample.task for sample in samples.values()} == {"vqa", "vg"}
    golden = ROOT / "tests/golden/scoring"
    pope = json.loads((golden / "real_pope.json").read_text(encoding="utf-8"))["samples"]
    for row in pope:
        sample = samples[f"pope-{row['doc']['category']}-{row['doc']['question_id']}"]
        assert sample.text == row["prompt"]
        assert local.score(sample, row["prediction"]) == {"vqa/exact_match": row["per_sample"]["score"]}
    refcoco = json.loads((golden / "real_refcoco_nuwa.json").read_text(encoding="utf-8"))
    rows = [row for row in refcoco["samples"] if row["style"] == "padded_frame_2dec"]
    scores = [local.score(samples[f"refcoco-{i}"], row["prediction"]) for i, row in enumerate(rows)]
    assert [samples[f"refcoco-{i}"].text for i in range(10)] == [row["prompt"] for row in rows]
    means, expected = local.metrics([{"scores": one} for one in scores]), refcoco["aggregate"]["padded_frame_2dec"]
    assert means["vg/miou"] == pytest.approx(expected["refcoco_IoU"], abs=1e-6)
    assert means["vg/acc@0.5"] == expected["refcoco_ACC@0.5"] == 1.0
    assert means["vg_padded/miou"] > 0.95

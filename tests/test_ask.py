"""``nuwa ask``: answers of both, times, the picture of what was kept; wrong input by name."""

import io
from pathlib import Path

import pytest
from PIL import Image

import nuwa
from nuwa import ask
from nuwa.benchmarks.scenes import Scenes
from nuwa.chat import Chat

SCENES = Scenes(samples=4)
CHOICES = ("model=tiny_llava", "pruner=visionzip", "budget=64", "position=perc", "trainer=cpu")


@pytest.fixture
def picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SCENES[1].images[0].save("scene.png")
    return "scene.png"


def test_both_answer_and_the_kept_tokens_are_drawn(picture, capsys):
    first, second = SCENES[1].text, SCENES[0].text
    assert ask.main([first, "--image", picture, CHOICES[0], second, *CHOICES[1:], "--tokens", "12"]) == 0
    lines = capsys.readouterr().out.splitlines()
    loaded = nuwa.load_model("tiny_llava", device="cpu")
    session = nuwa.prune(loaded.model, nuwa.load_pruner("visionzip", 64), "perc")
    for start, question in ((0, first), (3, second)):
        assert lines[start] == question
    for row, chat in ((1, Chat(loaded, SCENES[1])), (2, Chat(loaded, SCENES[1], session))):
        for start, question in ((0, first), (3, second)):
            assert f" {chat.ask(question).text}    [" in lines[start + row]
    assert lines[1].split()[0] == "unpruned" and lines[2].split()[:2] == ["visionzip,", "PERC"]
    assert any(line.endswith("64 on average") for line in lines)
    (path,) = [line.removeprefix("kept tokens: ") for line in lines if line.startswith("kept tokens: ")]
    assert path.startswith("outputs/ask/scene_visionzip") and Image.open(path).width > 500


def test_questions_are_read_from_the_input(picture, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{SCENES[0].text}\n\n{SCENES[2].text}\n"))
    assert ask.main(["--image", picture, *CHOICES, "--tokens", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[3]] == [SCENES[0].text, SCENES[2].text]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--image", "away.png", "what ?"), "away.png does not exist"),
        (("--image", "notes.txt", "what ?"), "notes.txt"),
        (("dataset=gqa",), "dataset=gqa: about one picture, choose model, pruner"),
        (("model=magic",), "model/magic"),
        (("pruner=magic",), "pruner/magic"),
        (("budget=9999",), "budget.average=9999"),
        (("pruner=prumerge", "pruner.adaptive=true"), "give budget=full and pruner.fence"),
        (("model.path=/no/such/folder",), "/no/such/folder"),
        (("<image> <image> ?",), "2 <image> placeholders"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_input_is_one_line(arguments, says, picture, capsys):
    Path("notes.txt").write_text("no picture")
    given = arguments if "--image" in arguments else ("--image", picture, *arguments)
    assert ask.main([*given]) == 1
    said = capsys.readouterr().err.splitlines()
    assert says in said[-1] and said[-1].startswith("error: ")


def test_nothing_asked(picture, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert ask.main(["--image", picture, *CHOICES]) == 1
    assert "no question was asked" in capsys.readouterr().err


def test_no_tokens_is_wrong_usage(picture, capsys):
    with pytest.raises(SystemExit) as left:
        ask.main(["--image", picture, "--tokens", "0"])
    assert left.value.code == 2 and "--tokens 0" in capsys.readouterr().err

"""``nuwa ask``: answers of both, times, the picture of what was kept; wrong input by name."""

import io
from pathlib import Path

import pytest
from PIL import Image

import nuwa
from nuwa import ask
from nuwa.benchmarks.clips import Clips
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
        (("dataset=gqa",), "dataset=gqa: about one picture or video, choose model, pruner"),
        (("model=magic",), "model/magic"),
        (("pruner=magic",), "pruner/magic"),
        (("budget=9999",), "budget.average=9999"),
        (("seed=abc",), "Value 'abc'"),
        (("trainer=vllm", "pruner=visionzip"), "trainer=vllm: the model itself answers here"),
        (("what ?", "--out", "notes.txt"), "notes.txt"),
        (("--image", "frames", "what ?"), "frames is a folder"),
        (("pruner=prumerge", "pruner.adaptive=true"), "give budget=full and pruner.fence"),
        (("model.path=/no/such/folder",), "/no/such/folder"),
        (("--video", "away.mp4", "what ?"), "away.mp4 does not exist"),
        (("--video", "notes.txt", "what ?"), "notes.txt"),
        (("frames.count=0", "--video", "frames", "model=tiny_video", "what ?"), "frames.count"),
        (("--video", "frames", "what ?"), "llava models take no videos"),
        (("<image> <image> ?",), "2 <image> placeholders"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_input_is_one_line(arguments, says, picture, capsys):
    Path("notes.txt").write_text("no picture")
    Path("frames").mkdir()
    SCENES[1].images[0].save("frames/1.png")
    given = arguments if "--image" in arguments or "--video" in arguments else ("--image", picture, *arguments)
    assert ask.main([*given]) == 1
    said = capsys.readouterr().err.splitlines()
    assert says in said[-1] and said[-1].startswith("error: ")


@pytest.mark.parametrize("typed", [[], ["", " "]])
def test_nothing_asked(picture, capsys, monkeypatch, typed):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert ask.main(["--image", picture, *CHOICES, *typed]) == 1
    assert "no question was asked" in capsys.readouterr().err


def test_pictures_of_one_name_are_drawn_into_files_of_their_own(picture, capsys):
    Path("other").mkdir()
    SCENES[2].images[0].save("other/scene.png")
    pictures = ("--image", picture, "--image", "other/scene.png")
    assert ask.main([*pictures, "model=internvl_random", "trainer=cpu", "budget=0.2", "--tokens", "1", "what ?"]) == 0
    said = [line.removeprefix("kept tokens: ") for line in capsys.readouterr().out.splitlines() if "kept" in line]
    assert len({Path(path).read_bytes() for path in said}) == len(said) == 2


@pytest.mark.parametrize(
    ("arguments", "says"), [(("--image", "a.png", "--tokens", "0"), "--tokens 0"), (("what ?",), "--image or --video")]
)
def test_wrong_usage(arguments, says, capsys):
    with pytest.raises(SystemExit) as left:
        ask.main([*arguments])
    assert left.value.code == 2 and says in capsys.readouterr().err


def test_a_video_is_asked_about(tmp_path, monkeypatch, capsys):
    """Its frames as files; the answers are those of the clip itself."""
    monkeypatch.chdir(tmp_path)
    sample = Clips(samples=1)[0]
    (video,) = sample.videos
    for number, frame in enumerate(video.frames):
        Path("clip").mkdir(exist_ok=True)
        frame.save(f"clip/{number}.png")
    count = f"frames.count={len(video.frames)}"
    assert ask.main([sample.text, "--video", "clip", "model=tiny_video", "pruner=visionzip", "budget=0.25", count]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index(sample.text)
    loaded = nuwa.load_model("tiny_video", device="cpu")
    session = nuwa.prune(loaded.model, nuwa.load_pruner("visionzip", nuwa.Budget(ratio=0.25)))
    for row, chat in ((1, Chat(loaded, sample)), (2, Chat(loaded, sample, session))):
        assert f" {chat.ask(sample.text).text}    [" in lines[start + row]
    assert any(line.startswith("visionzip, position ids perc, 1 video of ") for line in lines)
    assert Path(lines[-1].removeprefix("kept tokens: ")).is_file()

"""One picture or video: what the unpruned and the pruned model answer, how fast, and which tokens were kept.

    nuwa ask --image a.jpg "Is there a dog?" model=llava_1_5_7b pruner=nuwa budget=64
    nuwa ask --video a.mp4 "What happens?" model=llava_onevision_7b frames=uniform8 pruner=vidcom2 budget=0.25
    nuwa ask --image a.jpg model=llava_1_5_7b          # questions are typed one by one; they go on with the cache

Choices are those of ``nuwa run``.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentError, Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig
from PIL import Image

from nuwa import prune
from nuwa.benchmarks.images import read_image
from nuwa.benchmarks.scoring import parse_box
from nuwa.benchmarks.videos import read_video
from nuwa.chat import Answer, Chat
from nuwa.command import argument, command, plain_text
from nuwa.config import ConfigError
from nuwa.engine.session import PruningSession
from nuwa.evaluation.check import check, check_fitted, pruning_options
from nuwa.evaluation.model_cache import load_once
from nuwa.models.loaded import LoadedModel
from nuwa.overrides import check_groups, compose_job
from nuwa.pictures.captions import title_lines
from nuwa.pictures.drawing import Boxes, draw_decisions, file_name
from nuwa.samples import Sample
from nuwa.schema import Engine, FramesConfig

ASK_GROUPS = ("model", "pruner", "budget", "position", "calibration", "coordinates", "frames", "seed", "trainer")
"""What of a run's choices has a meaning here."""
_OVERRIDE = re.compile(r"[+~]{0,2}[\w./]+=|~[\w./]+$")


def config_of(overrides: Sequence[str]) -> DictConfig:
    """The config of some choices.

    Raises:
        ConfigError: a choice that is unknown, or without a meaning for one picture.
    """
    check_groups(overrides, ASK_GROUPS, "about one picture or video")
    return compose_job(overrides)


def prepare(cfg: DictConfig) -> tuple[LoadedModel, PruningSession]:
    """The model of a config, and a session with its method.

    Raises:
        ValueError: a choice that is impossible.
    """
    if cfg.trainer.engine == Engine.vllm:
        raise ConfigError("trainer=vllm: the model itself answers here; leave it out, or start nuwa serve")
    parts = check(cfg)
    check_fitted(parts.pruner)
    loaded = load_once(parts.model)
    return loaded, prune(loaded.model, parts.pruner, **pruning_options(cfg))


def read_visuals(images: Sequence[Path], videos: Sequence[Path], cfg: DictConfig) -> Sample:
    """A question yet to be asked about files.

    Raises:
        ValueError: one of them cannot be read; the message names it.
    """
    frames = FramesConfig(**cfg.frames)
    shown = [read_image(path.parent, path.name) for path in images]
    filmed = [read_video(path.parent, path.name, frames) for path in videos]
    for note in filter(None, (video.note for video in filmed)):
        print(note)
    return Sample.ask("?", *shown, videos=filmed)


def draw_kept(session: PruningSession, loaded: LoadedModel, sample: Sample, answer: str) -> list[Image.Image]:
    """A picture for each image and video of a sample: what is kept of it, and the box in ``answer``, if any."""
    method = f"{session.pruner.name}, {session.strategy.upper()}"
    heading = title_lines(method, sample.text, {"prediction": answer}, is_box=False)
    alone = len(sample.images) == 1 and not sample.videos
    said = parse_box(loaded.in_unit_frame(answer, sample.images[0])) if alone else None
    boxes: Boxes = {} if said is None else {"predicted": said}
    with session:
        return list(draw_decisions(session, loaded, sample, boxes, heading))


def typed_questions() -> Iterator[str]:
    """Lines of the standard input, up to its end; a terminal is shown a sign that it is its turn."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if line:
            yield line


def show_answer(who: str, answer: Answer) -> None:
    """One line: who answered, when, and what."""
    times = f"{answer.seconds:.2f} s, first token {answer.first_seconds:.2f} s"
    said = plain_text(" ".join(answer.text.split())) or "(empty)"
    print(f"  {who:24} {said}    [{times}, {answer.new_tokens} new tokens]", flush=True)


def hold(chats: dict[str, Chat], questions: Iterable[str]) -> tuple[str, str]:
    """Put questions to all chats in turn and print the answers; returns the first question and its last answer."""
    opening = None
    for question in questions:
        print(question, flush=True)
        answers = [chat.ask(question) for chat in chats.values()]
        for who, answer in zip(chats, answers, strict=True):
            show_answer(who, answer)
        opening = opening or (question, answers[-1].text)
    if opening is None:
        raise ConfigError("no question was asked")
    return opening


@command(
    "One picture or video: the unpruned and the pruned answer, their times, and which tokens were kept.",
    argument("words", nargs="*", metavar="question | choice", help="questions in quotes; choices as in nuwa run"),
    argument("--image", type=Path, action="append", default=[], help="a picture's file; again for several"),
    argument("--video", type=Path, action="append", default=[], help="a video, or a folder of frames (extra video)"),
    argument("--tokens", type=int, default=128, help="how many new tokens an answer may have (128)"),
    argument("--out", type=Path, default=Path("outputs/ask"), help="folder of the picture of kept tokens"),
)
def main(options: Namespace) -> None:
    """Ask, print answers, times, tokens and the path of the picture."""
    if options.tokens < 1:
        raise ArgumentError(None, f"--tokens {options.tokens}: must be at least 1")
    files = [*options.image, *options.video]
    if not files:
        raise ArgumentError(None, "needs --image or --video")
    overrides = [word for word in options.words if _OVERRIDE.match(word)]
    questions = [word for word in options.words if word not in overrides and word.strip()]
    cfg = config_of(overrides)
    shown = read_visuals(options.image, options.video, cfg)
    options.out.mkdir(parents=True, exist_ok=True)
    loaded, session = prepare(cfg)
    Chat(loaded, shown, most_tokens=1).ask("?")  # the first call of a process is slow, whoever makes it
    method = f"{session.pruner.name}, {session.strategy.upper()}"
    chats = {
        "unpruned": Chat(loaded, shown, most_tokens=options.tokens),
        method: Chat(loaded, shown, session, options.tokens),
    }
    question, answer = hold(chats, questions or typed_questions())
    print(session.report())
    for number, picture in enumerate(draw_kept(session, loaded, replace(shown, text=question), answer)):
        told_apart = f"{number + 1} " if len(files) > 1 else ""  # files of several folders may have one name
        path = options.out / f"{file_name(f'{told_apart}{files[number].stem} {method} {question}')}.png"
        picture.save(path)
        print(f"kept tokens: {path}")


if __name__ == "__main__":
    sys.exit(main())

"""Marks for MM-Vet answers that were saved without a judge.

    nuwa judge outputs/main --url https://api.openai.com/v1 --model gpt-4-0613 --key-variable OPENAI_API_KEY

Every mark is on disk before the next is asked for, so a call that was cut short goes on where it was. A run whose
answers all have marks gets its scores, in ``predictions.jsonl`` and ``result.json``; until then it has none.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from pydantic import FiniteFloat, TypeAdapter
from tqdm import tqdm
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on

from nuwa.benchmarks.judge import JudgeError, OpenAIJudge, Patience
from nuwa.benchmarks.mmvet import JUDGE_PROMPT, PARSED, MMVet, read_judge_prompt, score_mmvet
from nuwa.command import argument, command
from nuwa.evaluation.answers import read_answers
from nuwa.evaluation.journal import JOURNAL, Journal, JournalError, Row, answered
from nuwa.evaluation.reading import UnreadableError, check_shape, content_of, from_json
from nuwa.evaluation.result import read_result, write_result
from nuwa.evaluation.run import LOCK
from nuwa.evaluation.runs import Run, find_runs
from nuwa.evaluation.summary import summarise

MARKS = "marks.jsonl"
MMVET = f"{MMVet.__module__}.{MMVet.__qualname__}"


class _Mark(TypedDict):
    """A line of `MARKS`."""

    judge: str
    id: str
    prediction: str
    scores: dict[str, FiniteFloat]


_MARK = TypeAdapter(_Mark)


@dataclass(frozen=True)
class Marker:
    """A judge, the words in which it is asked, and the name under which its marks are kept."""

    judge: OpenAIJudge
    words: str = JUDGE_PROMPT

    @property
    def name(self) -> str:
        """Its model, and what tells its prompt from others."""
        return f"{self.judge.model} {hashlib.blake2b(self.words.encode(), digest_size=4).hexdigest()}"

    def mark(self, folder: Path) -> int:
        """Give every answer of a run, whose lock is held, a mark; returns how many were missing or no marks.

        Raises:
            JudgeError: the judge does not answer, or not with marks; what it has marked is kept.
        """
        journal = Journal(folder / JOURNAL, folder.name)
        rows = journal.rows
        ours = answered(rows)
        if os.path.lexists(folder / MARKS):  # cut off a torn last line, so that others can follow
            os.truncate(folder / MARKS, sum(map(len, _whole_lines(folder / MARKS))))
        known = _marks(folder / MARKS, self.name)
        left = [row for row in ours if not known.get((row["id"], row["prediction"]), {PARSED: 0.0}).get(PARSED, 1.0)]
        patience = Patience()
        with (folder / MARKS).open("a", encoding="utf-8") as file:
            for row in tqdm(left, desc=f"{self.judge.model} {folder.name}", disable=None):
                scores = score_mmvet(row["target"], row["prediction"].strip(), self.judge, self.words)
                known[row["id"], row["prediction"]] = scores
                line = {"judge": self.name, "id": row["id"], "prediction": row["prediction"], "scores": scores}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
                patience.note(scores[PARSED] > 0)
        for row in ours:
            row |= {"scores": known[row["id"], row["prediction"]], "judge": self.name}
        journal.replace(rows)
        return len(left)

    def write_numbers(self, folder: Path) -> dict[str, float]:
        """Put what the marks of a run, whose lock is held, say into its result; returns its metrics.

        There is a retention if this judge has marked the unpruned run in the same words.
        """
        result = read_result(folder)
        result.pop("retention", None)
        unpruned = self._unpruned(folder.parent / result["baseline"]) if "baseline" in result else []
        result |= summarise(MMVet.unloaded({}), read_answers(folder), unpruned or None)
        result["judge"] = {"url": self.judge.url, "model": self.judge.model, "prompt": self.words}
        write_result(folder, result)
        return result["metrics"]

    def _unpruned(self, folder: Path) -> list[Row]:
        """The rows of a run that this judge has marked, with its marks."""
        known = _marks(folder / MARKS, self.name)
        marked = [(row, known.get((row["id"], row["prediction"]))) for row in read_answers(folder)]
        return [row | {"scores": scores, "judge": self.name} for row, scores in marked if scores]


def _marks(file: Path, judge: str) -> dict[tuple[str, str], dict[str, float]]:
    """What a judge has marked before, by id and answer.

    Raises:
        UnreadableError: a line is no mark.
    """
    known = {}
    for number, line in enumerate(_whole_lines(file), 1):
        try:
            mark = from_json(line)
            check_shape(mark, _MARK)
        except ValueError as error:
            raise UnreadableError(file, f"no mark: {error}; repair it, or delete it to ask again", number) from error
        if mark["judge"] == judge:
            known[mark["id"], mark["prediction"]] = mark["scores"]
    return known


def _whole_lines(file: Path) -> list[bytes]:
    """The lines of a file, if it exists, without a last one that is torn or still being written."""
    lines = content_of(file).splitlines(keepends=True) if os.path.lexists(file) else []
    return [line for line in lines if line.endswith(b"\n")]


def unjudged_runs(roots: Sequence[Path]) -> list[Path]:
    """The finished MM-Vet runs at or below ``roots`` that had no judge as they ran."""
    found = []
    for folder in find_runs(*roots):
        run = Run.read(folder)
        dataset = run.config.get("dataset", {})
        if run.done and dataset.get("_target_") == MMVET and not dataset.get("judge_url"):
            found.append(folder)
    return found


@command(
    "Mark saved MM-Vet answers.",
    argument("folders", type=Path, nargs="+", help="outputs, outputs/<name>, or a run's folder"),
    argument("--url", required=True, help="a server with OpenAI's chat completions, up to its version"),
    argument("--model", required=True, help="the server's name for the judge"),
    argument("--key-variable", help="the environment variable that holds the server's key"),
    argument("--prompt", help="a text file with {question}, {answer} and {prediction}; else our own words"),
)
def main(options: Namespace) -> None:
    """Mark, then sum up; 1 if there is nothing to mark or the judge does not answer."""
    judge = OpenAIJudge(options.url, options.model, options.key_variable)
    marker = Marker(judge, read_judge_prompt(options.prompt) if options.prompt else JUDGE_PROMPT)
    folders = unjudged_runs(options.folders)
    if not folders:
        raise JournalError(f"no finished MM-Vet run without a judge in {', '.join(map(str, options.folders))}")
    for folder in folders:
        try:
            with FileLock(folder / LOCK):
                asked = marker.mark(folder)
        except JudgeError as error:
            raise JournalError(f"{error}; the same command goes on from there") from error
        print(f"{folder}: {asked} answers marked")
    for folder in folders:
        with FileLock(folder / LOCK):
            numbers = marker.write_numbers(folder)
        print(f"{folder}: " + ", ".join(f"{name} {value:.3f}" for name, value in numbers.items()))


if __name__ == "__main__":
    sys.exit(main())

"""The judge: a client of chat completions against a server of its own, and MM-Vet's marks with a mock."""

import json

import pytest
from helpers.judge_server import serve
from helpers.published import benchmark, mmvet, picture

from nuwa.benchmarks import judge as judge_module
from nuwa.benchmarks.base import BenchmarkError
from nuwa.benchmarks.judge import JudgeError, OpenAIJudge
from nuwa.benchmarks.mmvet import JUDGE_PROMPT, mark


@pytest.fixture
def pauses(monkeypatch):
    """The seconds that it waits, in no time."""
    waited = []
    monkeypatch.setattr("nuwa.benchmarks.judge.time.sleep", waited.append)
    return waited


@pytest.fixture
def rows(tmp_path):
    """Four questions as a jsonl."""
    picture(0).save(tmp_path / "a.png")
    lines = [json.dumps(row | {"image": "a.png"}) for row in mmvet(4)]
    (tmp_path / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_marks_come_from_the_judge(server, rows, monkeypatch):
    url, replies, asked = server
    monkeypatch.setenv("JUDGE_KEY", "secret")
    options = (f"dataset.judge_url={url}", "dataset.judge_model=marker", "dataset.judge_key_variable=JUDGE_KEY")
    dataset = benchmark("mmvet", rows, *options)
    replies += ["0.5", "one", "1.0 because"]
    journal = []
    for index in range(2):
        sample = dataset[index]
        scores = dataset.score(sample, "x is {question}")
        journal.append({"target": sample.target, "scores": scores})
    assert [row["scores"] for row in journal] == [{"mmvet/score": mark, "mmvet/parsed": 1.0} for mark in (0.5, 1.0)]
    assert dataset.metrics(journal) == {
        "mmvet/score": 0.75, "mmvet/score/rec": 0.5, "mmvet/score/ocr": 1.0, "mmvet/score/math": 1.0,
        "mmvet/parsed": 1.0,
    }  # fmt: skip
    path, key, body = asked[0]
    assert (path, key, body["model"], body["temperature"]) == ("/v1/chat/completions", "Bearer secret", "marker", 0.0)
    prompt = body["messages"][0]["content"]
    assert "Question: What is x?\nReference: 1<AND>2\nAnswer: x is {question}\nMark:" in prompt
    assert asked[2][2]["temperature"] == 0.5  # asked again, less coldly, after "one"


def test_a_server_that_recovers_and_one_that_does_not(server, pauses):
    url, replies, asked = server
    judge = OpenAIJudge(url, "marker")
    replies += [500, 429, "0.25"]
    assert mark(judge, "?") == 0.25 and len(asked) == 3 and pauses == [2.0, 4.0]
    replies += [500, 500, 500]
    with pytest.raises(JudgeError, match=r"judge marker at http://127.*HTTP Error 500"):
        judge("?", 0.0)
    assert len(asked) == 6 and pauses == [2.0, 4.0] * 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"", "Expecting value"), (b"<html>", "Expecting value"), (b"[]", "no chat completion: "),
     (b'{"choices": []}', "no chat completion: "), (b'{"error": "busy"}', "no chat completion: .*busy"),
     (b'{"choices": [{"message": {"content": ["0.5"]}}]}', r"a reply that is no text: .*0\.5")],
)  # fmt: skip
def test_answers_that_are_no_chat_completion(body, reason, server, pauses):
    url, replies, asked = server
    judge = OpenAIJudge(url, "marker")
    replies += [body, "0.75"]
    assert mark(judge, "?") == 0.75 and len(asked) == 2  # asked again
    replies += [body] * 3
    with pytest.raises(JudgeError, match=reason):
        judge("?", 0.0)


def test_an_empty_completion_is_a_reply(server):
    url, replies, _ = server
    replies.append(b'{"choices": [{"message": {"content": null}}]}')
    assert OpenAIJudge(url, "marker")("?", 0.0) == ""


@pytest.mark.parametrize(
    ("replies", "expected"),
    [([""], None), (["a"] * 4, None), (["nan", "2", "-1", "0.3"], 0.3), (["1"], 1.0), (["0"], 0.0)],
)
def test_replies_that_are_no_mark(replies, expected):
    said = iter(replies)
    assert mark(lambda prompt, temperature: next(said), "?") == expected
    assert not list(said)


def test_a_prompt_of_ones_own(rows, tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("{question} | {answer} | {prediction}", encoding="utf-8")
    assert benchmark("mmvet", rows, f"dataset.judge_prompt={file}").judge_words == file.read_text(encoding="utf-8")
    assert benchmark("mmvet", rows).judge_words == JUDGE_PROMPT and benchmark("mmvet", rows).judge is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [(("judge_url=ftp://x", "judge_model=m"), r"dataset\.judge_url=ftp://x must start with http"),
     (("judge_url=http://x",), r"dataset\.judge_model is not set"),
     (("judge_url=http://x", "judge_model=m", "judge_key_variable=NO_SUCH_KEY"), r"NO_SUCH_KEY: there is no"),
     (("judge_prompt=/none.txt",), r"judge_prompt=/none\.txt cannot be read")],
)  # fmt: skip
def test_impossible_judges_are_refused(options, reason, rows):
    with pytest.raises(BenchmarkError, match=reason):
        benchmark("mmvet", rows, *(f"dataset.{option}" for option in options))


def test_a_judge_that_does_not_mark_stops_the_run(server, rows):
    """Ten replies in a row that are no marks; nine are counted."""
    url, replies, _ = server
    dataset = benchmark("mmvet", rows, f"dataset.judge_url={url}", "dataset.judge_model=marker")
    sample = dataset[0]
    replies += [""] * 9 + ["0.5"] + [""] * 10
    scores = [dataset.score(sample, "x") for _ in range(10)]
    assert [one["mmvet/parsed"] for one in scores] == [0.0] * 9 + [1.0]
    journal = [{"target": sample.target, "scores": one} for one in scores]
    assert dataset.metrics(journal)["mmvet/parsed"] == pytest.approx(0.1)
    with pytest.raises(JudgeError, match="last 10 replies were no marks"):
        for _ in range(10):
            dataset.score(sample, "x")
    assert not replies


def test_the_key_goes_to_no_other_server(server, pauses, monkeypatch):
    url, replies, asked = server
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with serve() as (other, others, stolen):
        others += ["1.0"] * 3
        replies += [(307, f"{other}/chat/completions")] * 3
        with pytest.raises(JudgeError, match=f"redirects to another server, {other.removesuffix('/v1')}"):
            OpenAIJudge(url, "marker", "JUDGE_KEY")("?", 0.0)
        assert not stolen and len(asked) == 3
    for far in ("http://example.com/v1", "http://10.0.0.7/v1", "http://localhost.example.com/v1"):
        with pytest.raises(BenchmarkError, match="would be sent in the clear"):
            OpenAIJudge(far, "marker", "JUDGE_KEY")
        OpenAIJudge(far, "marker")
    for near in ("https://example.com/v1", "http://localhost:1/v1", "http://[::1]:1/v1", "http://127.0.0.2/v1"):
        OpenAIJudge(near, "marker", "JUDGE_KEY")


def test_a_reply_without_end(server, pauses, monkeypatch):
    url, replies, _ = server
    replies += [b"x" * (judge_module.LONGEST + 1)] * 3
    with pytest.raises(JudgeError, match="a reply of more than 65536 bytes"):
        OpenAIJudge(url, "marker")("?", 0.0)
    monkeypatch.setattr(judge_module, "TIMEOUT", 0.3)
    monkeypatch.setattr(judge_module, "TRIES", 1)
    replies.append(iter([b" "] * 100))
    with pytest.raises(JudgeError, match=r"no whole reply within 0\.3 s"):
        OpenAIJudge(url, "marker")("?", 0.0)

"""MMTok: golden data of its authors' code, words, and questions through the engine."""

import json

import pytest
import torch
from helpers.families import FAMILIES
from helpers.golden_cases import GOLDEN, Golden, golden_runs
from helpers.jobs import compose, small
from transformers import PreTrainedTokenizerFast

import nuwa
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job
from nuwa.models.checkpoint import ModelError
from nuwa.models.random_vlm import build_tokenizer
from nuwa.models.words import token_ids
from nuwa.pruners.mmtok import POST_PROMPTS, STOP_WORDS, cover, softmax_cosines, words_of

MANIFEST = json.loads((GOLDEN / "mmtok_llava.json").read_text())
LLAVA = FAMILIES["llava"]
QUESTION = "What is the color of the shirt the man on the left is wearing?"


@pytest.mark.parametrize(
    ("name", "run"), golden_runs("mmtok_llava", "mmtok_qwen", only=lambda run: not run.endswith("_pad"))
)
def test_golden(name, run):
    """(k64_pad leaves out padding, which pictures have none of here.)"""
    case = Golden(name)
    params = case.params(run)
    words = softmax_cosines(case.inputs["text"], case.inputs["projected"], params["text_temperature"])
    image = softmax_cosines(case.inputs["tower"], case.inputs["tower"], params["vision_temperature"])
    coverage = torch.cat([words, params["alpha"] * image])
    order = cover(coverage[None], params["keep"])[0]
    case.check(run, order=order, kept=order.sort().values)
    best, gains = torch.zeros(len(coverage)), []
    for pick in order:
        gains.append((coverage[:, pick] - best).relu().sum())
        best = best.maximum(coverage[:, pick])
    case.check(run, gain=torch.stack(gains))


@pytest.mark.parametrize("case", MANIFEST["text_cases"], ids=lambda case: case["text_used"])
def test_words_are_those_of_the_authors(case):
    assert " ".join(words_of(case["question"])) == case["text_used"]


def test_stop_words_are_those_of_the_authors():
    assert STOP_WORDS.split() == MANIFEST["stop_words"]


def test_a_batch_covers_what_its_images_cover_alone():
    coverage = torch.rand(2, 9, 12, generator=torch.Generator().manual_seed(1))
    coverage[1, 5:] = 0  # fewer words
    assert torch.equal(cover(coverage, 5)[1:], cover(coverage[1:, :5], 5))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with the tokenizer of `llava_1_5_random`, and the toy model's whole vocabulary is its first ids."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer("llava", compose("model=llava_1_5_random").model.vocab_size).save_pretrained(folder)
    return str(folder)


def kept(pruner, *questions):
    """Kept tokens of the two pictures of a prompt."""
    model = LLAVA.model()
    with torch.no_grad(), nuwa.prune(model, pruner) as session, session.about(questions=questions or None):
        model(**LLAVA.inputs("two"))
    return [image.stages[0][1] for image in session.report().images]


def test_words_become_tokens_without_special_ones(tokenizer):
    core = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    words = [["red", "ball"], ["left"]]
    for ids, asked in zip(token_ids(tokenizer, words), words, strict=True):
        assert core.decode(ids).split() == "".join(asked).split()
        assert not set(ids.tolist()) & set(core.all_special_ids)


def test_each_image_is_chosen_by_its_own_question(monkeypatch):
    def few(path, texts):
        return [torch.tensor([9 + sum(map(ord, word)) % 40 for word in words]) for words in texts]

    monkeypatch.setattr("nuwa.models.words.token_ids", few)
    pruner = nuwa.load_pruner("mmtok", budget=20, text_temperature=0.01)
    together = kept(pruner, QUESTION, "Is there a dog?")
    other = kept(pruner, QUESTION, "Where is the umbrella?")
    assert other[0] == together[0] and other[1] != together[1]


def test_what_cannot_be_read_is_refused_by_name(tokenizer, tmp_path):
    def asked(*questions, **options):
        return kept(nuwa.load_pruner("mmtok", budget=20, **options), *questions)

    with pytest.raises(ValueError, match=r"pruner mmtok reads questions: .*session\.about\(questions"):
        asked(tokenizer=tokenizer)
    for empty in ("", " \n", POST_PROMPTS[0]):
        with pytest.raises(ValueError, match=r"pruner mmtok, image .*: there is no word in the question"):
            asked(QUESTION, empty, tokenizer=tokenizer)
    with pytest.raises(ModelError, match=r"pruner\.tokenizer: this model was loaded from no folder"):
        asked(QUESTION, QUESTION)
    with pytest.raises(ModelError, match=r"pruner\.tokenizer=.* lacks tokenizer\.json"):
        asked(QUESTION, QUESTION, tokenizer=str(tmp_path))
    with pytest.raises(ValueError, match="text_temperature"):
        asked(QUESTION, QUESTION, text_temperature=0.0)


@pytest.mark.parametrize("model", [["model=tiny_llava", "dataset.samples=2"], None], ids=["its own folder", "named"])
def test_a_job_asks_its_questions(tmp_path, tokenizer, model):
    if model is None:
        cfg = small(tmp_path, "pruner=mmtok", f"pruner.tokenizer={tokenizer}", "baseline=skip")
    else:
        cfg = compose(
            *model, "pruner=mmtok", "baseline=skip", "callbacks=none", "logger=none", f"paths.outputs={tmp_path}"
        )
    result = read_result(run_job(cfg))
    assert (result["status"], result["method"], result["n_failed"]) == ("done", "mmtok", 0)

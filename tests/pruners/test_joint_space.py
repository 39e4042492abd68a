"""CDPruner with CLIP's relevance, against all of it done slowly by hand on a small random CLIP."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from helpers.families import FAMILIES, PROMPTS
from helpers.jobs import compose, small
from helpers.support import SIDE, small_tower
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel

import nuwa
from nuwa.config import run_key
from nuwa.engine.guards import SessionError
from nuwa.evaluation.check import check
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job
from nuwa.models.checkpoint import ModelError
from nuwa.models.joint import load_joint_space
from nuwa.pruners.base import MisfitError
from nuwa.pruning.flops import ModelShape

LLAVA = FAMILIES["llava"]
WORDS = ("[UNK]", "what", "is", "left", "of", "the", "red", "blue", "cat", "?", "[BOS]", "[EOS]")
LENGTH = 8
"""Positions of the text half."""
SHORT, LONG = "what is left of the cat", "is the blue cat left of the red cat ? what is the blue ?"
BATCH = {"middle": [SHORT], "two": [LONG, LONG], "last": ["what ?"]}
"""Prompts, and what is asked about each of their images."""
KEEP = 7


def save_clip(folder, vision: dict, tower=None):
    """A whole random CLIP in a folder, its picture half with the given sizes (and weights)."""
    torch.manual_seed(3)
    text = {"vocab_size": len(WORDS), "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": LENGTH, "eos_token_id": 2}  # fmt: skip
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape))
            elif "text_model" in name:
                parameter.mul_(8)
    if tower is not None:
        clip.vision_model.load_state_dict(tower.state_dict(), strict=False)
    clip.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, WORDS.index(word)) for word in ("[BOS]", "[EOS]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[BOS] $A [EOS]", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    vision = small_tower(image_size=4 * SIDE).to_dict()
    return save_clip(tmp_path_factory.mktemp("clip"), vision, LLAVA.model().model.vision_tower)


def unit(vectors):
    return vectors.double() / vectors.double().norm(dim=-1, keepdim=True)


@torch.no_grad()
def text_vectors(clip, text):
    """One vector per piece of eight tokens; the last one is as long as it is, instead of padded."""
    ids = [WORDS.index("[BOS]"), *(WORDS.index(word) for word in text.split()), WORDS.index("[EOS]")]
    vectors = []
    for start in range(0, len(ids), LENGTH):
        piece = ids[start : start + LENGTH]
        states = clip.text_model(input_ids=torch.tensor([piece])).last_hidden_state[0]
        vectors.append(clip.text_projection(states[piece.index(max(piece))]))  # OpenAI's CLIP ends at its highest id
    return unit(torch.stack(vectors))


@torch.no_grad()
def kept_by_hand(folder, pixels, text):
    """The kept tokens of one image: the largest determinant, one token after the other."""
    clip, model = CLIPModel.from_pretrained(folder), LLAVA.model()
    features = clip.vision_model(pixel_values=pixels[None], output_hidden_states=True).hidden_states[-2][0, 1:]
    patches = unit(clip.visual_projection(clip.vision_model.post_layernorm(features)))
    relevance = torch.stack([-(patches @ vector) for vector in text_vectors(clip, text)]).mean(0)
    relevance = (relevance - relevance.min() + 1e-6) / (relevance.max() - relevance.min())
    projected = unit(model.model.multi_modal_projector(features))
    kernel = relevance[:, None] * (projected @ projected.T) * relevance
    chosen = []
    for _ in range(KEEP):
        left = [i for i in range(len(kernel)) if i not in chosen]
        chosen.append(max(left, key=lambda i: float(torch.linalg.det(kernel[[*chosen, i]][:, [*chosen, i]]))))
    return sorted(chosen)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}], ids=["greedy", "beam", "no cache"])
def test_kept_tokens_against_the_slow_way(folder, options):
    questions = [question for asked in BATCH.values() for question in asked]
    pictures = LLAVA.pictures(*(number for prompt in BATCH for number in PROMPTS[prompt][1]))["pixel_values"]
    expected = [kept_by_hand(folder, *pair) for pair in zip(pictures, questions, strict=True)]
    with ExitStack() as stack:
        session = stack.enter_context(
            nuwa.prune(LLAVA.model(), nuwa.load_pruner("cdpruner", budget=KEEP, clip=str(folder)))
        )
        stack.enter_context(session.about(questions=questions))
        LLAVA.model().generate(**LLAVA.inputs(*BATCH), max_new_tokens=3, do_sample=False, **options)
    assert [image.stages[0][1] for image in session.report().images] == expected
    assert len({tuple(kept) for kept in expected}) == len(expected)
    assert session.strategy == "perc"


def test_the_question_matters(folder):
    kept = []
    pruner = nuwa.load_pruner("cdpruner", budget=KEEP, clip=str(folder))
    for question in (SHORT, LONG):
        with torch.no_grad(), nuwa.prune(LLAVA.model(), pruner) as session, session.about(questions=[question]):
            LLAVA.model()(**LLAVA.inputs("first"))
        kept.append(session.report().images[0].stages[0][1])
    assert kept[0] != kept[1]


@pytest.mark.parametrize("text", [SHORT, LONG, "what"])
def test_segments_of_a_text(folder, text):
    joint = load_joint_space(str(folder), torch.device("cpu"))
    expected = text_vectors(CLIPModel.from_pretrained(folder), text)
    torch.testing.assert_close(joint.segments(text).double(), expected, atol=1e-6, rtol=0)


def test_a_job_asks_its_questions(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 112, "patch_size": 14}
    folder = save_clip(tmp_path / "clip", sizes | {"intermediate_size": 64})
    run = run_job(small(tmp_path, "pruner=cdpruner", f"pruner.clip={folder}", "baseline=skip"))
    result = read_result(run)
    assert (result["status"], result["tokens_entering"], result["method"]) == ("done", 16, "cdpruner")
    again = small(tmp_path, "pruner=cdpruner", f"pruner.clip={folder}", "baseline=skip")
    assert run_key(again) == run.name
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    assert run_key(again) != run.name  # another tokenizer reads other words


def test_what_cannot_work_is_refused_by_name(folder, tmp_path):
    def asked(clip, *more):
        return compose("pruner=cdpruner", f"pruner.clip={clip}", *more)

    with pytest.raises(MisfitError, match=r"pruner\.clip=.* its vision tower has hidden_size=32, the model's 96"):
        check(asked(folder))
    with pytest.raises(MisfitError, match=r"pruner\.clip=.*: this model's vision tower is no CLIP, but a qwen2_5_vl"):
        check(asked(folder, "model=tiny_qwen", "budget=ratio25"))
    with pytest.raises(ModelError, match=r"pruner\.clip=.*nowhere: the folder .* does not exist"):
        check(asked(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(ModelError, match=r"pruner\.clip=.* says model_type llava, not clip"):
        check(asked(tmp_path))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("tokenizer.json", r"pruner\.clip=\S+ lacks tokenizer.json"),
        ("model.safetensors", r"pruner\.clip=\S+ lacks model.safetensors; pytorch_model.bin is pickled"),
    ],
)
def test_parts_that_are_missing(tmp_path, file, message):
    vision = small_tower(image_size=4 * SIDE).to_dict()
    save_clip(tmp_path, vision)
    (tmp_path / file).rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=message):
        nuwa.prune(LLAVA.model(), nuwa.load_pruner("cdpruner", budget=KEEP, clip=str(tmp_path)))


def test_a_half_clip_is_refused(tmp_path):
    clip = CLIPModel.from_pretrained(save_clip(tmp_path, small_tower(image_size=4 * SIDE).to_dict()))
    clip.vision_model.save_pretrained(tmp_path / "half")
    (tmp_path / "config.json").rename(tmp_path / "half" / "config.json")
    (tmp_path / "tokenizer.json").rename(tmp_path / "half" / "tokenizer.json")
    with pytest.raises(ModelError, match=r"pruner\.clip=\S+: weights are missing"):
        load_joint_space(str(tmp_path / "half"), torch.device("cpu"))


def test_questions_have_to_be_there_and_to_fit(folder):
    model, pruner = LLAVA.model(), nuwa.load_pruner("cdpruner", budget=KEEP, clip=str(folder))
    with torch.no_grad(), nuwa.prune(model, pruner) as session:
        with pytest.raises(ValueError, match=r"pruner cdpruner with pruner\.clip .* session\.about\(questions"):
            model(**LLAVA.inputs("first"))
        about = session.about(questions=[SHORT])
        with about, pytest.raises(SessionError, match=r"about\(questions=\.\.\.\) is about 1 images, but .* has 2"):
            model(**LLAVA.inputs("two"))


def test_crops_of_llava_next(folder, tmp_path):
    family = FAMILIES["llava_next"]
    clip = save_clip(tmp_path, small_tower(image_size=16).to_dict(), family.model().model.vision_tower)
    pruner = nuwa.load_pruner("cdpruner", budget=35, clip=str(clip))
    with torch.no_grad(), nuwa.prune(family.model(), pruner) as session, session.about(questions=[SHORT, LONG]):
        family.model()(**family.inputs("two"))
    tall, square = session.report().images
    base, tiles = (sum(token < 16 for token in square.stages[0][1]), sum(token >= 16 for token in square.stages[0][1]))
    assert (base, tiles) == (7, 28)
    assert len(tall.stages[0][1]) == 35


def test_the_text_half_is_counted(folder):
    shape = ModelShape(layers=6, hidden=48, intermediate=96, kv_heads=2, head_dim=16, vision_hidden=32)
    extra = [
        nuwa.load_pruner("cdpruner", budget=KEEP, clip=clip).metric_flops(64, shape) for clip in (str(folder), None)
    ]
    text = 2 * (8 * LENGTH * 24**2 + 4 * LENGTH**2 * 24 + 4 * LENGTH * 24 * 48)
    assert extra[0] - extra[1] == text + 2 * 64 * 12 * (32 + 1) - 2 * 64 * 48

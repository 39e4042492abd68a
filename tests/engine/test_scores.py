"""What methods find of tokens inside the LLM: FastV's by hand, from a plain eager forward that tells its attention."""

import weakref
from contextlib import contextmanager

import pytest
import torch
from helpers.families import FAMILIES, PROMPTS
from helpers.families_toy import toy
from helpers.methods import METHODS, pruner_for
from helpers.support import IMAGE
from PIL import Image

import nuwa
from nuwa.pictures.traces import trace_decisions
from nuwa.pruning.budget import Budget
from nuwa.samples import Sample, Video

LLAVA = FAMILIES["llava"]
BATCH = ("middle", "two", "last")
"""Three prompts of different lengths with 1, 2 and 1 images."""
TOP_K = ("feather", "flashvid", "ivc_prune", "nuwa", "nuwa_release", "nuwa_release_qwen", "occamtoken", "pyramiddrop")
TOP_K += ("composed", "fastv", "sparsevlm_plus", "transprune")
"""Methods that keep the tokens with the highest scores, some of them after others that come first."""
OTHERS = {"cdpruner": "relevance", "holitom": "score", "prunevid": "score", "sparsevlm": "score"}
SILENT = ("dart", "saint", "vlm_pruner")
"""Methods that choose inside the LLM by no score of single tokens."""


@contextmanager
def contexts(pruner):
    """What a method is asked inside the LLM, by layer, and what it answers."""
    seen, decide = {}, pruner.prune_llm

    def prune_llm(context, keep):
        seen[context.layer] = context, decide(context, keep)
        return seen[context.layer][1]

    pruner.prune_llm = prune_llm
    yield seen
    del pruner.prune_llm


def asked(name, *prompts):
    """Contexts and answers of a method about a batch."""
    pruner = pruner_for(name)
    with torch.no_grad(), contexts(pruner) as seen, nuwa.prune(LLAVA.model(), pruner):
        LLAVA.model()(**LLAVA.inputs(*prompts, numbered=True))
    return seen


def attention_of_the_last_token(prompt, layer):
    """Mean over heads of a prompt's last row, of each image's tokens, by a model that is not pruned."""
    inputs = LLAVA.inputs(prompt)
    with torch.no_grad():
        rows = LLAVA.model("eager")(**inputs, output_attentions=True).attentions[layer][0, :, -1].mean(0)
    return rows[inputs["input_ids"][0] == IMAGE].split(LLAVA.model().config.image_seq_length)


@pytest.mark.parametrize("prompts", [BATCH, *((one,) for one in BATCH)], ids="-".join)
def test_fastv_scores_are_an_eager_models_attention(prompts):
    """In a padded batch, of several images, and of each row alone."""
    ((layer, (context, _)),) = asked("fastv", *prompts).items()
    for row, prompt in enumerate(prompts):
        expected = attention_of_the_last_token(prompt, layer - 1)
        assert len(expected) == len(PROMPTS[prompt][1])
        for image, attention in enumerate(expected):
            found = context.scores_of(row, image)
            assert list(found) == ["score"] and attention.std() > 1e-4
            torch.testing.assert_close(found["score"], attention, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", [*TOP_K, *OTHERS])
def test_scores_of_a_batch_are_those_of_its_rows(name):
    together = asked(name, *BATCH)
    for row, prompt in enumerate(BATCH):
        for layer, (context, _) in asked(name, prompt).items():
            for image in range(len(PROMPTS[prompt][1])):
                alone, found = context.scores_of(0, image), together[layer][0].scores_of(row, image)
                assert list(found) == list(alone) == [OTHERS.get(name, "score")]
                for score, other in zip(found.values(), alone.values(), strict=True):
                    torch.testing.assert_close(score, other, equal_nan=True, atol=1e-5, rtol=1e-4)


def test_every_method_inside_the_llm_tells_its_scores_or_is_known_not_to():
    inside = {name for name in METHODS if pruner_for(name).prunes_llm}
    assert inside == {*TOP_K, *OTHERS, *SILENT}
    assert not any(context.scores for name in SILENT for context, _ in asked(name, *BATCH).values())


@pytest.mark.parametrize("name", ["fastv", "nuwa", "pyramiddrop", "sparsevlm_plus", "transprune"])
def test_what_stays_has_the_highest_scores(name):
    """Of two images in a row, in every stage, and none of what had left before has a number."""
    there = {}
    for context, keep in asked(name, *BATCH).values():
        for image in (0, 1):
            mine = context.image[1] == image
            score, kept = context.scores_of(1, image)["score"], context.token[1, mine & keep[1]]
            best = score.nan_to_num(nan=-torch.inf).topk(len(kept)).indices
            assert set(best.tolist()) == set(kept.tolist())
            numbers = set((~score.isnan()).nonzero()[:, 0].tolist())
            assert numbers == there.get(image, numbers) and len(numbers) == int(mine.sum())
            there[image] = set(kept.tolist())


def test_feathers_grid_comes_first_and_its_scores_stay_attention():
    seen = [context.scores_of(0, 0)["score"] for context, _ in asked("feather", "middle").values()]
    assert len(seen) == 2 and all(score.nansum() == pytest.approx(1) for score in seen)  # softmax over the image


def test_scores_go_with_the_layer():
    """Nothing is kept of them where nobody asks: not by the session, and not by a cache that goes on."""
    pruner, kept = pruner_for("fastv"), []
    decide = pruner.prune_llm

    def prune_llm(context, keep):
        keep = decide(context, keep)
        kept.append(weakref.ref(context.scores["score"]))
        return keep

    pruner.prune_llm = prune_llm
    with torch.no_grad(), nuwa.prune(LLAVA.model(), pruner):
        output = LLAVA.model()(**LLAVA.inputs(*BATCH), use_cache=True)
        assert output.past_key_values and len(kept) == 1 and kept[0]() is None


def test_a_trace_has_them_by_stage_and_none_for_newlines():
    picture = Image.effect_noise((150, 84), 80).convert("RGB")
    loaded, pruner = toy("llava_next", weights_boost=3.0, layers=8), nuwa.load_pruner("feather", Budget(ratio=0.5))
    with nuwa.prune(loaded.model, pruner) as session:
        (trace,) = trace_decisions(session, loaded, Sample("one", "vqa", (picture,), "is it red?", ("yes",)))
        report = session.report().images[0]
    assert [stage.kept for stage in trace.stages] == [kept for _, kept, _ in report.stages]
    before, *inside = trace.stages
    assert before.layer == 0 and not before.scores and len(inside) == 2
    patches = set((trace.layout.source >= 0).nonzero()[:, 0].tolist())
    assert len(patches) < trace.layout.n_tokens
    for last, stage in zip(trace.stages, inside, strict=False):
        numbers = set((~stage.scores["score"].isnan()).nonzero()[:, 0].tolist())
        assert numbers == patches.intersection(last.kept) > patches.intersection(stage.kept)


def test_a_video_has_them_beside_those_of_a_picture():
    frames = tuple(Image.effect_noise((60, 40), 80).convert("RGB") for _ in range(3))
    loaded, clip = toy("llava_onevision", weights_boost=3.0, layers=4), Video(frames, (0.0, 0.5, 1.0))
    sample = Sample("one", "vqa", (frames[0],), "what happens?", "nothing", videos=(clip,))
    with nuwa.prune(loaded.model, nuwa.load_pruner("fastv", Budget(ratio=0.6), layer=0.5)) as session:
        picture, video = trace_decisions(session, loaded, sample)
    for trace, count in ((picture, picture.layout.n_tokens), (video, len(video.into))):
        (score,) = trace.stages[-1].scores.values()
        numbers, kept = (~score.isnan()).sum(), trace.stages[-1].kept
        assert len(score) == count and score[kept].nanmean() > score.nanmean() and len(kept) < numbers

"""``transformers.pipeline("image-text-to-text")`` prunes inside ``nuwa.prune``, and answers as ``generate`` does."""

import pytest
from helpers.published import picture
from transformers import LlavaProcessor, pipeline

import nuwa
from nuwa.models.random_vlm import load_random
from nuwa.samples import Sample

QUESTIONS = ("Is there a dog?", "What color is the car on the left?")


@pytest.fixture(scope="module")
def loaded():
    """A toy LLaVA-1.5 with an 8 x 8 grid."""
    return load_random(
        prompt="USER: {images}{text} ASSISTANT:",
        layers=4,
        hidden_size=32,
        intermediate_size=64,
        vision_hidden_size=32,
        vision_layers=2,
        image_size=112,
    )


@pytest.fixture(scope="module")
def pipe(loaded):
    """The pipeline of transformers on it."""
    processor = LlavaProcessor(
        image_processor=loaded.pictures.pil,
        tokenizer=loaded.tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return pipeline("image-text-to-text", model=loaded.model, processor=processor)


def answers(pipe, loaded):
    """What the pipeline says to each question on a picture of its own."""
    texts = [loaded.tokenizer.bos_token + loaded.prompt.render(question, 1) for question in QUESTIONS]
    images = [picture(number) for number in range(len(QUESTIONS))]
    pairs = zip(images, texts, strict=True)
    options = {"max_new_tokens": 6, "do_sample": False}
    found = [pipe(images=image, text=text, return_full_text=False, generate_kwargs=options) for image, text in pairs]
    return [one[0]["generated_text"].strip() for one in found]


@pytest.mark.parametrize("name", ["nuwa", "fastv"])
def test_a_pipeline_prunes_inside_a_session(name, pipe, loaded):
    full = answers(pipe, loaded)
    pruner = nuwa.load_pruner(name, budget=20)
    with nuwa.prune(loaded.model, pruner) as session:
        pruned = answers(pipe, loaded)
        report = session.report()
        assert report.images_seen == len(QUESTIONS) and sum(report.tokens_per_layer) / 4 == pytest.approx(20, abs=1)
        alone = []
        for number, question in enumerate(QUESTIONS):
            inputs = loaded.encode([Sample("", "vqa", (picture(number),), question, ("",))])
            ids = loaded.model.generate(**inputs, max_new_tokens=6, do_sample=False)
            alone += loaded.decode(ids, inputs["input_ids"].shape[1])
    assert pruned == alone
    assert answers(pipe, loaded) == full  # nothing is left behind

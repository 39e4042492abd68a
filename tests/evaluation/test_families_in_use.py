"""Families as people use them: photographs in a folder, transformers' pipeline, the bridge to lmms-eval."""

import json
import re
from types import SimpleNamespace

import pytest
from helpers.families_toy import toy
from helpers.jobs import compose
from helpers.lmms_stand_in import imported
from helpers.published import picture
from transformers import Qwen3VLProcessor, pipeline

import nuwa
from nuwa.evaluation.run import run_job
from nuwa.models.processors import text_processor
from nuwa.pruning.budget import Budget
from nuwa.samples import Sample

QWEN = ("qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5")
TILED = ("internvl", "smolvlm", "idefics3", "gemma3")
QUESTION = "Is there a dog?"


@pytest.fixture
def bridge(monkeypatch):
    yield from imported(monkeypatch)


@pytest.mark.parametrize("family", QWEN + TILED)
def test_photographs_in_a_folder_are_scored(tmp_path, family):
    picture(0).resize((300, 200)).save(tmp_path / "a.jpg")
    rows = ({"question": QUESTION, "answer": "yes"}, {"expression": "left dog", "box": [40, 20, 200, 120]})
    text = "\n".join(json.dumps({"image": "a.jpg", **row}) for row in rows)
    (tmp_path / "data.jsonl").write_text(text, encoding="utf-8")
    cfg = compose(
        f"model={family}_random", "model.layers=4", "dataset=local", "pruner=nuwa", "budget=ratio50", "baseline=skip",
        "logger=none", "trainer=cpu", "callbacks=none", "generation.max_new_tokens=3",
        f"dataset.path={tmp_path}", f"paths.outputs={tmp_path}/out")  # fmt: skip
    result = json.loads((run_job(cfg) / "result.json").read_text())
    assert result["status"] == "done" and result["n_failed"] == 0, result.get("traceback")
    assert result["n"] == 2 and {"vqa/exact_match", "vg/miou"} & result["metrics"].keys()
    assert result["tokens_entering"] == pytest.approx(result["tokens_per_image"] / 2, rel=0.05)


def qwen_processor(loaded):
    """Qwen3-VL's without its part for videos, which wants torchvision."""
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    ids = [loaded.tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names]
    known = zip(("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"), ids, strict=True)
    more = {"video_processor": None, "video_token": "<|video_pad|>", "chat_template": None, **dict(known)}
    return text_processor(Qwen3VLProcessor, loaded.pictures.pil, loaded.placeholder, tokenizer=loaded.tokenizer, **more)


def tiled_processor(loaded):
    """The family's own writer of the text for a picture, with what its constructor would read off a tokenizer."""
    processor, image = loaded.pictures.text_writer, re.escape(loaded.placeholder)
    loaded.tokenizer.image_token, loaded.tokenizer.image_token_id = (
        loaded.placeholder,
        loaded.model.config.image_token_id,
    )
    given = {"tokenizer": loaded.tokenizer, "image_token_id": loaded.model.config.image_token_id}
    absent = {"video_processor": None, "video_token": "<video>", "video_token_id": -1, "chat_template": None}
    patterns = {"multimodal_pattern": re.compile(f"(?P<image>{image})|(?P<video><video>)")}
    marks = {"fake_image_token_id": 0, "global_image_token_id": 0}
    vars(processor).update(given | absent | patterns | marks)
    return processor


@pytest.mark.parametrize("family", QWEN + TILED)
def test_a_pipeline_answers_as_generate_does_inside_a_session(family):
    loaded = toy(family)
    processor = qwen_processor(loaded) if family in QWEN else tiled_processor(loaded)
    pipe = pipeline("image-text-to-text", model=loaded.model, processor=processor)
    sample, options = Sample("", "vqa", (picture(0),), QUESTION, ("",)), {"max_new_tokens": 4, "do_sample": False}
    start = loaded.tokenizer.bos_token if family == "gemma3" else ""  # the pipeline adds none
    prompt = start + loaded.prompt.render(QUESTION, 1)

    def answers():
        said = pipe(images=picture(0), text=prompt, return_full_text=False, generate_kwargs=options)
        inputs = loaded.encode([sample])
        out = loaded.model.generate(**inputs, **options)
        return said[0]["generated_text"].strip(), loaded.decode(out, inputs["input_ids"].shape[1])[0]

    with nuwa.prune(loaded.model, nuwa.load_pruner("visionzip", Budget(ratio=0.25))) as session:
        pruned = answers()
        report = session.report()
        assert report.images_seen == 2 and report.average_entering < report.images[0].n_tokens / 3
    assert pruned[0] == pruned[1]


@pytest.mark.parametrize("family", QWEN + TILED)
def test_the_bridge_to_lmms_eval_takes_them(bridge, family):
    model = bridge.NuwaModel(pretrained=f"{family}_random", pruner="visionzip", budget=16, batch_size=2, device="cpu")
    model.task_dict = {"task": {"test": [{"seed": seed} for seed in range(2)]}}
    settings = {"max_new_tokens": 2, "temperature": 0}
    requests = [
        SimpleNamespace(
            args=(QUESTION, settings, lambda doc: [picture(doc["seed"]).resize((300, 200))], number, "task", "test")
        )
        for number in range(2)
    ]
    assert len(model.generate_until(requests)) == 2
    assert model.session.report().average_entering == 16

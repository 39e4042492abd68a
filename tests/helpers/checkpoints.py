"""What tests of checkpoint folders share."""

import json

from helpers.jobs import compose

from nuwa.config import build, typed

PROMPT = "USER: {images}{text} ASSISTANT:"
SMALL = {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 2, "vocab_size": 300} | {
    "vision_hidden_size": 32, "vision_layers": 2, "vision_heads": 2, "image_size": 56}  # fmt: skip


def save_random(folder, name, *overrides):
    """Save the random model ``conf/model/<name>.yaml`` as a checkpoint."""
    drawn = build(typed(compose(f"model={name}", *overrides), "model"))
    for part in (drawn.model, drawn.tokenizer, drawn.pictures.pil):
        part.save_pretrained(folder)


def edit_config(folder, change):
    """Change the checkpoint's config.json."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))

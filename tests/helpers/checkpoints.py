"""What tests of checkpoint folders share."""

import json

PROMPT = "USER: {images}{text} ASSISTANT:"
SMALL = {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 2, "vocab_size": 300} | {
    "vision_hidden_size": 32, "vision_layers": 2, "vision_heads": 2, "image_size": 56}  # fmt: skip


def edit_config(folder, change):
    """Change the checkpoint's config.json."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))

"""Write a training checkpoint as a folder that transformers loads, with its card and log.

``python -m nuwa.tiny.export --run outputs/tiny_llava --questions 500``: weights in bfloat16, configuration, tokenizer,
processor, ``train_log.csv`` and ``README.md``, whose accuracy table is measured on held-out scenes after export.
"""

import argparse
import shutil
from pathlib import Path
from string import Template

import torch
from transformers import GenerationConfig, LlavaImageProcessorPil, LlavaProcessor

from nuwa.tiny.evaluate import Score, evaluate
from nuwa.tiny.model import VISION_LAYERS, build_model
from nuwa.tiny.scenes import IMAGE_SIZE, PATCH
from nuwa.tiny.vocabulary import BOS, EOS, PAD, build_tokenizer

FOLDER = Path(__file__).with_name("llava")
CARD = Path(__file__).with_name("card.md")


def build_processor() -> LlavaProcessor:
    """LLaVA-1.5's preprocessing at 96 pixels: pad to a square with the mean colour, resize, normalise."""
    image = LlavaImageProcessorPil(
        do_pad=True,
        do_resize=True,
        size={"shortest_edge": IMAGE_SIZE},
        do_center_crop=False,
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.25, 0.25, 0.25],
    )
    return LlavaProcessor(
        image_processor=image,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def export_weights(checkpoint: Path, folder: Path) -> int:
    """Save model, tokenizer and processor of ``checkpoint`` in ``folder``; returns the step it was trained to."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = {name.removeprefix("model."): value for name, value in state["state_dict"].items()}
    model = build_model(seed=0)
    kept = {name: weights[name] for name in model.state_dict()}
    model.load_state_dict(kept)
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    processor = build_processor()
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    return state["global_step"]


def accuracy_table(scores: list[Score]) -> str:
    """Markdown rows of scores with their standard errors."""
    rows = [f"| {s.kind} | {s.asked} | {100 * s.accuracy:.1f} | {100 * s.error:.1f} |" for s in scores]
    return "\n".join(["| questions | n | right, % | s.e. |", "| --- | --- | --- | --- |", *rows])


def write_card(folder: Path, scores: list[Score], steps: int, notes: str) -> None:
    """Fill the card's template with what was measured and with ``notes`` on the run (hardware, time, restarts)."""
    weights = folder / "model.safetensors"
    values = {
        "accuracy": accuracy_table(scores),
        "steps": str(steps),
        "notes": notes.strip(),
        "megabytes": f"{weights.stat().st_size / 1e6:.1f}",
        "tower_layers": str(VISION_LAYERS),
    }
    (folder / "README.md").write_text(Template(CARD.read_text()).substitute(values))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("outputs/tiny_llava"))
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--questions", type=int, default=500, help="held-out questions per task for the card")
    parser.add_argument("--notes", type=Path, help="text file about the run (hardware, time, restarts) for the card")
    arguments = parser.parse_args()
    notes = arguments.notes.read_text() if arguments.notes else "None."
    steps = export_weights(arguments.run / "last.ckpt", arguments.out)
    shutil.copyfile(arguments.run / "log.csv", arguments.out / "train_log.csv")
    scores = [score for task in ("vqa", "vg") for score in evaluate(arguments.out, task, arguments.questions)]
    print(accuracy_table(scores))
    write_card(arguments.out, scores, steps, notes)


if __name__ == "__main__":
    main()

"""Write a training checkpoint as a folder that transformers loads, with its card and log.

``python -m nuwa.tiny.export llava --run outputs/tiny_llava --questions 500``: weights in bfloat16, configuration,
tokenizer, processor, ``train_log.csv`` and ``README.md``, whose accuracy table is measured on held-out scenes after
export.
"""

import argparse
import shutil
from pathlib import Path
from string import Template

import torch
from transformers import GenerationConfig

from nuwa.tiny.base import TinyModel
from nuwa.tiny.evaluate import KindAccuracy, evaluate
from nuwa.tiny.shipped import TINY_MODELS


def export_weights(tiny: TinyModel, checkpoint: Path, folder: Path) -> int:
    """Save model, tokenizer and processor of ``checkpoint`` in ``folder``; returns the step it was trained to."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = {name.removeprefix("model."): value for name, value in state["state_dict"].items()}
    model, words = tiny.build_model(seed=0), tiny.vocabulary
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.text_config.bos_token_id,
        eos_token_id=words.ids[words.eos],
        pad_token_id=words.ids[words.pad],
        do_sample=False,
    )
    model.bfloat16().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tiny.save_processor(folder)
    return state["global_step"]


def accuracy_table(scores: list[KindAccuracy]) -> str:
    """Markdown rows of scores with their standard errors."""
    rows = [f"| {s.kind} | {s.asked} | {100 * s.accuracy:.1f} | {100 * s.error:.1f} |" for s in scores]
    return "\n".join(["| questions | n | right, % | s.e. |", "| --- | --- | --- | --- |", *rows])


def write_card(tiny: TinyModel, folder: Path, scores: list[KindAccuracy], steps: int, notes: str) -> None:
    """Fill the model's card with what was measured and with ``notes`` on the run (hardware, time, restarts)."""
    weights = folder / "model.safetensors"
    values = {
        "accuracy": accuracy_table(scores),
        "steps": str(steps),
        "notes": notes.strip(),
        "megabytes": f"{weights.stat().st_size / 1e6:.1f}",
    }
    (folder / "README.md").write_text(Template(tiny.card.read_text()).substitute(values))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=TINY_MODELS)
    parser.add_argument("--run", type=Path, help="default: outputs/tiny_<model>")
    parser.add_argument("--out", type=Path, help="default: where the shipped weights are")
    parser.add_argument("--questions", type=int, default=500, help="held-out questions per task for the card")
    parser.add_argument("--notes", type=Path, help="text file about the run (hardware, time, restarts) for the card")
    arguments = parser.parse_args()
    tiny = TINY_MODELS[arguments.model]
    run, out = arguments.run or Path("outputs", f"tiny_{tiny.name}"), arguments.out or tiny.folder
    notes = arguments.notes.read_text() if arguments.notes else "None."
    steps = export_weights(tiny, run / "last.ckpt", out)
    shutil.copyfile(run / "log.csv", out / "train_log.csv")
    tasks = ("vqa", "vg")
    scores = [score for task in tasks for score in evaluate(out, tiny.name, task, arguments.questions)]
    print(accuracy_table(scores))
    write_card(tiny, out, scores, steps, notes)


if __name__ == "__main__":
    main()

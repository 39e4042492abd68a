"""Write a training checkpoint as a folder that transformers loads, with its card and log.

``python -m nuwa.tiny.export llava --run outputs/tiny_llava --questions 500``: weights in bfloat16, configuration,
tokenizer, processor, ``train_log.csv`` and ``README.md``, whose accuracy table is measured on held-out scenes after
export.
"""

import shutil
import sys
from argparse import Namespace
from pathlib import Path
from string import Template

import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from nuwa.command import argument, command
from nuwa.models.checkpoint import WEIGHTS
from nuwa.tiny.base import TinyModel
from nuwa.tiny.evaluate import evaluate
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
    use_published_names(folder / WEIGHTS)
    tiny.save_processor(folder)
    return state["global_step"]


def use_published_names(file: Path) -> None:
    """Name the tensors of a CLIP tower as published checkpoints do, which is how other programs (vLLM) look for them.

    transformers reads both, and writes shorter ones from 5.0 on.
    """
    written, published = "vision_tower.", "vision_tower.vision_model."
    tensors = {name.replace(published, written): values for name, values in load_file(file).items()}
    renamed = {name.replace(written, published): values for name, values in tensors.items()}
    save_file(renamed, file, metadata={"format": "pt"})
    file.chmod(0o644)


def accuracy_table(right: list[tuple[str, list[bool]]]) -> str:
    """Markdown rows of the shares of right answers, with their binomial standard errors.

    >>> print(accuracy_table([("vqa", [True, True, True, False])]))
    | questions | n | right, % | s.e. |
    | --- | --- | --- | --- |
    | vqa | 4 | 75.0 | 21.7 |
    """
    rows = ["| questions | n | right, % | s.e. |", "| --- | --- | --- | --- |"]
    for kind, hits in right:
        share = sum(hits) / len(hits)
        error = (share * (1 - share) / len(hits)) ** 0.5
        rows.append(f"| {kind} | {len(hits)} | {100 * share:.1f} | {100 * error:.1f} |")
    return "\n".join(rows)


@command(
    __doc__,
    argument("model", choices=TINY_MODELS),
    argument("--run", type=Path, help="default: outputs/tiny_<model>"),
    argument("--out", type=Path, help="default: where the shipped weights are"),
    argument("--questions", type=int, default=500, help="held-out questions per task for the card"),
    argument("--notes", type=Path, help="text file about the run (hardware, time, restarts) for the card"),
)
def main(options: Namespace) -> None:
    """Command line."""
    tiny = TINY_MODELS[options.model]
    run, out = options.run or Path("outputs", f"tiny_{tiny.name}"), options.out or tiny.folder
    notes = options.notes.read_text() if options.notes else "None."
    steps = export_weights(tiny, run / "last.ckpt", out)
    shutil.copyfile(run / "log.csv", out / "train_log.csv")
    tables = {}
    for name, how in tiny.conditions.items():
        right = [
            pair for task in tiny.tasks for pair in evaluate(out, tiny.name, task, options.questions, **how).items()
        ]
        tables[name] = accuracy_table(right)
        print(name, tables[name], sep="\n")
    size = (out / "model.safetensors").stat().st_size
    card = Template(Path(__file__).with_name(f"card_{tiny.name}.md").read_text())
    values = tables | {"steps": str(steps), "notes": notes.strip(), "megabytes": f"{size / 1e6:.1f}"}
    (out / "README.md").write_text(card.substitute(values))


if __name__ == "__main__":
    sys.exit(main())

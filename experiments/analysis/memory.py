"""Peak memory of both attention flows at LLaVA-1.5-7B's sizes: one decoder layer, 576 + about 60 tokens, 32 heads.

    python experiments/analysis/memory.py

Random weights, float32, two tower layers. Each number is this process's peak memory less what it held just before
(Linux only).
"""

from collections.abc import Callable
from pathlib import Path

import torch
from common import parts_of, write_csv
from PIL import Image

from nuwa import prune
from nuwa.analysis.gradients import watch_gradients
from nuwa.engine.calls import read_prompt_once, watch_layers
from nuwa.pruners.none import KeepAll
from nuwa.samples import Sample

SIZE = [
    "model=llava_1_5_7b_random",
    "model.layers=1",
    "model.vision_layers=2",
    "model.dtype=float32",
    "model.device=cpu",
]


def megabytes(field: str) -> float:
    """A field of this process's status: VmRSS, what it holds, or VmHWM, the most since the last reset."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def main() -> None:
    """The two flows beside a plain prefill, which they contain."""
    loaded, _, _ = parts_of(SIZE)
    words = "where is the red circle that stands to the left of the large blue square in this picture ? " * 2
    inputs = loaded.encode([Sample("one", "vg", (Image.new("RGB", (336, 336)),), words, None)])
    ids = torch.cat([inputs["input_ids"], inputs["input_ids"][:, -1:]], 1)
    rows = []

    def measure(what: str, work: Callable[[], object]) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before = megabytes("VmRSS")
        work()
        rows.append({"what": what, "tokens": ids.shape[1] - 1, "peak, MB": round(megabytes("VmHWM") - before, 1)})

    def flow() -> None:
        with watch_layers(session, lambda call: [None for _ in call.attention_chunks()]):
            read_prompt_once(session, inputs)

    def gradients() -> None:
        watch_gradients(session, inputs, ids, torch.tensor([1]), lambda seen: [None for _ in seen.attention_chunks()])

    with prune(loaded.model, KeepAll()) as session:
        read_prompt_once(session, inputs)
        measure("plain prefill", lambda: read_prompt_once(session, inputs))
        measure("attention flow", flow)
        measure("gradient-weighted flow", gradients)
    print(write_csv("memory", rows))
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()

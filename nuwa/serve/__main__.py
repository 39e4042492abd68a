"""An OpenAI-compatible server with a pruned model.

nuwa serve model=tiny_llava pruner=visionzip budget=avg64 position=pesp
"""

from __future__ import annotations

import os
import sys
from argparse import REMAINDER, Namespace

from nuwa.command import argument, command
from nuwa.overrides import check_groups, compose_job
from nuwa.serve.job import check_free, check_vllm, served_job

SERVER = "vllm.entrypoints.openai.api_server"
SERVE_GROUPS = ("model", "pruner", "budget", "position", "calibration", "coordinates", "blocking", "seed")
"""What of a run's choices has a meaning here, or is refused with its reason."""


@command(
    "An OpenAI-compatible server (vLLM) with a pruned model.",
    argument("overrides", nargs="*", metavar="key=value", help="as for nuwa run: model, pruner, budget, position"),
    argument("--print", action="store_true", dest="printed", help="print the vllm serve line, and do not start it"),
    argument("--vllm", nargs=REMAINDER, default=[], metavar="...", help="last: what follows goes to vLLM as it is"),
)
def main(options: Namespace) -> None:
    """Check, then print the line or become the server."""
    check_free(options.vllm)
    check_groups(options.overrides, SERVE_GROUPS, "of a server")
    job = served_job(compose_job(options.overrides))
    if options.printed:
        print(job.line(*options.vllm))
        return
    check_vllm()
    os.execv(sys.executable, [sys.executable, "-m", SERVER, "--model", str(job.folder), *job.flags(), *options.vllm])


if __name__ == "__main__":
    sys.exit(main())

"""An OpenAI-compatible server with a pruned model.

python -m nuwa.serve model=tiny_llava pruner=visionzip budget=avg64 position=pesp
"""

from __future__ import annotations

import os
import sys
from argparse import REMAINDER, Namespace

import hydra
from hydra.errors import HydraException

from nuwa.command import argument, command
from nuwa.config import check_overrides, register
from nuwa.pruners.catalogue import conf_folder
from nuwa.serve.job import ServedJob, check_vllm, served_job

SERVER = "vllm.entrypoints.openai.api_server"


def composed(overrides: list[str]) -> ServedJob:
    """The job of some overrides, as launch.py takes them."""
    check_overrides(overrides)
    register()
    try:
        with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return served_job(hydra.compose("config", overrides))
    except HydraException as error:
        raise ValueError(str(error).splitlines()[0]) from error


@command(
    "An OpenAI-compatible server (vLLM) with a pruned model.",
    argument("overrides", nargs="*", metavar="key=value", help="as for launch.py: model, pruner, budget, position"),
    argument("--print", action="store_true", dest="printed", help="print the vllm serve line, and do not start it"),
    argument("--vllm", nargs=REMAINDER, default=[], metavar="...", help="last: what follows goes to vLLM as it is"),
)
def main(options: Namespace) -> None:
    """Check, then print the line or become the server."""
    job = composed(options.overrides)
    if options.printed:
        print(job.line(*options.vllm))
        return
    check_vllm()
    os.execv(sys.executable, [sys.executable, "-m", SERVER, "--model", str(job.folder), *job.flags(), *options.vllm])


if __name__ == "__main__":
    sys.exit(main())

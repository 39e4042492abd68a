"""The program `nuwa`: ``nuwa report outputs/main`` is ``python -m nuwa.report outputs/main``, and so on."""

from __future__ import annotations

import sys
from runpy import run_module

from nuwa import __version__
from nuwa.command import COMMANDS


def help_text() -> str:
    """What there is to type, a line for each command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    usage = "usage: nuwa <command> ...\n\nPrune vision tokens in vision-language models, and see what it costs.\n"
    return "\n".join([usage, *lines, "", "`nuwa <command> --help` says more."])


def main() -> int:
    """Run a command as if its module had been; 2 if there is no such command.

    The module becomes ``__main__``: processes that it starts (``trainer=ddp``, launchers) find it by its name.
    """
    chosen = sys.argv[1] if len(sys.argv) > 1 else ""
    if chosen in COMMANDS:
        del sys.argv[1]
        run_module(COMMANDS[chosen][0], run_name="__main__", alter_sys=True)
    elif chosen in ("-h", "--help"):
        print(help_text())
    elif chosen == "--version":
        print(f"nuwa {__version__}")
    else:
        wrong = f"error: {chosen!r} is no command of nuwa\n\n" if chosen else ""
        print(f"{wrong}{help_text()}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

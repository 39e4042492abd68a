"""A page on which anybody can upload a picture, ask, and see what methods keep and what is answered then.

nuwa demo model=tiny_llava        # on http://127.0.0.1:7860, for this machine alone
"""

from __future__ import annotations

import html
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from nuwa import Budget, list_pruners, load_pruner, prune
from nuwa.ask import config_of, draw_kept, prepare
from nuwa.benchmarks.images import read_image
from nuwa.chat import Chat
from nuwa.command import BAD_INPUT, argument, command
from nuwa.config import ConfigError
from nuwa.models.loaded import LoadedModel
from nuwa.pruning.positions import STRATEGIES
from nuwa.samples import Sample

if TYPE_CHECKING:
    import gradio

DEMO_COLUMNS = ("method", "position", "tokens", "answer")
MOST_TOKENS = 64  # of an answer
LARGEST_FILE = "20mb"
Compared = tuple[str, str, str, str]
"""A line of the table, by `DEMO_COLUMNS`."""


def compare_methods(
    loaded: LoadedModel, shown: Sample, methods: Sequence[str], budget: float, positions: Sequence[str]
) -> Iterator[tuple[Compared, Image.Image | None]]:
    """What is answered to ``shown`` without pruning, and by every method at every position, each with its picture.

    ``budget`` is a number of tokens, or below 1 a share of them. A method that does not fit says why as its answer.
    """
    whole = Chat(loaded, shown, most_tokens=MOST_TOKENS).ask(shown.text)
    yield ("unpruned", "", "all", whole.text), None
    spent = Budget(ratio=budget) if budget < 1 else Budget(average=budget)
    for method, position in product(methods, positions):
        try:
            session = prune(loaded.model, load_pruner(method, spent), position)
            answer = Chat(loaded, shown, session, MOST_TOKENS).ask(shown.text)
            (picture,) = draw_kept(session, loaded, shown, answer.text)
        except BAD_INPUT as error:
            yield (method, position, "", f"refused: {error}"), None
            continue
        tokens = f"{session.report().average_entering:.4g}"
        yield (method, session.strategy, tokens, answer.text), picture


def build_page(loaded: LoadedModel) -> gradio.Blocks:
    """The page for one model; questions wait for each other."""
    import gradio as gr

    def answer(path: str | None, question: str, methods: list, budget: float | None, positions: list) -> Any:
        try:
            if path is None or not question.strip():
                raise ConfigError("choose a picture and ask something")
            shown = Sample.ask(question, read_image(Path(path).parent, Path(path).name))
            found = list(compare_methods(loaded, shown, methods, budget or 0, positions))
        except BAD_INPUT as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error
        drawn = [(picture, f"{row[0]}, {row[1]}") for row, picture in found if picture is not None]
        return [row for row, _ in found], drawn

    with gr.Blocks(title="Nüwa", analytics_enabled=False) as page:
        gr.Markdown(f"# What stays of a picture\n{loaded.name}, unpruned and pruned")
        with gr.Row():
            with gr.Column(scale=1):
                picture = gr.Image(type="filepath", image_mode=None, label="picture", sources=["upload", "clipboard"])
                question = gr.Textbox(label="question", value="what is in the picture ?")
                budget = gr.Number(label="tokens on average, or below 1 a share of them", value=64)
                methods = gr.Dropdown(list_pruners(), value=["nuwa", "visionzip"], multiselect=True, label="methods")
                positions = gr.CheckboxGroup(["native", *STRATEGIES], value=["pesp", "perc"], label="position ids")
                button = gr.Button("Ask", variant="primary")
            with gr.Column(scale=3):
                table = gr.Dataframe(headers=[*DEMO_COLUMNS], datatype="str", label="answers", wrap=True)
                gallery = gr.Gallery(label="kept tokens", columns=2, object_fit="contain", format="png")
        given = [picture, question, methods, budget, positions]
        button.click(answer, given, [table, gallery], concurrency_limit=1, api_name="ask")
    return page


@command(
    "A page to upload a picture, ask, and compare methods, budgets and positions (needs the extra demo).",
    argument("choices", nargs="*", help="model=<name> and its keys, trainer=cpu; as in nuwa run"),
    argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (127.0.0.1)"),
    argument("--port", type=int, default=7860),
)
def main(options: Namespace) -> None:
    """Load the model and serve the page until Ctrl-C."""
    if find_spec("gradio") is None:
        raise ConfigError("nuwa demo needs gradio: pip install 'nuwa-vlm[demo]', without -c constraints.txt")
    for choice in options.choices:
        if not choice.startswith(("model", "trainer")):
            raise ConfigError(f"{choice}: methods, budgets and positions are chosen on the page; give model=<name>")
    loaded, _ = prepare(config_of(options.choices))
    page = build_page(loaded)
    page.launch(server_name=options.host, server_port=options.port, share=False, max_file_size=LARGEST_FILE)


if __name__ == "__main__":
    sys.exit(main())

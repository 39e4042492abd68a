"""``nuwa demo``: what it compares, and the page itself in Chromium (by name: it needs gradio, playwright, chromium)."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.browser import HOSTILE, chromium, unharmed
from PIL import Image

import nuwa
from nuwa import demo
from nuwa.benchmarks.scenes import Scenes
from nuwa.chat import Chat

SCENE = Scenes(samples=2)[1]


@pytest.fixture(scope="module")
def loaded():
    return nuwa.load_model("tiny_llava", device="cpu")


def test_methods_answer_beside_each_other(loaded):
    """As each would alone; one that cannot reach the budget says so in its row."""
    found = list(demo.compare_methods(loaded, SCENE, ["visionzip", "none"], 64, ["pesp", "perc"]))
    rows = [row for row, _ in found]
    assert rows[0] == ("unpruned", "", "all", Chat(loaded, SCENE).ask(SCENE.text).text)
    for row, position in zip(rows[1:3], ("pesp", "perc"), strict=True):
        session = nuwa.prune(loaded.model, nuwa.load_pruner("visionzip", 64), position)
        assert row == ("visionzip", position, "64", Chat(loaded, SCENE, session).ask(SCENE.text).text)
    assert all(row[0] == "none" and row[3].startswith("refused: pruner none") for row in rows[3:])
    assert [picture is not None for _, picture in found] == [False, True, True, False, False]


def test_a_budget_below_1_is_a_share(loaded):
    _, (row, _) = demo.compare_methods(loaded, SCENE, ["grid"], 0.25, ["native"])
    assert row[1:3] == ("pesp", "144")


def test_what_belongs_on_the_page_is_refused(capsys, monkeypatch):
    monkeypatch.setattr("nuwa.demo.find_spec", lambda name: name)
    assert demo.main(["pruner=nuwa"]) == 1
    assert "pruner=nuwa: methods, budgets and positions are chosen on the page" in capsys.readouterr().err
    monkeypatch.setattr("nuwa.demo.find_spec", lambda name: None)
    assert demo.main([]) == 1
    assert "needs gradio: pip install 'nuwa-vlm[demo]'" in capsys.readouterr().err


@pytest.fixture
def page(loaded, tmp_path):
    """The page in a browser, and its model, whose answers a test may write."""
    pytest.importorskip("gradio")
    SCENE.images[0].resize((384, 384)).save(tmp_path / "scene.png")
    mine = replace(loaded)
    blocks = demo.build_page(mine)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    with chromium() as browser:
        tab = browser.new_page()
        tab.goto(url)
        yield tab, mine
    blocks.close()


def ask(tab, picture, question):
    tab.locator("input[type=file]").first.set_input_files(picture)
    tab.get_by_label("question").fill(question)
    tab.get_by_role("button", name="Ask").wait_for()
    tab.wait_for_load_state("networkidle")
    tab.get_by_role("button", name="Ask").click()


@pytest.mark.browser
@pytest.mark.timeout(300)
@pytest.mark.parametrize("deep", [False, True])
def test_a_picture_is_asked_about_in_a_browser(page, tmp_path, deep):
    """As its file is: Gradio alone would clip grey of 16 bits to white, and compress others once more."""
    tab, loaded = page
    if deep:
        grey = np.asarray(SCENE.images[0].resize((384, 384)).convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(tmp_path / "scene.png")
    ask(tab, tmp_path / "scene.png", SCENE.text)
    shown = nuwa.Sample.ask(SCENE.text, Image.open(tmp_path / "scene.png"))
    expected = Chat(loaded, shown).ask(SCENE.text).text
    tab.get_by_text("visionzip, perc").first.wait_for(timeout=120_000)
    cells = [cell.strip() for cell in tab.locator("[data-testid^=cell]").all_text_contents()]
    assert cells[:4] == ["unpruned", "", "all", expected] and cells.count("visionzip") == 2


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_what_a_model_says_is_text(page, tmp_path, monkeypatch):
    tab, loaded = page
    monkeypatch.setattr(loaded, "decode", lambda ids, length: [HOSTILE])
    ask(tab, tmp_path / "scene.png", HOSTILE)
    tab.get_by_text("visionzip, perc").first.wait_for(timeout=120_000)
    assert HOSTILE in [cell.strip() for cell in tab.locator("[data-testid^=cell]").all_text_contents()]
    assert unharmed(tab)


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_wrong_input_is_said_on_the_page(page, tmp_path):
    tab, _ = page
    tab.get_by_role("button", name="Ask").click()
    tab.get_by_text("choose a picture and ask something").wait_for(timeout=60_000)

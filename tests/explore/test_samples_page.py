"""The Samples tab in Chromium: filters, one sample, layers, tokens, the swipe, keys, and a phone."""

import json
from io import BytesIO

import pytest
from helpers.browser import HOSTILE, PHONE, unharmed
from helpers.jobs import small
from PIL import Image

from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.run import run_job
from nuwa.explore.__main__ import main

pytestmark = pytest.mark.browser
SIDE = 8
"""Patches a side of the toy model's picture."""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The unpruned run, Nüwa, VisionZip and FastV on eight scenes, and the page about them."""
    root = tmp_path_factory.mktemp("runs")
    for method, tokens in (("nuwa", 16), ("visionzip", 16), ("fastv", 20)):
        run_job(small(root, f"pruner={method}", "name=main", "dataset.samples=8", f"budget.average={tokens}"))
    assert main([str(root / "main")]) == 0
    return root / "main"


@pytest.fixture(scope="module")
def journals(outputs):
    """Rows by method and sample."""
    found = {}
    for path in outputs.glob(f"*/{JOURNAL}"):
        method = json.loads((path.parent / "result.json").read_text())["method"]
        found[method] = {row["id"]: row for row in read_rows(path)}
    return found


@pytest.fixture
def opened(open_page, outputs):
    """The page with a state, once it shows something."""

    def go(state="", **settings):
        page = open_page(outputs / "explorer" / "index.html", f"#{state}", **settings)
        page.locator(".card:visible, canvas:visible").first.wait_for()
        return page

    return go


def state(page):
    return dict(page.evaluate("[...new URLSearchParams(location.hash.slice(1))]"))


def ids(page):
    return page.locator(".card").evaluate_all("cards => cards.map((card) => card.dataset.sample)")


def key_of(outputs, method):
    return next(p.parent.name for p in outputs.glob("*/result.json") if json.loads(p.read_text())["method"] == method)


def sample(outputs, name="scene-0-1-vg", more=""):
    """The state of a sample under Nüwa as A and VisionZip as B."""
    return f"sample={name}&a={key_of(outputs, 'nuwa')}&b={key_of(outputs, 'visionzip')}{more}"


def decided(outputs):
    """What the page is told of a sample's only picture, under Nüwa and FastV."""
    files = [outputs / "explorer" / "data" / f"{key_of(outputs, method)}-0.js" for method in ("nuwa", "fastv")]
    traces = [json.loads(file.read_text().partition(", ")[2].removesuffix(");\n")) for file in files]
    return [trace["scene-0-1-vg"]["images"][0] for trace in traces]


def test_filters_leave_what_the_journals_say(opened, journals, outputs):
    page = opened()
    assert ids(page) == list(journals["none"]) and page.locator("#found").inner_text() == "8 of 8 samples"
    page.get_by_label("Task").select_option("vg")
    boxes = [name for name, row in journals["none"].items() if row["task"] == "vg"]
    assert ids(page) == boxes and len(boxes) == 4 and state(page)["task"] == "vg"
    page.get_by_label("Answers").select_option("A wrong")
    wrong = [name for name in boxes if journals["none"][name]["scores"]["vg/acc@0.5"] < 0.5]
    assert ids(page) == wrong
    page.reload()
    page.locator("#found").get_by_text(f"{len(wrong)} of 8").wait_for()
    assert ids(page) == wrong and page.get_by_label("Task").input_value() == "vg"
    page.get_by_role("button", name="Reset").click()
    word = journals["none"][boxes[0]]["prompt"].split()[-2]
    page.keyboard.press("/")
    page.keyboard.type(word)
    said = {name: [rows[name]["prediction"] for rows in journals.values()] for name in journals["none"]}
    found = [name for name, row in journals["none"].items() if word in f"{row['prompt']} {row['target']} {said[name]}"]
    assert ids(page) == found and 0 < len(found) < 8 and state(page) == {"q": word}
    page.get_by_label("IoU of A, from").fill("0.1")
    page.get_by_label("IoU of A, from").press("Enter")
    assert set(ids(page)) == {name for name in found if journals["none"][name]["scores"].get("vg/miou", 0) >= 0.1}


def test_runs_are_chosen_and_marked(opened, journals, outputs):
    page = opened()
    page.get_by_label("Run A").select_option("nuwa 16 pesp")
    page.get_by_label("Run C").select_option("visionzip 16 perc")
    assert state(page)["a"] == key_of(outputs, "nuwa") and state(page)["c"] == key_of(outputs, "visionzip")
    marks = page.locator(".card").first.locator(".mark")
    first = ids(page)[0]
    for number, method in ((0, "nuwa"), (2, "visionzip")):
        right = next(iter(journals[method][first]["scores"].values())) >= 0.5
        assert marks.nth(number).get_attribute("class") == f"mark {'right' if right else 'wrong'}"
    page.get_by_label("Filters").get_by_label("method").select_option("visionzip")
    assert page.get_by_label("Run D").locator("option").all_inner_texts() == ["none", "visionzip 16 perc"]


def faded(page, number):
    """Which cells of a canvas are plain white: all but the kept ones where they fade away in full."""
    shot = Image.open(BytesIO(page.locator("canvas").nth(number).screenshot())).convert("RGB")
    step = shot.width / SIDE
    middles = [(int((column + 0.5) * step), int((row + 0.5) * step)) for row in range(SIDE) for column in range(SIDE)]
    return [shot.getpixel(middle) == (255, 255, 255) for middle in middles]


def test_tokens_vanish_as_layers_pass(opened, journals, outputs):
    page = opened(sample(outputs, more="&fade=100&show=none"))
    (stages,) = journals["nuwa"]["scene-0-1-vg"]["kept"]
    assert len(stages) == 2
    for layer, kept in stages:
        page.get_by_role("slider", name="Layer").fill(str(layer))
        page.get_by_text(f"{kept} of 64 tokens", exact=True).wait_for()
        assert state(page)["layer"] == str(layer)
        assert faded(page, 0).count(False) == kept and faded(page, 1).count(False) == 16
    page.keyboard.press("Escape")
    page.get_by_role("slider", name="Layer").fill("-1")
    page.get_by_text("64 of 64 tokens").first.wait_for()
    assert not any(faded(page, 0))


def test_a_token_is_pointed_at_and_pinned_in_all_runs(opened, outputs):
    page = opened(sample(outputs))
    token = decided(outputs)[0]["left"].index(-1)
    row, column = divmod(token, SIDE)
    canvas = page.locator("canvas").first
    step = canvas.bounding_box()["width"] / SIDE
    where = {"x": (column + 0.5) * step, "y": (row + 0.5) * step}
    canvas.hover(position=where)
    page.get_by_text(f"{token}: row {row}, column {column}").nth(1).wait_for()
    said = page.locator("figure").first.locator("dl").inner_text()
    assert "stays to the end" in said and "PESP (in use)" in said and "rank" in said
    assert f", of row {row}, column {column}" in said
    canvas.click(position=where)
    page.mouse.move(0, 0)
    page.locator("figure dl").nth(1).wait_for()
    assert state(page)["pin"].startswith("0,")
    canvas.focus()
    page.keyboard.press("ArrowRight" if column < SIDE - 1 else "ArrowLeft")
    other = column + 1 if column < SIDE - 1 else column - 1
    page.get_by_text(f"row {row}, column {other}").first.wait_for()
    page.keyboard.press("Escape")
    page.locator("figure dl").first.wait_for(state="detached")
    assert "pin" not in state(page)


def test_scores_are_of_the_layer_at_which_tokens_leave(opened, outputs):
    """Before the LLM Nüwa's salience, FastV's at the only layer that has some; then Nüwa's second stage."""
    nuwa, fastv = decided(outputs)
    keys = f"a={key_of(outputs, 'nuwa')}&b={key_of(outputs, 'fastv')}"
    page = opened(f"sample=scene-0-1-vg&{keys}&show=scores&pin=0,0.01,0.01")
    by = page.locator("figcaption .counts")
    assert [said.partition("coloured by ")[2] for said in by.all_inner_texts()] == [
        "salience, before the LLM",
        f"score, layer {fastv['stages'][1]['layer']}",
    ]
    scores = fastv["stages"][1]["scores"]["score"]
    assert len(fastv["stages"]) == 2 and None not in scores and not fastv["stages"][0]["scores"]
    rank = 1 + sum(score > scores[0] for score in scores)
    assert f"rank {rank} of 64" in page.locator("figure dl").nth(1).inner_text()
    gone, left = nuwa["left"].index(0), nuwa["stages"][1]["layer"]
    page.get_by_role("slider", name="Layer").fill(str(left))
    by.first.get_by_text(f"coloured by score, layer {left}").wait_for()
    row, column = divmod(gone, SIDE)
    step = page.locator("canvas").first.bounding_box()["width"] / SIDE
    page.locator("canvas").first.hover(position={"x": (column + 0.5) * step, "y": (row + 0.5) * step})
    page.get_by_text("none: it had left").wait_for()


def test_a_token_is_kept_until_it_leaves(opened, outputs):
    _, fastv = decided(outputs)
    token, layer = next((token, left) for token, left in enumerate(fastv["left"]) if left > 0)
    row, column = divmod(token, SIDE)
    pin = f"&pin=0,{(column + 0.5) / SIDE},{(row + 0.5) / SIDE}"
    page = opened(f"sample=scene-0-1-vg&a={key_of(outputs, 'fastv')}{pin}&layer={layer - 1}")
    role = page.locator("figure dt", has_text="role").locator("+ dd")
    assert role.inner_text() == "kept"
    page.get_by_role("slider", name="Layer").fill(str(layer))
    role.get_by_text("dropped", exact=True).wait_for()


def test_a_swipe_shows_a_to_the_left_and_b_to_the_right(opened, outputs):
    page = opened(sample(outputs))
    page.get_by_role("button", name="Swipe").click()
    page.locator(".stack").wait_for()
    assert state(page)["view"] == "swipe" and page.get_by_role("button", name="Swipe").get_attribute("aria-pressed")
    page.get_by_label("swipe between A and B").fill("30")
    top = """share => { const stack = document.querySelector(".stack"), box = stack.getBoundingClientRect();
        const found = document.elementFromPoint(box.left + share * box.width, box.top + 20);
        return [...stack.querySelectorAll("canvas")].indexOf(found); }"""
    assert [page.evaluate(top, share) for share in (0.1, 0.25, 0.35, 0.9)] == [0, 0, 1, 1]


def test_keys_go_between_samples_and_layers(opened, journals, outputs):
    names = list(journals["none"])
    page = opened()
    page.locator(".card").first.focus()
    page.keyboard.press("Enter")
    page.get_by_text("1 of 8").wait_for()
    for key, at in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        page.get_by_text(f"{at + 1} of 8").wait_for()
        assert state(page)["sample"] == names[at]
    for key, layer in (("]", "1"), ("]", "2"), ("[", "1")):
        page.keyboard.press(key)
        assert state(page)["layer"] == layer
    page.keyboard.press("Escape")
    page.locator(".card").first.wait_for()
    assert "sample" not in state(page)
    page.go_back()
    page.locator("canvas").first.wait_for()
    assert state(page)["sample"] == names[1]


def test_the_run_is_told_with_its_command(opened, outputs):
    page = opened(sample(outputs))
    key = key_of(outputs, "nuwa")
    assert f"nuwa export {outputs / key} --out again" in page.locator(".run code").first.inner_text()
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    link = page.get_by_role("link", name=key).get_attribute("href")
    assert (outputs / "explorer" / link).resolve() == outputs / key / "result.json"


def test_a_phone_has_room_for_it(opened, outputs):
    page = opened(**PHONE)
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= 390 and not page.get_by_label("Task").is_visible()
    page.get_by_text("Filters and runs").click()
    page.get_by_label("Task").select_option("vg")
    assert page.locator("#found").inner_text() == "4 of 8 samples"
    page.locator(".card").first.tap()
    page.locator("canvas").first.wait_for()
    assert page.evaluate(wide) <= 390 and not page.get_by_label("Task").is_visible()
    page.locator("canvas").first.tap(position={"x": 20, "y": 20})
    page.locator("figure dl").first.wait_for()
    assert page.evaluate(wide) <= 390


def test_what_is_hostile_stays_text(open_page, tmp_path):
    """Of a sample with two pictures, a token of the second is told alone."""
    names = ['it\'s "a" <b>.png', "other.png"]
    for name in names:
        Image.new("RGB", (40, 30), "red").save(tmp_path / name)
    row = {"id": HOSTILE, "image": names, "question": HOSTILE, "answer": HOSTILE}
    boxed = {"id": "boxed", "image": names[0], "expression": "dog", "box": [1, 2, 30, 20]}
    (tmp_path / "data.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(boxed)}\n")
    local = ("dataset=local", "dataset.samples=null", f"dataset.path={tmp_path}", "baseline=skip", "name=local")
    root = run_job(small(tmp_path / "out", *local)).parent
    assert main([str(root)]) == 0
    page = open_page(root / "explorer" / "index.html")
    page.locator(".card", has_text="dog").click()  # of two tasks
    assert "vg/miou" in page.locator("aside").inner_text() and "vg_padded/miou" in page.locator("aside").inner_text()
    page.keyboard.press("Escape")
    page.locator(".card", has_text="owned").click()
    page.locator("canvas").nth(1).hover(position={"x": 5, "y": 100})
    page.locator("figure dl").wait_for()
    assert [bool(said) for said in page.locator(".token").all_inner_texts()] == [False, True]
    assert HOSTILE.split("\u2028")[0] in page.locator("aside").inner_text() and unharmed(page)

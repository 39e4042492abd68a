"""The Results tab in Chromium: what is known of the runs can be sorted, filtered, pointed at and followed."""

import json

import pytest
from helpers.browser import HOSTILE, PHONE, unharmed
from helpers.made_up import result, write_run

from nuwa.evaluation.result import write_result
from nuwa.explore.__main__ import main

pytestmark = pytest.mark.browser
# method, tokens, wrong samples, time relative to the unpruned model
RUNS = [("none", None, [], None), ("visionzip", 32, range(40), 0.3), ("nuwa", 64, range(5), 0.45),
        ("fastv", 96, range(3, 6), 0.4), ("random", 192, range(2), 0.75)]  # fmt: skip
SCORE = "gqa/exact_match"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """The page of six runs, one of which failed and says so in a hostile way."""
    folder = tmp_path_factory.mktemp("outputs")
    for run in RUNS:
        write_run(folder / run[0], *run)
    (folder / "hiprune").mkdir()
    failed = result("hiprune", {}, run_key="hiprune") | {"status": "failed", "reason": HOSTILE, "tokens_entering": None}
    write_result(folder / "hiprune", failed)
    assert main([str(folder)]) == 0
    return folder / "explorer" / "index.html"


@pytest.fixture
def results(open_page, index):
    """The tab, opened with a state."""

    def opened(state="", **settings):
        page = open_page(index, f"#tab=results{state}", **settings)
        page.locator("#results table").first.wait_for()
        return page

    return opened


def state(page):
    return dict(page.evaluate("[...new URLSearchParams(location.hash.slice(1))]"))


def column(page, title):
    """The texts of a column of the table of runs."""
    table = page.get_by_label("Table of runs")
    heads = [text.rstrip(" ▲▼") for text in table.locator("thead th").all_inner_texts()]
    return table.locator(f"tbody tr > :nth-child({heads.index(title) + 1})").all_inner_texts()


def test_a_heading_sorts_and_the_url_says_so(results):
    page = results()
    heading = page.get_by_label("Table of runs").get_by_role("button", name="tokens")
    heading.click()
    assert column(page, "tokens") == ["576", "192", "96", "64", "32", ""]
    assert state(page)["r.sort"] == "-tokens"
    page.reload()
    page.locator("#results table").first.wait_for()
    assert column(page, "tokens") == ["576", "192", "96", "64", "32", ""]
    heading.press("Enter")
    assert column(page, "tokens") == ["32", "64", "96", "192", "576", ""]
    assert page.locator("th[aria-sort=ascending] button:focus").inner_text() == "tokens ▲"
    heading.click()
    assert column(page, "method")[0] == "none" and "r.sort" not in state(page)


def test_words_choose_runs_everywhere(results):
    page = results()
    page.get_by_label("Runs with").fill("nuwa|VisionZip 64")
    assert column(page, "method") == ["nuwa"] and state(page)["r.runs"] == "nuwa|VisionZip 64"
    assert page.locator(".r-point").count() == 1
    page.get_by_label("Runs with").fill("nuwa|visionzip")
    assert column(page, "method") == ["nuwa", "visionzip"] and page.locator(".r-point").count() == 2
    assert page.locator(".r-tests tbody tr").count() == 2
    page.get_by_label("Runs with").fill("nothing like it")
    assert column(page, "method") == [] and "0 of 6 runs" in page.locator("#results").inner_text()
    page.get_by_label("Runs with").fill("")
    assert len(column(page, "method")) == 6


def test_columns_are_hidden_and_shown(results):
    page = results()
    page.get_by_text("Columns").click()
    page.get_by_label("tokens", exact=True).uncheck()
    page.get_by_label("dataset", exact=True).press("Space")
    assert page.get_by_label("dataset", exact=True).is_checked()
    assert page.evaluate("document.activeElement.type") == "checkbox"
    heads = page.get_by_label("Table of runs").locator("thead th").all_inner_texts()
    assert "tokens" not in heads and "dataset" in heads
    assert set(state(page)["r.columns"].split(";")) == {"tokens", "dataset"}


def test_a_hovered_point_says_what_it_is(results):
    page = results()
    page.locator(".r-point[aria-label^='nuwa 64 pesp'] .r-mark").hover()
    hint = page.locator(".r-hint").inner_text()
    assert hint.startswith("nuwa 64 pesp\nkeeps 97.5% [") and "64, 0.1111 of the unpruned model's" in hint
    page.mouse.move(0, 0)
    assert page.locator(".r-hint").is_hidden()


def test_a_point_leads_to_what_it_lost(results):
    page = results()
    page.locator(".r-point[aria-label^='visionzip'] .r-mark").click()
    expected = {"a": "none", "b": "visionzip", "task": "gqa", "verdict": "a_right_b_wrong", "tab": "samples"}
    assert {key: state(page)[key] for key in expected} == expected
    assert page.locator("#samples").is_visible() and "40" in page.locator("#found").inner_text()
    page.go_back()
    assert page.locator("#results").is_visible()


def test_points_by_keyboard(results):
    page = results()
    page.locator(".r-point[tabindex='0']").focus()
    names = []
    for _ in range(5):
        names.append(page.evaluate("document.activeElement.getAttribute('aria-label').split(',')[0]"))
        assert page.locator(".r-hint").is_visible()
        page.keyboard.press("ArrowRight")
    assert sorted(names) == ["fastv 96 pesp", "nuwa 64 pesp", "random 192 pesp", "unpruned", "visionzip 32 pesp"]
    page.locator(".r-point[aria-label^='fastv']").press("Enter")
    assert state(page)["b"] == "fastv"


def test_the_cost_and_its_front(results):
    """By tokens Nüwa is on the front, by time FastV is faster and keeps more."""
    page = results()
    on_front = "on the front"
    assert on_front in page.locator(".r-point[aria-label^='nuwa']").get_attribute("aria-label")
    cost = page.locator("select[name='r.cost']")
    cost.select_option([text for text in cost.locator("option").all_inner_texts() if "first token" in text])
    assert "cpu: x" in state(page)["r.cost"]
    assert on_front not in page.locator(".r-point[aria-label^='nuwa']").get_attribute("aria-label")
    assert on_front in page.locator(".r-point[aria-label^='fastv']").get_attribute("aria-label")


def test_a_test_leads_to_its_samples(results):
    """VisionZip loses 35 samples more than Nüwa: of 40, five are Nüwa's too."""
    page = results()
    names = page.locator(".r-tests tbody th").all_inner_texts()
    row, at = (next(n for n, name in enumerate(names) if method in name) for method in ("nuwa", "visionzip"))
    cell = page.locator(f".r-tests tbody tr:nth-child({row + 1}) td:nth-child({at + 2})")
    assert cell.inner_text() == "+0.175*" and "better" in cell.get_attribute("class")
    mirrored = page.locator(f".r-tests tbody tr:nth-child({at + 1}) td:nth-child({row + 2})")
    assert mirrored.inner_text() == "−0.175*" and "worse" in mirrored.get_attribute("class")
    cell.get_by_role("button").click()
    assert (state(page)["a"], state(page)["b"]) == ("nuwa", "visionzip")
    assert "35" in page.locator("#found").inner_text()


def test_a_score_leads_to_its_lost_samples(results):
    page = results("&r.runs=random")
    page.get_by_label("Table of runs").get_by_role("button", name="0.990").click()
    assert (state(page)["b"], state(page)["verdict"]) == ("random", "a_right_b_wrong")


def test_times_of_two_devices_stand_apart(open_page, tmp_path):
    for run, device in zip(RUNS, (None, None, "cuda: y", None, None), strict=True):
        write_run(tmp_path / run[0], *run, device=device)
    assert main([str(tmp_path)]) == 0
    page = open_page(tmp_path / "explorer" / "index.html", "#tab=results&r.sort=run")
    assert column(page, "first token, ms on 1") == ["24", "", "", "45", "18"]
    assert column(page, "first token, ms on 2") == ["", "", "27", "", ""]
    texts = page.locator("select[name='r.cost'] option").all_inner_texts()
    assert {text.split("(")[1][:4] for text in texts if "first token" in text} == {"cpu:", "cuda"}


def test_what_is_kept_of_a_part_can_be_shown(open_page, tmp_path):
    """Of a size, say, behind its headline; a metric beside it that is no part of it has its score alone."""
    for number, method in enumerate(("nuwa", "random")):
        metrics = {"read/exact_match": 0.5, "read/exact_match/small": 0.25, "read/other": 0.5}
        kept = {name: {"value": value + number / 10, "low": 0.2, "high": 0.8} for name, value in metrics.items()}
        (tmp_path / method).mkdir()
        row = {"id": "a", "task": "read", "status": "ok", "prediction": "7", "target": "7", "scores": metrics}
        (tmp_path / method / "predictions.jsonl").write_text(json.dumps(row | {"run_key": method}) + "\n")
        made = result(method, metrics, "plates", run_key=method, average=64, retention=kept)
        write_result(tmp_path / method, made | {"n": 1})
    assert main([str(tmp_path)]) == 0
    page = open_page(tmp_path / "explorer" / "index.html", "#tab=results&r.sort=run")
    page.get_by_text("Columns").click()
    page.get_by_label("read/exact_match/small kept", exact=True).check()
    assert [cell.split()[0] for cell in column(page, "read/exact_match/small kept")] == ["25.0%", "35.0%"]
    assert page.get_by_label("read/other", exact=True).count() == 1
    assert page.get_by_label("read/other kept", exact=True).count() == 0


def test_what_a_run_says_is_text(results):
    page = results("&r.runs=hiprune")
    assert unharmed(page) and "<b id=owned>" in column(page, "remark")[0]


@pytest.mark.parametrize("settings", [PHONE, {"color_scheme": "dark"}], ids=["phone", "dark"])
def test_nothing_sticks_out(results, settings):
    page = results(**settings)
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width == 0 and page.locator(".r-plot > svg").bounding_box()["width"] > 300
    ink, ground = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert ink != ground

"""Pages in Debian's Chromium, by Playwright, held to a quiet console and no network.

Needs the extra ``browser`` and ``chromium`` on the path; a test that runs by name fails without them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><b id=owned>**bold**</b>\u2028</script>"
"""A text that takes over a page which takes it for more than text; `unharmed` looks whether it did."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window, which is gone afterwards."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    assert program, "no chromium on the path: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def quiet_page(browser: Browser, **settings: Any) -> Iterator[Page]:
    """An offline page of its own; an error, a warning, or a request to anything but files fails the test at the end.

    ``settings`` are those of a Playwright context, e.g. ``viewport``, ``color_scheme``; `PHONE` has some.
    """
    seen: list[str] = []
    context = browser.new_context(offline=True, **settings)
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("console", lambda said: seen.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else seen.append(asked.url))
    try:
        yield page
    finally:
        context.close()
    assert not seen, "\n".join(seen)


def unharmed(page: Page) -> bool:
    """Whether `HOSTILE` stayed a text."""
    return page.title() != "owned" and page.locator("#owned").count() == 0

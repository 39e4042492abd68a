"""Files in a browser."""

from contextlib import ExitStack

import pytest
from helpers.browser import chromium, quiet_page


@pytest.fixture(scope="module")
def browser():
    """One browser for the tests of a file."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    """``open_page(path, hash, **settings)``: a file in a page of its own, as `quiet_page`."""
    with ExitStack() as pages:

        def opened(path, hash="", **settings):
            page = pages.enter_context(quiet_page(browser, **settings))
            page.goto(path.resolve().as_uri() + hash)
            return page

        yield opened

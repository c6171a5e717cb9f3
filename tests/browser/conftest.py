"""These tests run only when they are named, ``pytest tests/browser``; without a browser they then fail."""

import importlib.util
import os
import shutil

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def pytest_configure():
    missing = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
    if missing:
        raise pytest.UsageError(
            f"tests/browser needs {' and '.join(missing)}, not installed here: "
            "python -m pip install -r tests/browser/requirements.txt"
        )
    if BROWSER is None:
        raise pytest.UsageError("tests/browser needs Chromium, not installed here (Debian: apt install chromium)")


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright  # not above: what is missing shall be a sentence

    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=[*QUIET, *sandbox])
        yield running
        running.close()


class Opened:
    """A page in a window of its own.

    Attributes:
      page: playwright's.
      faults: what the console and the network said: errors, and requests for anything but the file.
    """

    def __init__(self, browser, path, fragment, **options):
        self.page, self.faults = browser.new_page(**options), []
        self.page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url, path))
        self.page.goto(path.as_uri() + fragment)

    def _note(self, url: str, path) -> None:
        if url.partition("#")[0] != path.as_uri() and not url.startswith("data:"):
            self.faults.append(url)


@pytest.fixture
def open_page(browser):
    """Opens a file; at the end nothing may have gone wrong, and nothing may have been asked for."""
    opened = []

    def open_it(path, fragment="", **options):
        opened.append(Opened(browser, path, fragment, **options))
        return opened[-1].page

    yield open_it
    for one in opened:
        one.page.close()
        assert one.faults == []

"""Pages opened from disk in a real headless browser, and everything that goes wrong in them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def launched() -> Iterator[Any]:
    """A browser of this machine; the test is skipped, with the reason, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright; install scoresde[test]")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Any, path: Path, width: int = 1280, dark: bool = False, script: bool = True
) -> Iterator[tuple[Any, list[str]]]:
    """A page and its faults so far: errors of the console, of scripts and of the content policy; what it fetched."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script, offline=True
    )
    page, faults = context.new_page(), []
    page.on("console", lambda message: message.type in ("error", "warning") and faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: _fetched(request.url) and faults.append(f"fetches {request.url}"))
    try:
        page.goto(path.resolve().as_uri())
        yield page, faults
    finally:
        context.close()


def _fetched(url: str) -> bool:
    return not url.startswith(("file:", "data:"))


def unseen(page: Any) -> list[str]:
    """The images that did not load whole, by their alternative text."""
    found = page.evaluate(
        """() => Promise.all([...document.images].map(image => image.decode().then(
            () => image.naturalWidth ? null : image.alt, () => image.alt || image.src.slice(0, 80))))"""
    )
    return [name for name in found if name is not None]


def overflow(page: Any) -> int:
    """By how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

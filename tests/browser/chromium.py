"""Debian's Chromium, driven by Playwright, and everything that goes wrong in a page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)

PATH = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
WIDE, PHONE = 1440, 375
_PATIENCE = 20_000  # milliseconds that something may take to come about on a busy machine
_REPORT_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", event =>
    console.error(`CSP ${event.effectiveDirective} refuses ${event.blockedURI} ${event.sample}`))
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """One browser; Playwright's own flags and those that keep it to itself."""
    with sync_playwright() as playwright:
        expect.set_options(timeout=_PATIENCE)
        browser = playwright.chromium.launch(executable_path=PATH, args=FLAGS)
        yield browser
        browser.close()


class Reader:
    """Somebody with one browser window. What goes wrong in any of its pages stands in ``problems``."""

    def __init__(self, browser: Browser, base: str, *, width: int, scheme: str, javascript: bool) -> None:
        self.problems: list[str] = []
        self._base = urlsplit(base).netloc
        self._expected: list[re.Pattern[str]] = []
        self.context: BrowserContext = browser.new_context(
            base_url=base,
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
            java_script_enabled=javascript,
            timezone_id="Europe/Vienna",
            locale="en-GB",
            reduced_motion="reduce",
        )
        self.context.set_default_timeout(_PATIENCE)
        self.context.route("**", self._only_ours)
        self.context.on("requestfailed", self._failed)
        self.context.on("response", lambda answer: self._status(answer.status, answer.url))
        self.context.on("console", self._said)
        self.context.on("weberror", lambda error: self.problems.append(f"exception: {error.error}"))
        if javascript:
            self.context.add_init_script(_REPORT_VIOLATIONS)
        self.page: Page = self.context.new_page()

    def expect_status(self, pattern: str) -> None:
        """An answer such as ``404 /programs/none`` is what the test is about."""
        self._expected.append(re.compile(pattern))

    def settle(self) -> None:
        """Wait until the page shows what it fetched and drew; a live stream never ends, so not silence."""
        self.page.wait_for_load_state("load")
        expect(self.page.locator("[aria-busy=true]")).to_have_count(0)

    def close(self) -> None:
        self.context.close()

    def _only_ours(self, route: Route) -> None:
        if urlsplit(route.request.url).netloc == self._base:
            route.fallback()
        else:
            self.problems.append(f"asks another host: {route.request.url}")
            route.abort()

    def _failed(self, request: Request) -> None:
        left = request.failure == "net::ERR_ABORTED"  # the reader went on before it was answered
        if not left:
            self.problems.append(f"failed: {request.url} {request.failure}")

    def _status(self, status: int, url: str) -> None:
        parts = urlsplit(url)
        told = f"{status} {parts.path}"
        if status >= 400 and not any(pattern.fullmatch(told) for pattern in self._expected):
            self.problems.append(told)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type not in {"error", "warning"}:
            return
        if message.text.startswith("Failed to load resource") and self._expected:
            return  # the answer itself is judged above
        self.problems.append(f"console {message.type}: {message.text}")

"""What a reader is told to notice, it notices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from browser.chromium import Reader
from browser.system import System


@pytest.fixture
def careless(browser, system: System, open_reader) -> Reader:
    """A reader whose problems are what the test is about."""
    reader = Reader(browser, system.url, width=800, scheme="light", javascript=True)
    yield reader
    reader.close()


def serve(reader: Reader, html: str, **headers: str) -> Page:
    """Show that page instead of the system's."""
    reader.context.route(
        "**/probe", lambda route: route.fulfill(body=html, content_type="text/html", headers=headers)
    )
    reader.page.goto("/probe")
    return reader.page


@pytest.mark.parametrize(
    ("html", "noticed"),
    [
        ("<script>console.error('oh')</script>", "console error: oh"),
        ("<script>missing()</script>", "exception: missing is not defined"),
        ("<img src='/none.png' alt=''>", "404 /none.png"),
        ("<img src='http://127.0.0.1:1/x.png' alt=''>", "asks another host: http://127.0.0.1:1/x.png"),
        ("<script>fetch('https://example.org/')</script>", "asks another host: https://example.org/"),
    ],
)
def test_it_notices(html: str, noticed: str, careless: Reader, eventually: Callable[..., None]) -> None:
    page = serve(careless, html)
    page.wait_for_load_state("load")

    def seen() -> bool:
        page.evaluate("1")  # lets Playwright tell what happened meanwhile
        return any(noticed in problem for problem in careless.problems)

    eventually(seen)


def test_it_notices_what_the_content_security_policy_refuses(careless: Reader, eventually) -> None:
    policy = {"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'"}
    page = serve(careless, "<p style='color: red'>x</p><script>1</script>", **policy)

    def seen() -> bool:
        page.evaluate("1")
        told = "\n".join(careless.problems)
        return "CSP style-src-attr" in told and "CSP script-src-elem" in told

    eventually(seen)


def test_a_page_with_nothing_wrong_leaves_nothing(careless: Reader) -> None:
    serve(careless, "<!doctype html><html lang=en><title>x</title><link rel=icon href='data:,'><p>fine")
    assert careless.problems == []

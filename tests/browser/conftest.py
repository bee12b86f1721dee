"""The running system, and readers with a browser before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page

from browser.chromium import WIDE, Reader, chromium
from browser.system import System, running


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Shared by all: a test may add to it, and must not break it."""
    with running(tmp_path_factory.mktemp("system")) as system:
        yield system


@pytest.fixture(scope="module")  # while it is open, no other event loop runs in this thread
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_reader(browser: Browser, system: System) -> Iterator[Callable[..., Reader]]:
    """Gives a reader of some width and colour scheme, with JavaScript or without; nothing may go wrong."""
    readers: list[Reader] = []

    def make(
        *, width: int = WIDE, scheme: str = "light", javascript: bool = True, url: str | None = None
    ) -> Reader:
        readers.append(Reader(browser, url or system.url, width=width, scheme=scheme, javascript=javascript))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()
    assert [problem for reader in readers for problem in reader.problems] == []


@pytest.fixture
def reader(open_reader: Callable[..., Reader]) -> Reader:
    """A reader on a wide, light screen."""
    return open_reader()


@pytest.fixture
def page(reader: Reader) -> Page:
    return reader.page

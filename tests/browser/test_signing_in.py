"""Behind keys, a reader signs in, reads, and signs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from browser.chromium import Reader
from browser.system import locked
from browser.test_pages import RULES
from dspy_ledger.keyring import ApiKey, Keyring


@pytest.fixture(scope="module")
def behind_keys(tmp_path_factory) -> Iterator[tuple[Keyring, str]]:
    with locked(tmp_path_factory.mktemp("locked")) as (settings, url):
        yield Keyring(settings.data_dir), url


@pytest.fixture
def key(behind_keys) -> tuple[str, ApiKey]:
    return behind_keys[0].create("a reader", "read")


@pytest.fixture
def reader(behind_keys, open_reader: Callable[..., Reader]) -> Reader:
    return open_reader(url=behind_keys[1])


def sign_in(reader: Reader, key: str) -> None:
    reader.page.get_by_label("Key").fill(key)
    reader.page.get_by_role("button", name="Sign in").click()


def test_who_has_no_session_signs_in_and_gets_the_page_that_was_asked_for(reader, key) -> None:
    reader.page.goto("/executions?status=ok")
    expect(reader.page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert Axe().run(reader.page, options=RULES).response["violations"] == []
    sign_in(reader, key[0])
    expect(reader.page.get_by_role("heading", level=1)).to_have_text("Executions")
    assert reader.page.url.endswith("/executions?status=ok")
    [cookie] = reader.context.cookies()
    assert cookie["httpOnly"]
    assert key[0] not in cookie["value"]


def test_a_wrong_key_is_told_and_may_be_typed_again(reader, key) -> None:
    reader.expect_status("401 /signin")
    reader.page.goto("/")
    sign_in(reader, "dlk_none_none")
    expect(reader.page.get_by_role("alert")).to_be_visible()
    sign_in(reader, key[0])
    expect(reader.page.get_by_role("heading", level=1)).to_have_text("Overview")


def test_after_signing_out_nothing_is_shown(reader, key) -> None:
    reader.page.goto("/")
    sign_in(reader, key[0])
    reader.page.get_by_role("button", name="Sign out").click()
    expect(reader.page.get_by_role("heading", level=1)).to_have_text("Sign in")
    reader.page.goto("/ledger")
    expect(reader.page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_a_revoked_key_ends_its_sessions(reader, key, behind_keys, eventually) -> None:
    reader.page.goto("/")
    sign_in(reader, key[0])
    expect(reader.page.get_by_role("heading", level=1)).to_have_text("Overview")
    behind_keys[0].revoke(key[1].id)

    def is_out() -> bool:
        reader.page.reload()
        return reader.page.get_by_role("heading", level=1).text_content() == "Sign in"

    eventually(is_out)


def test_a_list_that_is_followed_says_that_the_session_is_over_and_asks_no_more(
    reader, key, behind_keys
) -> None:
    """It was not live for ever, and asked for the stream every ten seconds."""
    reader.page.goto("/executions")
    sign_in(reader, key[0])
    state = reader.page.get_by_role("status").and_(reader.page.locator("[data-tail-state]"))
    expect(state).to_have_text("Live")
    reader.expect_status("401 /v1/events/stream")
    behind_keys[0].revoke(key[1].id)
    come_back = "document.dispatchEvent(new Event('visibilitychange'))"
    reader.page.evaluate(f"dispatchEvent(new Event('pagehide')); {come_back}")
    expect(state).to_have_text("Signed out: load the page again")
    reader.page.evaluate(come_back)
    assert state.text_content() == "Signed out: load the page again"

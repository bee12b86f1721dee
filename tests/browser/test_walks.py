"""What people come for, clicking only."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, Route, expect

from browser.chromium import Reader
from browser.system import System


def live(page: Page, address: str = "/executions") -> None:
    """The list of executions, following; a mark in the window tells a reload."""
    page.goto(address)
    expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    page.evaluate("window.mark = 1")


def row(page: Page, execution_id: str):
    return page.locator(f'tbody tr:has(a[href*="{execution_id}"])')


def test_from_the_overview_to_the_best_version_for_a_model_and_what_changed_in_it(page: Page) -> None:
    page.goto("/")
    page.get_by_role("main").get_by_role("link", name="Text Completion").first.click()
    best = page.get_by_role("region", name="Best version for each model").get_by_role("row")
    of_model = best.filter(has=page.get_by_role("rowheader", name="gpt-4o-mini"))
    expect(of_model.get_by_role("link", name="1.1.0", exact=True)).to_be_visible()
    of_model.get_by_role("link", name="What changed").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("What changed from 1.0.0 to 1.1.0")
    expect(page.get_by_text("Demos: 0 →")).to_be_visible()


def test_two_versions_are_chosen_compared_and_swapped(page: Page) -> None:
    page.goto("/programs/text_completion")
    page.get_by_label("Compare from 1.0.0").check()
    page.get_by_label("Compare to 1.1.0").check()
    page.get_by_role("button", name="Compare the two chosen").click()
    page.get_by_role("link", name="Swap").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("What changed from 1.1.0 to 1.0.0")


def test_charts_are_drawn(page: Page) -> None:
    page.goto("/programs/text_completion")
    charts = page.locator(".chart")
    for number in range(charts.count()):
        charts.nth(number).scroll_into_view_if_needed()
        expect(charts.nth(number).locator("svg").first).to_be_visible()


def test_an_execution_that_a_replica_records_shows_without_a_reload(page: Page, system: System) -> None:
    live(page)
    execution_id = system.record()
    expect(row(page, execution_id)).to_be_visible()
    assert row(page, execution_id).evaluate("row => row === row.parentElement.rows[0]")
    assert page.evaluate("window.mark") == 1
    row(page, execution_id).get_by_role("rowheader").get_by_role("link").click()
    expect(page.get_by_role("region", name="Inputs")).to_contain_text("live")


def test_while_paused_new_executions_are_counted_and_shown_when_it_goes_on(
    page: Page, system: System
) -> None:
    live(page)
    page.get_by_role("button", name="Pause").click()
    execution_id = system.record()
    expect(page.get_by_text("1 new")).to_be_visible()
    # Outside of what screen readers are told of at each change: the count has many.
    expect(page.get_by_role("status").filter(has_text="Paused")).to_have_text("Paused")
    expect(row(page, execution_id)).to_have_count(0)
    page.get_by_role("button", name="Go on").click()
    expect(row(page, execution_id)).to_be_visible()
    assert page.evaluate("window.mark") == 1


def test_only_what_fits_the_filters_comes_in(page: Page, system: System) -> None:
    page.goto("/executions")
    page.get_by_label("Status").select_option("error")
    page.get_by_role("button", name="Filter").click()
    live(page, page.url)
    fine = system.record()
    failed = system.record(status="error", error={"type": "TimeoutError", "message": "too slow"})
    expect(row(page, failed)).to_be_visible()
    expect(row(page, failed)).to_contain_text("TimeoutError: too slow")
    expect(row(page, fine)).to_have_count(0)


def news_only(page: Page, answer: Callable[[Route], None]) -> None:
    """Have the questions of a list that is followed, and no others, answered by this."""
    page.route(
        "**/executions*",
        lambda route: answer(route) if "ledger-after" in route.request.headers else route.fallback(),
    )


def test_the_next_page_goes_on_after_the_last_row_that_is_left(
    page: Page, system: System, eventually: Callable[..., None]
) -> None:
    """Of more new rows than a page has the newest were shown, and the rest were on no page."""
    live(page, "/executions?limit=1")
    listed: list[str] = []

    def all_three_at_once(route: Route) -> None:
        def folded() -> bool:
            found = system.get("/v1/programs/executions", limit=3)["items"]
            listed[:] = [each["execution_id"] for each in found]
            return set(listed) == recorded

        eventually(folded)
        route.continue_()

    news_only(page, all_three_at_once)
    recorded = {system.record() for _ in range(3)}
    expect(page.locator("tr.arrived")).to_have_count(1)
    newest, older, _ = listed
    expect(row(page, newest)).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.locator('a[rel="next"]').click()
    expect(row(page, older)).to_be_visible()


def test_a_question_that_is_refused_is_told_and_nothing_is_called_live(
    reader: Reader, system: System
) -> None:
    """The answer was passed over, and asked for again at once."""
    asked = []
    problem = '<p class="detail">the answer was not found within 5 s</p>'

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=503, content_type="text/html", body=problem)

    page = reader.page
    reader.expect_status("503 /executions")
    news_only(page, refuse)
    page.goto("/executions?service=none")
    expect(page.get_by_role("status").filter(has_text="Not live")).to_have_text(
        "Not live: the answer was not found within 5 s"
    )
    for _ in range(2):
        system.record()
    expect(page.get_by_text("Not live: the answer")).to_be_visible()
    assert len(asked) == 1


def test_following_begins_now_and_not_where_the_list_ended(page: Page) -> None:
    """Whoever came back to a page was sent all that had happened since."""
    with page.expect_request("**/v1/events/stream*") as stream:
        live(page)
    assert "after" not in stream.value.url
    assert "last-event-id" not in stream.value.headers


def test_choices_wait_for_their_button_unless_they_are_made_with_a_pointer(page: Page) -> None:
    """An arrow key on a choice loaded the page, and whoever uses the keyboard began at its top again."""
    page.goto("/programs/text_completion")
    page.evaluate("window.mark = 1")
    better = page.get_by_label("Better")
    better.focus()
    page.keyboard.press("ArrowDown")
    expect(better).to_have_value("lower")
    assert page.evaluate("window.mark") == 1
    page.get_by_role("region", name="Best version").get_by_role("button", name="Show").click()
    page.wait_for_url("**better=lower**")
    better.dispatch_event("pointerdown")
    better.select_option("higher")
    page.wait_for_url("**better=higher**")


def test_as_of_a_moment_nothing_later_shows_until_one_goes_to_now(page: Page, system: System) -> None:
    before = int(system.get("/v1/programs/executions", limit=1)["items"][0]["position"])
    live(page)
    execution_id = system.record()
    expect(row(page, execution_id)).to_be_visible()
    page.get_by_text("As of now").click()
    page.get_by_label("Position, or time in UTC").fill(str(before))
    page.get_by_role("button", name="Show").click()
    banner = page.get_by_role("complementary", name="Moment")
    expect(banner).to_contain_text("As of position")
    expect(page.locator(f'tr[data-position="{before}"]')).to_be_visible()
    expect(row(page, execution_id)).to_have_count(0)
    page.get_by_role("link", name="Overview").click()
    expect(banner).to_be_visible()
    page.get_by_role("link", name="Executions").click()
    expect(row(page, execution_id)).to_have_count(0)
    banner.get_by_role("link", name="Go to now").click()
    expect(row(page, execution_id)).to_be_visible()


def test_older_executions_are_a_page_away(page: Page) -> None:
    page.goto("/executions")
    first = page.locator("tbody tr").first.get_attribute("data-position")
    page.locator('a[rel="next"]').click()
    expect(page.locator("tbody tr").first).to_be_visible()
    oldest = page.locator("tbody tr").first.get_attribute("data-position")
    assert int(oldest or 0) < int(first or 0)

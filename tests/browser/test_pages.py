"""Every page, as it is read: what it tells, by whom it can be read, and that nothing goes wrong in it."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from browser.chromium import PHONE, Reader
from browser.system import System, paths

# What somebody looks for on each page over the demo's data: names and texts as they are read.
FACTS = {
    "overview": ("Overview", ["Text Completion", "Contact Extractor", "1.1.0"]),
    "program": ("Text Completion", ["Best version for each model", "gpt-4o-mini", "BootstrapFewShot"]),
    "version": ("Text Completion 1.1.0", ["BootstrapFewShot", "pm.load_program", "gpt-4.1-nano"]),
    "compare": ("What changed from 1.0.0 to 1.1.0", ["Demos: 0 →", "added"]),
    "evaluation": ("Evaluation of 1.1.0", ["score", "The lowest scores first"]),
    "executions": ("Executions", ["Text Completion", "gpt-4o-mini", "1.1.0"]),
    "execution": ("Text Completion", ["1.1.0", "Calls", "Inputs", "Outputs", "ChatAdapter"]),
    "ledger": ("Ledger", ["projector runs", "SQL read models", "JSON directory", "/producers/"]),
}
PAGES = list(FACTS)
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


HOW_MANY = """[...document.querySelectorAll("a[href], button, input, select, summary, [tabindex]")]
    .filter(element => element.checkVisibility() && element.tabIndex >= 0).length"""
WHERE = """() => {
    const element = document.activeElement;
    if (!element || element === document.body) return null;
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
    return {
        number: [...document.querySelectorAll("*")].indexOf(element),
        text: element.textContent.trim(),
        visible: (outlined || style.boxShadow !== "none") && box.width > 0 && box.bottom > 0 && box.right > 0,
    };
}"""


def show(reader: Reader, system: System, name: str) -> Page:
    reader.page.goto(paths(system.url)[name])
    reader.settle()
    return reader.page


def check_facts(page: Page, name: str) -> None:
    heading, facts = FACTS[name]
    expect(page.get_by_role("heading", level=1)).to_contain_text(heading)
    for fact in facts:
        expect(page.get_by_role("main")).to_contain_text(fact)


@pytest.mark.parametrize("name", PAGES)
def test_it_tells_what_one_looks_for(reader: Reader, system: System, name: str) -> None:
    check_facts(show(reader, system, name), name)


@pytest.mark.parametrize("name", PAGES)
def test_it_tells_the_same_without_javascript(open_reader, system: System, name: str) -> None:
    reader = open_reader(javascript=False)
    reader.page.goto(paths(system.url)[name])
    check_facts(reader.page, name)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(open_reader, system: System, name: str, scheme: str) -> None:
    page = show(open_reader(scheme=scheme), system, name)
    report = Axe().run(page, options=RULES)
    assert report.response["violations"] == [], report.generate_report()


@pytest.mark.parametrize("name", PAGES)
def test_on_a_phone_it_fits_and_everybody_can_read_it(open_reader, system: System, name: str) -> None:
    page = show(open_reader(width=PHONE), system, name)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    report = Axe().run(page, options=RULES)
    assert report.response["violations"] == [], report.generate_report()


@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_reaches_everything_and_one_sees_where_it_is(
    reader: Reader, system: System, name: str
) -> None:
    page = show(reader, system, name)
    wanted = page.evaluate(HOW_MANY)
    reached: list[dict[str, object]] = []
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        focused = page.evaluate(WHERE)
        if focused is None or (reached and focused["number"] == reached[0]["number"]):
            break
        reached.append(focused)
    assert reached[0]["text"] == "Skip to the content"
    assert [each["text"] for each in reached if not each["visible"]] == []
    positions = [each["number"] for each in reached]
    assert positions == sorted(positions)  # in the order in which it is read
    texts = [each["text"] for each in reached]
    assert {"Overview", "Executions", "Ledger"} <= set(texts)


def test_the_skip_link_leads_to_the_content(page: Page) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()


def test_a_slash_goes_to_the_filter(page: Page) -> None:
    page.goto("/executions")
    page.keyboard.press("/")
    expect(page.get_by_label("Program")).to_be_focused()


def test_colours_change_at_a_click_and_stay_so(reader: Reader) -> None:
    page = reader.page
    background = "getComputedStyle(document.body).backgroundColor"
    page.goto("/")
    light = page.evaluate(background)
    page.get_by_role("button", name="Colours").click()
    dark = page.evaluate(background)
    assert dark != light
    page.goto("/ledger")
    assert page.evaluate(background) == dark
    page.get_by_role("button", name="Colours").click()
    assert page.evaluate(background) == light


def test_times_are_the_readers_and_say_whose(page: Page) -> None:
    page.goto("/executions")
    expect(page.get_by_text("Times are in Europe/Vienna")).to_be_visible()
    expect(page.locator("tbody time").first).to_have_attribute("title", re.compile(r"\d UTC$"))


@pytest.mark.parametrize("path", ["/programs/none", "/programs/text_completion/versions/9.9.9", "/nowhere"])
def test_what_is_not_there_is_a_page_that_leads_back(reader: Reader, path: str) -> None:
    reader.expect_status(f"404 {path}")
    reader.page.goto(path)
    reader.page.get_by_role("main").get_by_role("link", name="Overview").click()
    expect(reader.page.get_by_role("heading", level=1)).to_have_text("Overview")

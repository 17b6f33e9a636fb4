"""The page in a browser: what a person does with it, and that nothing of a conversation becomes markup."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.server.browser import CHROMIUM, FLAGS
from tests.server.conftest import ThreadServer

playwright_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"
)

expect = playwright_api.expect
expect.set_options(timeout=20_000)
ATTACK = "<img src=x onerror=document.title='owned'> **bold** `code` [x](javascript:alert(1))"


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright_api.Browser]:
    with playwright_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: playwright_api.Browser, server: ThreadServer) -> Iterator[playwright_api.Page]:
    opened = browser.new_page(viewport={"width": 1000, "height": 700})
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.set_default_timeout(20_000)
    opened.goto(server.url)
    yield opened
    opened.close()
    assert faults == [], faults


def send(page: playwright_api.Page, text: str) -> None:
    page.fill("#message", text)
    page.press("#message", "Enter")


def test_talk_retry_edit_fork_and_navigate(page: playwright_api.Page) -> None:
    whole = page.locator(".message.assistant:not([aria-busy])")
    page.click("#show-settings")
    page.fill("#set-temperature", "1.5")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#status")).to_contain_text("settings saved")
    send(page, "Who is niels?")
    expect(whole).to_have_count(1)
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("2/2")).to_be_visible()
    page.get_by_role("button", name="Version before").click()
    expect(page.get_by_text("1/2")).to_be_visible()
    page.get_by_role("button", name="Edit").click()
    page.fill("#ask-value", "What can you do?")
    page.get_by_role("button", name="OK").click()
    expect(page.locator(".message.user")).to_contain_text("What can you do?")
    expect(whole).to_have_count(1)
    page.click("#show-tree")
    nodes = page.locator("#panel svg g")
    expect(nodes).to_have_count(6)
    page.locator("#panel svg g.user").first.press("Enter")
    expect(page.locator(".message.user")).to_contain_text("Who is niels?")
    page.get_by_role("button", name="Probabilities").click()
    page.locator(".token").nth(1).click()
    before = page.url
    page.get_by_role("button", name="Fork here with").nth(1).click()
    expect(page).not_to_have_url(before)
    expect(whole).to_have_count(1)
    page.click("#replay")
    expect(page.locator(".verdict.exact")).to_have_count(1)
    expect(page.locator("#status")).to_contain_text("replay: exact")


def test_a_reload_in_the_middle_of_a_reply_continues_it_and_stop_stops_it(
    page: playwright_api.Page, server: ThreadServer
) -> None:
    server.brake.moving.clear()
    send(page, "Who is niels?")
    expect(page.locator("[aria-busy]")).to_have_count(1)
    page.reload()
    expect(page.locator("[aria-busy]")).to_have_count(1)
    expect(page.locator("#send")).to_have_text("Stop")
    server.brake.moving.set()
    expect(page.locator(".message.assistant:not([aria-busy])")).to_have_count(1)
    server.brake.moving.clear()
    send(page, "And you?")
    expect(page.locator("#send")).to_have_text("Stop")
    threading.Timer(0.3, server.brake.moving.set).start()
    page.click("#send")
    expect(page.get_by_text("assistant (stopped)")).to_be_visible()


def test_what_people_and_files_say_stays_text(page: playwright_api.Page) -> None:
    send(page, ATTACK)
    expect(page.locator(".message.assistant:not([aria-busy])")).to_have_count(1)
    page.click("#rename")
    page.fill("#ask-value", "<b onclick=alert(1)>name</b>")
    page.get_by_role("button", name="OK").click()
    expect(page.locator("#name")).to_have_text("<b onclick=alert(1)>name</b>")
    assert page.locator(".message.user .body").inner_text() == ATTACK
    assert page.locator("#messages img, #messages [onerror], #name b, #sessions b").count() == 0
    assert "owned" not in page.title()


def test_a_phone_shows_everything_and_labels_name_every_control(page: playwright_api.Page) -> None:
    send(page, "Who is niels?")
    expect(page.locator(".message.assistant:not([aria-busy])")).to_have_count(1)
    page.set_viewport_size({"width": 360, "height": 700})
    box = page.locator("main").bounding_box()
    assert box is not None
    assert box["width"] <= 360
    for control in page.locator("button:visible, input:visible, textarea:visible").all():
        place = control.bounding_box()
        assert place is not None
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= 360
    page.click("#menu")
    expect(page.locator("#sidebar")).to_be_visible()
    page.click("#new")
    expect(page.locator("#sidebar")).not_to_be_visible()
    unnamed = page.locator("button:not([aria-label]), input, textarea").all()
    for control in unnamed:
        identity = control.get_attribute("id")
        labelled = identity is not None and page.locator(f"label[for={identity}]").count() == 1
        assert labelled or (control.text_content() or "").strip(), control


def faults_of(page: playwright_api.Page) -> list[str]:
    """What axe finds on the page: rules of accessibility with the elements that break them."""
    found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{each['impact']} {each['id']}: {node['html']} {node['failureSummary']}"
        for each in found
        for node in each["nodes"]
    ]


def test_axe_finds_nothing(page: playwright_api.Page) -> None:
    assert faults_of(page) == []
    send(page, "Who is niels?")
    expect(page.locator(".message.assistant:not([aria-busy])")).to_have_count(1)
    page.get_by_role("button", name="Probabilities").click()
    page.locator(".token").nth(1).click()
    expect(page.get_by_role("button", name="Fork here with").first).to_be_visible()
    for scheme in "light", "dark":
        page.emulate_media(color_scheme=scheme)
        assert faults_of(page) == [], scheme
    page.click("#show-tree")
    expect(page.locator("#panel svg g").first).to_be_visible()
    assert faults_of(page) == []
    page.click("#show-settings")
    expect(page.locator("#set-temperature")).to_be_visible()
    assert faults_of(page) == []
    # The control: without its labels the page is at fault.
    page.evaluate("document.querySelectorAll('label').forEach(each => each.remove())")
    assert any("critical label" in fault for fault in faults_of(page))

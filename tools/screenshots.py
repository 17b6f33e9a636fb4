"""Take the screenshots of the page that docs/server.md shows: `python -m tools.screenshots`.

Starts niels-serve on a store that is thrown away, drives Debian's chromium, and writes docs/server/*.png.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, expect, sync_playwright

from tests.server.browser import CHROMIUM, FLAGS
from tests.server.server_process import ServerProcess

FOLDER = Path(__file__).parent.parent / "docs" / "server"
WIDE: ViewportSize = {"width": 1200, "height": 760}
NARROW: ViewportSize = {"width": 390, "height": 780}
QUESTIONS = ("Hi! Who is niels?", "What can you do?", "How do I fork a conversation?")


def _talk(page: Page) -> None:
    whole = page.locator(".message.assistant:not([aria-busy])")
    for number, question in enumerate(QUESTIONS, 1):
        page.fill("#message", question)
        page.press("#message", "Enter")
        expect(whole).to_have_count(number)
    for version in ("2/2", "3/3"):
        page.locator(".message.user").nth(1).get_by_role("button", name="Retry").click()
        expect(page.get_by_text(version)).to_be_visible()


def main() -> int:
    """Write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(Path(folder)) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport=WIDE, color_scheme="light")
        page.goto(server.url)
        page.click("#show-settings")
        page.fill("#set-temperature", "3")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#status")).to_contain_text("settings saved")
        page.click("#show-settings")
        _talk(page)
        page.screenshot(path=FOLDER / "wide.png")
        page.click("#show-tree")
        page.screenshot(path=FOLDER / "tree.png")
        page.click("#show-tree")
        page.get_by_role("button", name="Probabilities").last.click()
        page.locator(".token:not(.p0)").first.click()
        page.locator(".why").scroll_into_view_if_needed()
        page.screenshot(path=FOLDER / "probabilities.png")
        page.get_by_role("button", name="Probabilities").last.click()
        page.click("#replay")
        page.wait_for_selector(".verdict.exact")
        page.emulate_media(color_scheme="dark")
        page.screenshot(path=FOLDER / "dark.png")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(NARROW)
        page.screenshot(path=FOLDER / "narrow.png")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The pictures of the documents in a browser: they render, and their runs of blanks are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.browser import CHROMIUM, FLAGS

playwright_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"
)

DOCS = Path(__file__).resolve().parents[2] / "docs"
# Blanks that a browser drops are characters without a place; line ends only lay out the file.
LOST = """texts => texts.map(each => [each.getNumberOfChars(), each.textContent])
    .filter(([placed, text]) => !text.includes("\\n") && placed !== text.length)"""


def test_every_picture_renders_and_keeps_its_blanks(tmp_path: Path) -> None:
    drawn = sorted(DOCS.rglob("*.svg"))
    assert {each.name for each in drawn} >= {"chat.svg", "bdh-state.svg"}
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        for picture in [*drawn, *sorted(DOCS.rglob("*.png"))]:
            (tmp_path / "page.html").write_text(f'<img src="{picture.as_uri()}">', encoding="utf-8")
            page.goto((tmp_path / "page.html").as_uri())
            assert page.evaluate("document.images[0].naturalWidth") > 100, picture.name
        for picture in drawn:
            page.goto(picture.as_uri())
            assert page.locator("text").count() > 10, picture.name
            assert page.eval_on_selector_all("text", LOST) == [], picture.name
        # The control: without its attribute the recording loses columns.
        spoilt = tmp_path / "spoilt.svg"
        spoilt.write_text(
            (DOCS / "chat.svg").read_text("utf-8").replace(' xml:space="preserve"', ""), "utf-8"
        )
        page.goto(spoilt.as_uri())
        assert page.eval_on_selector_all("text", LOST) != []
        browser.close()

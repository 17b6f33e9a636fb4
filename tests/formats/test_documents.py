"""Markdown and HTML: documents to read, in which no text is obeyed."""

from __future__ import annotations

import io
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sessions import SessionArchive, Store
from sessions.formats import ExportRefused, write_sessions

from .conftest import ask


def written(archive: SessionArchive, format_name: str) -> str:
    out = io.StringIO()
    write_sessions([archive], out, format_name=format_name)
    return out.getvalue()


def talk(store: Store, said: str) -> SessionArchive:
    session = store.create_session("<b>*bold* & co", seed=1, system=None, settings={})
    ask(store, session, said, "fine")
    return store.export_session(session.id)


class Seen(HTMLParser):
    """The tags and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


HOSTILE = '</div><script>alert(1)</script><img src=x onerror="a()"> " \' \x1b[2J\x7f\x85 \u202e &amp;'


def test_html_shows_every_text_and_runs_none(store: Store) -> None:
    page = Seen(written(talk(store, HOSTILE), "html"))
    shown = (
        HOSTILE.replace("\x1b", "\u241b")
        .replace("\x7f", "\u2421")
        .replace("\x85", "\ufffd")
        .replace("\u202e", "\ufffd")
    )
    assert shown in page.texts
    assert "<b>*bold* & co" in page.texts
    assert not set(page.tags) & {"script", "img", "b", "link", "iframe"}
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in {"src", "href"}]


def test_html_needs_nothing_else_and_has_a_light_and_a_dark_dress(archive: SessionArchive) -> None:
    page = written(archive, "html")
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page


def test_html_tells_how_a_reply_came_about(archive: SessionArchive) -> None:
    page = written(archive, "html")
    assert "<dt>checkpoint</dt><dd>best.pt</dd>" in page
    assert "<dt>sampling</dt><dd>temperature 0.9</dd>" in page
    assert "runs/" not in page
    # Once in the heading; no reply differs from it.
    assert page.count("temperature 0.9") == 1
    assert 'class="facts"' not in page


def test_a_reply_tells_only_how_it_differs_from_the_heading(archive: SessionArchive) -> None:
    first, *rest = archive.generations
    changed = replace(rest[-1], sampling={"temperature": 0.0, "keep_stopped": True}, finish_reason="length")
    page = written(replace(archive, generations=(first, *rest[:-1], changed)), "markdown")
    assert "<sub>temperature 0.0 · ended by length</sub>" in page
    assert page.count("<sub>") == 1
    assert "keep" not in page
    assert archive.digest in page
    assert "5 (and 1 in other branches)" in page


def test_markdown_keeps_every_message_within_its_quotation(store: Store) -> None:
    said = "# no heading\n\n---\n```\n<b>code</b>\n```\n<script>x</script> `<i>`\r\nlast"
    text = written(talk(store, said), "markdown")
    assert text.startswith("# \\<b\\>\\*bold\\* \\& co\n")
    assert "> # no heading\n>\n> ---\n> ```\n> <b>code</b>\n> ```\n" in text
    assert "> &lt;script>x&lt;/script> `<i>`\n> last\n" in text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert len(headings) == 1


def test_a_fence_that_is_never_closed_ends_with_its_message(store: Store) -> None:
    text = written(talk(store, "```\nopen"), "markdown")
    assert "> ```\n> open\n\n**Assistant**\n\n> fine\n" in text


@pytest.mark.parametrize("format_name", ["chatgpt", "llm", "nonsense"])
def test_a_format_that_only_reads_is_no_format_to_write(archive: SessionArchive, format_name: str) -> None:
    with pytest.raises(ExportRefused, match=f"'{format_name}' cannot be written; expected one of jsonl"):
        write_sessions([archive], io.StringIO(), format_name=format_name)

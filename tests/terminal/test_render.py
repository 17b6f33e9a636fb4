from __future__ import annotations

import io
import os
import random
from typing import Any

import pytest

from niels_gpt.terminal.render import Screen, may_style
from niels_gpt.text.control_characters import Harmless, harmless

HOSTILE = [
    "\x1b[2J",
    "\x1b]52;c;aGk=\x07",
    "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31m",
    "\x90q\x9c",
    "\x07",
    "over\rwritten",
    "a\x08\x08b",
    "\x7f",
    "\x00",
    "\u202egnol",
    "\u2028line",
    "\x0b\x0c",
]


def is_safe(text: str) -> bool:
    return all(character in "\n\t" or character.isprintable() or ord(character) > 0x2FF for character in text)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_moves_a_terminal_passes_and_something_stands_in_for_it(text: str) -> None:
    shown = harmless(text)
    assert is_safe(shown)
    assert not set("\x1b\x9b\x07\r\u202e\u2028") & set(shown)
    assert len(shown) >= len(text)


def test_the_check_itself_sees_raw_control_characters() -> None:
    assert not any(is_safe(text) for text in ("\x1b[2J", "\x9b", "\r", "\x07"))


def test_text_tabs_newlines_and_joined_emoji_pass_unchanged() -> None:
    text = "naïve\tcafé\n日本語 👩‍👩‍👧 ’\n"
    assert harmless(text) == text


def test_a_return_before_a_newline_is_a_line_end_and_alone_it_is_shown() -> None:
    assert harmless("a\r\nb\rc\r") == "a\nb␍c␍"


def test_every_split_of_a_text_prints_the_same() -> None:
    shuffled = random.Random(7)
    for _ in range(300):
        text = "".join(shuffled.choice([*HOSTILE, "a", "\r", "\n", "\r\n", "é"]) for _ in range(6))
        filtered, shown = Harmless(), ""
        rest = text
        while rest:
            cut = shuffled.randint(1, len(rest))
            shown, rest = shown + filtered.feed(rest[:cut]), rest[cut:]
        assert shown + filtered.finish() == harmless(text)


def test_a_reply_ends_its_line_before_a_notice_begins() -> None:
    out = io.StringIO()
    screen = Screen(out, out, styled=False)
    screen.text("half a li")
    screen.notice("(stopped)")
    screen.text("whole\n")
    screen.end_reply()
    assert out.getvalue() == "half a li\n(stopped)\nwhole\n"


def test_replies_and_notices_can_go_to_two_streams() -> None:
    replies, notices = io.StringIO(), io.StringIO()
    screen = Screen(replies, notices, styled=False)
    screen.text("hi")
    screen.end_reply()
    screen.notice("note")
    screen.error("two\nlines \x1b[31m")
    screen.wait()
    screen.busy("loading")
    assert replies.getvalue() == "hi\n"
    assert notices.getvalue() == ("note\ntwo lines ␛[31m\n")


def test_a_busy_line_is_taken_back_before_anything_else() -> None:
    out = io.StringIO()
    screen = Screen(out, out, styled=True, columns=lambda: 80)
    screen.wait()
    assert screen.busy("loading")
    screen.text("hi")
    assert out.getvalue().endswith("\r\x1b[Khi")
    assert not screen.busy("loading")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_style_needs_a_terminal_that_can_and_a_user_who_wants() -> None:
    assert may_style(Terminal(), {"TERM": "xterm"})
    assert not may_style(Terminal(), {"TERM": "dumb"})
    assert not may_style(Terminal(), {"TERM": "xterm", "NO_COLOR": "1"})
    assert not may_style(io.StringIO(), {"TERM": "xterm"})


def test_a_footer_keeps_the_last_line_and_gives_the_screen_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pyte = pytest.importorskip("pyte")
    size = os.terminal_size((30, 8))
    monkeypatch.setattr("niels_gpt.terminal.render._size", lambda _: size)
    seen, out = pyte.Screen(30, 8), io.StringIO()
    screen = Screen(out, out, styled=True, columns=lambda: 30)

    def shown() -> list[str]:
        pyte.Stream(seen).feed(out.getvalue().replace("\n", "\r\n"))
        out.seek(0)
        out.truncate()
        return [line.rstrip() for line in seen.display]

    for number in range(7):
        screen.say(f"line {number}")
    shown()
    assert seen.cursor.y == 7  # at the bottom, where the footer needs room
    with screen.footer(lambda _: "the \x1b[31mfooter" + "." * 40):
        screen.text("one two")
        assert shown()[-2:] == ["one two", "the ␛[31mfooter.............."]
        for number in range(20):
            screen.text(f"\nline {number}")
            assert shown()[-1] == "the ␛[31mfooter.............."
        # As Ctrl-Z does.
        screen.erase_footer()
        assert shown()[-1] == ""
        assert seen.margins is None
        screen.draw_footer()
        screen.text(" more")
        assert shown()[-3:-1] == ["line 18", "line 19 more"]
    screen.end_reply()
    screen.say("end")
    assert shown()[-3:] == ["line 19 more", "end", ""]
    assert seen.margins is None
    assert seen.cursor.y == 7


@pytest.mark.parametrize("resized", [(40, 12), (20, 7), (30, 20)])
def test_after_a_resize_the_footer_is_at_the_bottom_again_and_nowhere_else(
    resized: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pyte = pytest.importorskip("pyte")
    columns, lines = 30, 8
    monkeypatch.setattr("niels_gpt.terminal.render._size", lambda _: os.terminal_size((columns, lines)))
    seen, out = pyte.Screen(columns, lines), io.StringIO()
    screen = Screen(out, out, styled=True, columns=lambda: columns)

    def shown() -> list[str]:
        pyte.Stream(seen).feed(out.getvalue().replace("\n", "\r\n"))
        out.seek(0)
        out.truncate()
        return [line.rstrip() for line in seen.display]

    for number in range(4):
        screen.say(f"line {number}")
    with screen.footer(lambda _: "the footer"):
        screen.text("one")
        assert shown()[-1] == "the footer"
        lost, (columns, lines) = max(0, lines - resized[1]), resized
        seen.resize(lines, columns)
        seen.cursor.y -= lost  # pyte clips at the top, as terminals do, but leaves the cursor in its row
        screen.text(" two")
        found = shown()
        assert found[-1] == "the footer"
        assert found.count("the footer") == 1
        assert "one two" in found
        for number in range(20):
            screen.text(f"\nline {number}")
        assert shown()[-2:] == ["line 19", "the footer"]
        assert shown().count("the footer") == 1
    assert "the footer" not in shown()
    assert shown()[-2] == "line 19"
    assert seen.margins is None


@pytest.mark.parametrize("kept", [{"styled": False}, {"quiet": True}, {"columns": None}])
def test_where_it_cannot_or_must_not_be_there_is_no_footer(
    kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("niels_gpt.terminal.render._size", lambda _: os.terminal_size((30, 8)))
    out = io.StringIO()
    with Screen(out, out, **{"styled": True, "columns": lambda: 30, **kept}).footer(lambda _: "x"):
        pass
    assert out.getvalue() == ""

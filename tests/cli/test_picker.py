"""The list to choose a session from, driven by keys and seen through a screen of its own."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Coroutine
from typing import Any

import pytest
from prompt_toolkit.application import Application
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.utils import get_cwidth

from niels_gpt.terminal import picker
from niels_gpt.terminal.picker import Choice, pick
from sessions import Store

from .conftest import Say

UP, DOWN, ENTER, ESC, CTRL_C, BACKSPACE = "\x1b[A", "\x1b[B", "\r", "\x1b", "\x03", "\x7f"
CHOICES = [
    Choice(name="trees", detail="2026-10-02 14:05 · 3 turns", words="What is an oak?"),
    Choice(name="forests", detail="2026-10-01 09:00 · 1 turn", words="How many trees?"),
    Choice(name="\u6f22\u5b57", detail="2026-09-01 09:00 · 1 turn", words="\u4f60\u597d"),
]


def picked(keys: str, choices: list[Choice] = CHOICES, columns: int = 80) -> tuple[str | None, str]:
    """Return what was chosen with these keys, and everything that the terminal was sent."""
    screen = io.StringIO()

    async def run() -> str | None:
        with create_pipe_input() as source:
            source.send_text(keys)
            output = Vt100_Output(screen, lambda: Size(rows=24, columns=columns), term="xterm")
            return await asyncio.wait_for(pick(choices, source=source, screen=output), timeout=20)

    return asyncio.run(run()), screen.getvalue()


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (ENTER, "trees"),
        (DOWN + ENTER, "forests"),
        (DOWN + DOWN + DOWN + DOWN + UP + ENTER, "forests"),
        (UP + ENTER, "trees"),
        ("HOW tree" + ENTER, "forests"),
        ("\u5b57" + ENTER, "\u6f22\u5b57"),
        ("nothing" + ENTER + BACKSPACE * 7 + ENTER, "trees"),
        (ESC, None),
        (CTRL_C, None),
    ],
)
def test_keys_choose_filter_and_leave(keys: str, name: str | None) -> None:
    assert picked(keys)[0] == name


def test_esc_waits_for_the_rest_of_a_longer_key_only_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Application[str | None]] = []

    class Noted(Application[str | None]):
        def run_async(self) -> Coroutine[Any, Any, str | None]:
            made.append(self)
            return super().run_async()

    monkeypatch.setattr(picker, "Application", Noted)
    assert picked(ESC)[0] is None
    assert 0 < made[0].ttimeoutlen == made[0].timeoutlen <= 0.1


def test_the_list_shows_names_and_first_words(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = picked(ENTER)[1]
    for text in ("trees", "3 turns", "How many trees?", "\u6f22\u5b57", "3 of 3"):
        assert text in shown


def test_names_and_words_are_shown_and_not_obeyed() -> None:
    hostile = Choice(name="\x1b]0;title\x07", detail="", words="x")
    shown = picked(ENTER, [hostile], columns=40)[1]
    assert "\x1b]0;title" not in shown
    assert "\u241b]0;title\u2407" in shown


def test_a_thousand_sessions_show_ten_at_a_time() -> None:
    many = [Choice(name=f"n{number:04}", detail="", words="") for number in range(1000)]
    name, shown = picked(DOWN * 20 + ENTER, many)
    assert name == "n0020"
    assert "n0999" not in shown


def test_choices_come_from_the_list_of_sessions(store: Store, say: Say) -> None:
    from niels_gpt.terminal.picker import choice_of  # noqa: PLC0415

    say("a", "hi there", "ho")
    (choice,) = map(choice_of, store.sessions())
    assert (choice.name, choice.words) == ("a", "hi there")
    assert choice.detail.endswith(" · 1 turn")
    assert get_cwidth(choice.detail) == 25

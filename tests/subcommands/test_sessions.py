"""`niels-chat sessions`: every session, last used first, in lines that fit."""

from __future__ import annotations

import json

import pytest
from prompt_toolkit.utils import get_cwidth

from sessions import Store

from .conftest import Command, Say


def test_the_list_shows_name_turns_and_first_words_with_the_last_used_first(
    command: Command, say: Say
) -> None:
    say("older", "What is a tree?", "A plant.")
    say("newer", "And a forest?", "Many.")
    say("newer", "How many?", "Some.")
    done = command("sessions")
    heading, first, second = done.out.splitlines()
    assert heading.split() == ["NAME", "LAST", "USED", "TURNS", "FIRST", "WORDS"]
    assert first.split()[0] == "newer"
    assert "  2  And a forest?" in first
    assert second.split()[0] == "older"
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize("columns", [40, 80])
def test_no_line_is_wider_than_the_terminal_whatever_the_names(
    command: Command, say: Say, columns: int
) -> None:
    for name in ("\u6f22\u5b57" * 25, "\u05e9\u05dc\u05d5\u05dd", "a" * 150, "e\u0301t\u00e9 \U0001f600"):
        say(name, "\u4f60\u597d " * 40, "x")
    lines = command("sessions", columns=columns).out.splitlines()
    assert max(map(get_cwidth, lines)) <= columns
    assert "\u05e9\u05dc\u05d5\u05dd" in "".join(lines)


def test_control_characters_of_a_message_are_shown_and_not_obeyed(command: Command, say: Say) -> None:
    say("a", "\x1b]0;title\x07 \x9b31m \u202ereversed", "x")
    shown = command("sessions").out + command("sessions", "--json").out
    assert not set(shown) & set("\x1b\x07\x9b\u202e")
    assert "\u241b]0;title" in shown


def test_json_is_one_object_a_line_with_moments_in_utc(command: Command, say: Say) -> None:
    say("a", "hi \u2028 there", "x")
    done = command("sessions", "--json")
    (line,) = done.out.splitlines()
    found = json.loads(line)
    assert (found["name"], found["turns"], found["archived"]) == ("a", 1, False)
    assert found["last_used"].endswith("+00:00")


def test_an_empty_store_prints_nothing_but_a_remark(command: Command, store: Store) -> None:
    done = command("sessions")
    assert (done.status, done.out) == (0, "")
    assert "no sessions yet" in done.err

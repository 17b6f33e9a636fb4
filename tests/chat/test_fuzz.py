"""A short run of the fuzz campaign, and that it can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from niels_gpt.terminal.render import Screen
from sessions import open_store
from tests.chat.fuzz_campaign import FORBIDDEN, check_keys, check_reply, check_stored, is_within, settled


def test_random_replies_are_faithful_and_nothing_raw_reaches_the_terminal() -> None:
    for seed in range(10**6, 10**6 + 1500):
        check_reply(seed)


def test_random_keys_neither_end_the_chat_nor_lose_a_message(tmp_path: Path) -> None:
    assert check_keys(10**6, 40, tmp_path) > 0


class Leaky(Screen):
    """Lets everything through."""

    def text(self, delta: str) -> None:
        self._write(delta)


class Forgetful(Screen):
    """Loses what comes after a blank."""

    def text(self, delta: str) -> None:
        super().text(delta.partition(" ")[0])


@pytest.mark.parametrize("broken", [Leaky, Forgetful])
def test_the_check_sees_a_screen_that_leaks_or_forgets(broken: type[Screen]) -> None:
    failures = 0
    for seed in range(50):
        try:
            check_reply(seed, broken)
        except AssertionError:
            failures += 1
    assert failures > 10


def test_words_that_were_taken_back_are_gone_and_raw_characters_are_seen() -> None:
    assert FORBIDDEN.search(settled("a\x1b[31mb\x1b[2J"))
    assert settled("one two\x1b[3D\x1b[K\ntwofold") == "one \ntwofold"
    assert is_within("bold", "**bold**")
    assert not is_within("bod", "**bold**")


def test_the_check_sees_a_lost_message(tmp_path: Path) -> None:
    class Claims:
        handled = ("never stored",)

    with open_store(tmp_path / "s.db"):
        pass
    with pytest.raises(AssertionError, match="lost"):
        check_stored(1, tmp_path / "s.db", Claims())

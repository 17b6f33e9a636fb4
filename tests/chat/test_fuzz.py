"""A short run of the fuzz campaign, and that it can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessions import open_store
from tests.chat import fuzz_campaign
from tests.chat.fuzz_campaign import FORBIDDEN, check_keys, check_reply, check_stored, is_within, settled


def test_random_replies_are_faithful_and_nothing_raw_reaches_the_terminal() -> None:
    for seed in range(10**6, 10**6 + 1500):
        check_reply(seed)


def test_random_keys_neither_end_the_chat_nor_lose_a_message(tmp_path: Path) -> None:
    assert check_keys(10**6, 40, tmp_path) > 0


def test_the_check_sees_a_raw_character_and_a_missing_word(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FORBIDDEN.search(settled("a\x1b[31mb\x1b[2J"))
    assert settled("one two\x1b[3D\x1b[K\ntwofold") == "one \ntwofold"
    assert is_within("bold", "**bold**")
    assert not is_within("bod", "**bold**")
    monkeypatch.setattr(fuzz_campaign, "harmless", lambda text: text)
    with pytest.raises(AssertionError, match="seed"):
        for seed in range(50):
            check_reply(seed)


def test_the_check_sees_a_lost_message(tmp_path: Path) -> None:
    class Claims:
        handled = ("never stored",)

    with open_store(tmp_path / "s.db"):
        pass
    with pytest.raises(AssertionError, match="lost"):
        check_stored(1, tmp_path / "s.db", Claims())

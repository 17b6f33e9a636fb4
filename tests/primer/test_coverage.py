"""The primer names everything that the program has, and nothing that it has not."""

from __future__ import annotations

from typing import Any

import primer_coverage as coverage
import pytest

Entry = dict[str, Any]


def without(entries: list[Entry], word: str) -> list[Entry]:
    """Return the entries that do not have a word in any of their texts."""
    return [entry for entry in entries if word not in repr(entry)]


def fact(answer: str) -> list[Entry]:
    return [{"id": "a", "kind": "fact", "answers": [answer], "must": [["a"]]}]


def test_everything_that_the_program_has_is_named(written_entries: list[Entry]) -> None:
    assert coverage.missing(written_entries) == {}


def test_nothing_is_named_that_the_program_does_not_have(written_entries: list[Entry]) -> None:
    assert coverage.stale(written_entries) == []


def test_no_two_entries_share_a_goal(written_entries: list[Entry]) -> None:
    assert coverage.shared_wordings(written_entries) == {}


def test_every_contrast_is_an_entry(written_entries: list[Entry]) -> None:
    known = {entry["id"] for entry in written_entries}
    named = [(entry["id"], other) for entry in written_entries for other in entry.get("contrast", [])]
    assert [pair for pair in named if pair[1] not in known] == []


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("command", "/diff"),
        ("key", "Ctrl-Z"),
        ("subcommand", "niels-chat doctor"),
        ("flag", "--min-p"),
        ("configuration key", "typical"),
        ("page", "docs/store.md"),
        ("make target", "make check"),
    ],
)
def test_what_no_entry_names_is_reported(written_entries: list[Entry], kind: str, word: str) -> None:
    left_out = coverage.missing(without(written_entries, word))
    assert any(word.lower() in name.lower() for name in left_out[kind])


@pytest.mark.parametrize(
    "name",
    [
        "/temp_old",
        "--frobnicate",
        "NIELS_CHAT_NONE",
        "docs/none.md",
        "configs/none.json",
        "python -m niels_gpt.none",
        "desk",
    ],
)
def test_a_name_that_does_not_exist_is_reported(name: str) -> None:
    assert len(coverage.stale(fact(f"Use {name} for this."))) == 1


@pytest.mark.parametrize(
    "name",
    [
        "/temp", "/clear", "//foo", "/etc/hosts", "--top_k", "NIELS_CHAT_TOP_K", "docs/chat.md",
        "niels-chat show", "python -m niels_gpt.train", "/v1/chat/completions",
    ],
)  # fmt: skip
def test_a_name_that_exists_is_not_reported(name: str) -> None:
    assert coverage.stale(fact(f"Use {name} for this.")) == []

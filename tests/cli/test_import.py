"""What `niels-chat import` says of a file, and how it stores many sessions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from niels_gpt.cli.exit_codes import FAILED, OK, USAGE
from niels_gpt.cli.subcommands import import_file
from sessions import SessionExists, Store

from .conftest import Command, Say


def line(title: str, *turns: tuple[str, str]) -> str:
    messages = [{"role": role, "content": content} for role, content in turns or [("user", "hi")]]
    return json.dumps({"title": title, "messages": messages}) + "\n"


def test_what_was_left_out_is_said_by_kind_and_number(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(line("a", ("user", "hi"), ("tool", "4"), ("tool", "5")))
    done = command("import", str(path))
    assert (done.status, done.out) == (OK, "a\n")
    assert done.err == "left out: 2 messages of tools\nimported 1 session with 1 message\n"
    done = command("import", str(path), "--strict")
    assert (done.status, done.out) == (FAILED, "")
    assert done.err == (
        "niels-chat import: x.jsonl, line 1, messages[1]: messages of tools would be left out; "
        "nothing was imported\n"
    )


def test_a_file_without_anything_to_import_is_a_failure(
    command: Command, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(line("a", ("tool", "4")))
    done = command("import", str(path))
    assert (done.status, done.out) == (FAILED, "")
    assert done.err.splitlines() == [
        "left out: 1 message of tools, 1 session without messages",
        "niels-chat import: x.jsonl: there is no session with a message in it",
    ]
    assert store.sessions(archived=True) == []


def test_bad_pieces_are_skipped_when_asked_for_and_the_status_says_so(
    command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(line("a") + "".join("{bad\n" for _ in range(12)) + line("b"))
    assert command("import", str(path)).out == ""
    done = command("import", str(path), "--skip-bad")
    assert (done.status, done.out) == (FAILED, "a\nb\n")
    lines = done.err.splitlines()
    assert lines[0].startswith("skipped: x.jsonl, line 2: is not whole JSON")
    assert lines[-2:] == ["skipped: 2 more", "imported 2 sessions with 2 messages"]
    assert command("import", str(path), "--skip-bad", "--strict").status == USAGE


def test_a_large_file_is_read_again_and_stored_in_short_transactions(
    command: Command, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    whole = Store.import_sessions

    def counting(self: Store, archives, *, names=None):
        batches.append(len(archives))
        return whole(self, archives, names=names)

    monkeypatch.setattr(Store, "import_sessions", counting)
    monkeypatch.setattr(import_file, "_MOST_KEPT", 100)
    monkeypatch.setattr(import_file, "_BATCH_SESSIONS", 4)
    path = tmp_path / "x.jsonl"
    path.write_text(line("same") * 10)
    done = command("import", str(path))
    assert batches == [4, 4, 2]
    assert done.out.split() == ["same", *(f"same-{number}" for number in range(2, 11))]


def test_what_was_imported_before_is_not_imported_again(
    command: Command, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl"
    two = line("a", ("user", "hi"), ("assistant", "ho")) + line("a", ("user", "bye"))
    path.write_text(two)
    assert command("import", str(path)).out == "a\na-2\n"
    again = command("import", str(path))
    assert (again.status, again.out) == (OK, "")
    assert again.err == "already in the store: 2 sessions\nimported 0 sessions with 0 messages\n"
    # One that was continued elsewhere, and one of other words under a known name, are new.
    path.write_text(two + line("a", ("user", "hi"), ("assistant", "ho"), ("user", "?")) + line("b"))
    again = command("import", str(path))
    assert (again.status, again.out) == (OK, "a-3\nb\n")
    assert again.err.splitlines()[-2:] == [
        "already in the store: 2 sessions", "imported 2 sessions with 4 messages",
    ]  # fmt: skip
    # Deleted sessions are not there.
    store.archive(store.session("b").id)
    assert command("import", str(path)).out == "b-2\n"


def test_an_import_that_was_interrupted_is_finished_by_the_next(
    command: Command, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(line(f"s{n}", ("user", str(n))) for n in range(5)))
    monkeypatch.setattr(import_file, "_BATCH_SESSIONS", 2)
    whole, calls = Store.import_sessions, []

    def interrupted(self: Store, archives, *, names=None):
        calls.append(names)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, archives, names=names)

    monkeypatch.setattr(Store, "import_sessions", interrupted)
    assert command("import", str(path)).out == "s0\ns1\n"
    done = command("import", str(path))
    assert (done.status, done.out) == (OK, "s2\ns3\ns4\n")
    assert len(store.sessions()) == 5


def test_a_name_that_another_program_takes_meanwhile_gets_a_number(
    command: Command, store: Store, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Store.import_sessions
    taken: list[str] = []

    def late(self: Store, archives, *, names=None):
        if not taken:
            taken.append("a")
            say("a", "hi", "ho")
        return whole(self, archives, names=names)

    monkeypatch.setattr(Store, "import_sessions", late)
    path = tmp_path / "x.jsonl"
    path.write_text(line("a"))
    assert command("import", str(path)).out == "a-2\n"
    taken.clear()
    done = command("import", str(path), "--name", "a")
    assert (done.status, done.out) == (FAILED, "")
    assert str(SessionExists("a")) in done.err

"""Commands that read and write files: export, import, backup, doctor."""

from __future__ import annotations

import io
import json
import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path

import pytest

from niels_gpt.cli.subcommands import export, import_file
from sessions import Store, open_store
from sessions.formats import READABLE, WRITABLE

from .conftest import Command, Say

OPENAI = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}\n'


def test_what_was_exported_is_imported_as_it_was(
    command: Command, store: Store, say: Say, tmp_path: Path
) -> None:
    say("talk", "What is a tree?", "A plant.")
    before = store.verify(store.session("talk").id)
    file = tmp_path / "talk.jsonl"
    done = command("export", "talk", "-o", str(file))
    assert (done.status, done.out) == (0, "")
    assert done.err == f"wrote 1 session to {file} (jsonl)\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    done = command("import", str(file), "--name", "a copy")
    assert (done.status, done.out) == (0, "a copy\n")
    assert done.err == "imported 1 session with 3 messages\n"
    assert store.verify(store.session("a copy").id) == before


@pytest.mark.parametrize(
    ("name", "beginning"),
    [("a.md", "# talk"), ("a.html", "<!DOCTYPE html>"), ("a.json", '{"format"'), ("a", '{"format"')],
)
def test_the_name_of_a_file_says_what_is_written(
    command: Command, say: Say, tmp_path: Path, name: str, beginning: str
) -> None:
    say("talk", "q", "a")
    assert command("export", "talk", "--output", str(tmp_path / name)).status == 0
    assert (tmp_path / name).read_text().startswith(beginning)


def test_the_flags_know_the_formats_that_there_are() -> None:
    assert export._FORMATS == WRITABLE
    assert ("auto", *READABLE) == import_file._FORMATS


def test_standard_output_has_the_sessions_alone(command: Command, say: Say) -> None:
    say("a", "q", "a")
    say("b", "q", "a")
    done = command("export", "a", "b", "--format", "openai")
    assert [list(json.loads(line)) for line in done.out.splitlines()] == [["messages"], ["messages"]]
    assert done.err == ""
    assert len(command("export", "--all", "--format", "sharegpt").out.splitlines()) == 2


def test_an_ending_of_no_format_is_refused(command: Command, say: Say, tmp_path: Path) -> None:
    say("talk", "q", "a")
    done = command("export", "talk", "-o", str(tmp_path / "x.txt"))
    assert (done.status, [*tmp_path.glob("*.txt")]) == (1, [])
    assert "unknown ending '.txt'; expected .jsonl, .md or .html, or --format" in done.err
    assert command("export", "talk", "-o", str(tmp_path / "x.txt"), "--format", "openai").status == 0


def test_a_file_that_is_there_stays_unless_forced(command: Command, say: Say, tmp_path: Path) -> None:
    say("talk", "q", "a")
    file = tmp_path / "talk.jsonl"
    file.write_text("mine")
    done = command("export", "talk", "-o", str(file))
    assert (done.status, file.read_text()) == (1, "mine")
    assert "already exists; choose another name or use --force" in done.err
    assert command("export", "talk", "-o", str(file), "--force").status == 0
    assert file.read_text() != "mine"


def test_an_export_that_cannot_be_written_leaves_nothing_behind(
    command: Command, say: Say, tmp_path: Path
) -> None:
    say("talk", "q", "a")
    before = sorted(tmp_path.iterdir())
    done = command("export", "talk", "-o", str(tmp_path / "nowhere" / "a.jsonl"))
    assert done.status == 1
    assert "cannot be written: No such file" in done.err
    assert command("export", "talk", "nobody", "-o", str(tmp_path / "b.jsonl")).status == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("words", [[], ["talk", "--all"], ["talk", "-c"]])
def test_what_to_export_must_be_said_in_one_way(command: Command, say: Say, words: list[str]) -> None:
    say("talk", "q", "a")
    assert "give the names of sessions, -c for the one used last, or --all" in command("export", *words).err


def test_a_bad_line_at_the_end_keeps_the_whole_file_out(
    command: Command, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(OPENAI * 3 + OPENAI.replace("user", "alien"))
    done = command("import", str(file))
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(
        "niels-chat import: lines.jsonl, line 4, messages[0].role: 'alien' is not known"
    )
    assert done.err.count("\n") == 1
    assert store.sessions(archived=True) == []


def test_a_file_with_several_sessions_gives_each_a_name(
    command: Command, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "lines.jsonl"
    titled = OPENAI.replace("{", '{"title": "tree", ', 1)
    file.write_text(titled * 2 + OPENAI)
    assert command("import", str(file)).out == "tree\ntree-2\nlines-3\n"
    assert command("import", str(file), "--name", "x").status == 1
    assert len(store.sessions()) == 3


def test_a_name_is_given_on_request_and_never_taken_from_another(
    command: Command, store: Store, say: Say, tmp_path: Path
) -> None:
    say("talk", "q", "a")
    (tmp_path / "a.jsonl").write_text(OPENAI)
    assert command("import", str(tmp_path / "a.jsonl"), "--name", "mine").out == "mine\n"
    done = command("import", str(tmp_path / "a.jsonl"), "--name", "talk")
    assert "there is already a session named 'talk'" in done.err
    assert len(store.sessions()) == 2


def test_standard_input_can_be_imported(
    command: Command, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(OPENAI.encode())))
    assert command("import", "-", "--name", "piped").status == 0
    assert store.names() == ["piped"]


def test_an_import_makes_the_store_where_there_is_none(
    command: Command, tmp_path: Path, store_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(OPENAI)
    assert command("import", str(tmp_path / "a.jsonl")).status == 0
    with open_store(store_path) as store:
        assert store.names() == ["a-1"]


def test_a_backup_is_a_store_with_the_same_sessions(command: Command, say: Say, tmp_path: Path) -> None:
    say("talk", "q", "a")
    assert command("backup", str(tmp_path / "copy.db")).out == f"{tmp_path / 'copy.db'}\n"
    with open_store(tmp_path / "copy.db") as copy:
        assert copy.names() == ["talk"]
    again = command("backup", str(tmp_path / "copy.db"))
    assert (again.status, again.out) == (1, "")


def test_a_backup_without_a_path_lies_in_a_private_folder_beside_the_store(
    command: Command, say: Say, tmp_path: Path
) -> None:
    say("talk", "q", "a")
    path = Path(command("backup").out.strip())
    assert path.parent == tmp_path / "backups"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_whole_store_gets_a_clean_bill(command: Command, say: Say) -> None:
    say("talk", "q", "a")
    done = command("doctor")
    assert done.status == 0
    assert done.out.endswith("no problems found\n")
    assert json.loads(command("doctor", "--json").out)["faults"] == []


def spoil(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE message SET content = 'A mineral.' WHERE content = 'A plant.'")
        database.commit()


def test_a_changed_message_is_found_and_what_is_whole_is_recovered(
    command: Command, store: Store, say: Say, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say("talk", "What is a tree?", "A plant.")
    say("other", "q", "a")
    store.close()
    spoil(store_path)
    done = command("doctor")
    assert done.status == 1
    assert "wrong: message 3 (assistant, position 2): its digest is" in " ".join(done.out.split())
    assert "niels-chat doctor --recover creates a new store" in " ".join(done.out.split())
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert "pass --yes" in command("doctor", "--recover").err
    done = command("doctor", "--recover", "--yes")
    assert done.status == 0
    assert "saved 2 sessions, 5 messages" in done.err
    assert command("doctor").status == 0
    with open_store(store_path) as recovered:
        assert [each.content for each in recovered.path(recovered.session("other").id)][1:] == ["q", "a"]


def test_a_store_that_others_can_read_is_found(command: Command, say: Say, store_path: Path) -> None:
    say("talk", "q", "a")
    store_path.chmod(0o644)
    done = command("doctor")
    assert done.status == 1
    assert "(mode 644): run chmod 600" in " ".join(done.out.split())
    assert "--recover" not in done.out


def test_a_file_that_is_no_store_is_said_and_not_recovered(command: Command, store_path: Path) -> None:
    store_path.write_bytes(b"no database " * 100)
    store_path.chmod(0o600)
    done = command("doctor")
    assert done.status == 1
    assert "wrong: " in done.out
    assert store_path.read_bytes() == b"no database " * 100

"""docs/sessions.md: its commands print what it shows, its tables say what is there."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from io import StringIO
from pathlib import Path

import pytest

from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.cli.exit_codes import MEANINGS
from niels_gpt.cli.subcommands import SUBCOMMANDS
from sessions import Checkpoint, Generation, Message, Session, open_store
from sessions.formats import FORMATS, Limits
from sessions.place import default_path

from .conftest import Say

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sessions.md"
VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\d(.)\d\d:?\d\d:?\d*[.\d]*"), r"2026-10-02\g<1>14:05"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "0123456789abcdef"),
)
TALK = (
    ("Hello!", "Hello! I am niels-gpt, a tiny chatbot. Ask me about niels-gpt or how it works."),
    (
        "What is your name?",
        "I am niels-gpt, a tiny chatbot on niels' website, trained from scratch.",
    ),
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's data folder and a folder to work in."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("NIELS_CHAT_CONFIG", str(tmp_path / "none.toml"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def store_path(home: Path) -> Path:
    return default_path()


@pytest.fixture
def at_home(home: Path, store_path: Path, say: Say) -> None:
    """The sessions and files that the page speaks of."""
    for question, reply in TALK:
        say("first talk", question, reply)
    say("forests", "How many trees are a forest?", "I do not know.")
    with open_store(store_path) as store:
        session = store.session("first talk")
        store.move_head(session.id, to=store.path(session.id)[2].id, expected_head=session.head_id)
    say("first talk", "How old are you?", "I do not have an age.")
    with open_store(store_path) as store:
        session = store.session("first talk")
        store.move_head(session.id, to=5, expected_head=session.head_id)
    say("forests", "And a jungle?", "I do not know that either.")
    nodes = {
        "q": {"parent": None, "message": _message("user", "What is a tree?")},
        "a": {"parent": "q", "message": _message("assistant", "A plant.")},
    }
    Path("conversations.json").write_text(
        json.dumps([{"title": "Trees", "mapping": nodes, "current_node": "a"}])
    )
    Path("broken.jsonl").write_text('{"messages": [{"role": "robot", "content": "hi"}]}\n')


def _message(role: str, text: str) -> dict[str, object]:
    return {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}}


def played(line: str, home: Path, setenv: Callable[[str, str], None]) -> str:
    """Run a line of the page and return what a terminal would show."""
    words = shlex.split(line)
    setenv("COLUMNS", "80")
    while "=" in words[0]:
        setenv(*words.pop(0).split("=", 1))
    assert words[0] == "niels-chat"
    shown = StringIO()
    with redirect_stdout(shown), redirect_stderr(shown):
        run_chat_cli(words[1:])
    return shown.getvalue().replace(str(home / "share"), "/home/you/.local/share")


def steady(text: str) -> str:
    """Return a text without what differs from day to day."""
    for pattern, instead in VARYING:
        text = pattern.sub(instead, text)
    return text


def examples(page: str) -> Iterator[tuple[str, str]]:
    """Yield each command of the page's console blocks, and what the page says that it prints."""
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


@pytest.mark.usefixtures("at_home")
def test_every_command_of_the_page_prints_what_the_page_shows(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = [(command, steady(output)) for command, output in examples(PAGE.read_text("utf-8"))]
    assert len(shown) > 15
    found = [(command, steady(played(command, home, monkeypatch.setenv))) for command, _ in shown]
    assert found == shown


def test_the_page_speaks_of_every_command_that_needs_no_model() -> None:
    page = PAGE.read_text("utf-8")
    elsewhere = {"replay", "verify", "why", "config", "completion", "models", "audit"}  # other pages of docs/
    assert [name for name in SUBCOMMANDS if name not in elsewhere and f"niels-chat {name}" not in page] == []


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the table under a row of headings."""
    table = page[page.index(heading) :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_tables_say_what_is_there() -> None:
    page = PAGE.read_text("utf-8")
    assert [row[:3] for row in rows(page, "| format | out | in |")] == [
        [f"`{each.name}`", "yes" if each.write else "no", "yes" if each.read else "no"]
        for each in FORMATS.values()
    ]
    assert [int(row[1].replace(",", "")) for row in rows(page, "| what | at most |")] == [
        getattr(Limits(), field.name) for field in fields(Limits)
    ]
    assert {int(row[0]): row[1] for row in rows(page, "| status | when |")} == MEANINGS


@pytest.mark.parametrize("record", [Session, Checkpoint, Message, Generation])
def test_every_field_of_our_format_is_named(record: type) -> None:
    kind = record.__name__.lower()
    (row,) = (row for row in rows(PAGE.read_text("utf-8"), "| line | fields |") if row[0] == kind)
    named = set(re.findall(r"`([a-z_]+)`", row[1])) - {"complete", "cancelled", "pending", "failed"}
    counts = {"digest", "checkpoints", "messages", "generations"} if record is Session else set()
    assert named == {field.name for field in fields(record)} | counts

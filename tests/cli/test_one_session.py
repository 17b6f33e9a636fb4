"""Commands on single sessions: show, search, rename, delete, restore."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from prompt_toolkit.utils import get_cwidth

from niels_gpt.chat.history import open_history
from niels_gpt.cli.prompt_history import history_path
from niels_gpt.terminal.table import wrapped
from sessions import NewGeneration, Store

from .conftest import Command, Printed, Say


@pytest.fixture
def branched(store: Store, say: Say) -> None:
    """A session whose first question was answered twice; the talk goes on from the second answer."""
    first = say("talk", "What is a tree?", "A plant.")
    asked = store.generations(store.session("talk").id)[0]
    retry = store.begin_retry(
        first.session_id,
        user_message_id=first.parent_id or 0,
        generation=NewGeneration(
            checkpoint_id=asked.checkpoint_id,
            seed=12,
            attempt=1,
            sampling=asked.sampling,
            max_new_tokens=32,
            prompt_hash=asked.prompt_hash,
            trimmed_turns=0,
            environment={},
        ),
    )
    store.finish_reply(
        retry.generation.id,
        content="Something tall.",
        token_ids=[1],
        status="cancelled",
        finish_reason="cancelled",
        receipt={},
        timings={},
    )
    say("talk", "And a forest?", "Many.")


def test_a_session_is_shown_as_the_chat_shows_it(command: Command, branched: None) -> None:
    done = command("show", "talk")
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0] == "talk"
    assert lines[1].startswith("2 turns · last used ")
    assert "checkpoint best.pt · digest " in "".join(lines[1:3])
    text = done.out[done.out.index("(system)") :]
    assert text == (
        "(system) be brief\n\n> What is a tree?\n\nSomething tall. (stopped)\n\n> And a forest?\n\nMany.\n"
    )


def test_the_tree_shows_every_branch_and_where_the_session_stands(command: Command, branched: None) -> None:
    lines = command("show", "talk", "--tree").out.splitlines()[-6:]
    assert lines == [
        "\u25cf (system) be brief  [1]",
        "\u25cf > What is a tree?  [2]",
        "\u251c \u25cb A plant.  [3]",
        "\u2514 \u25cf Something tall.  (stopped)  [4]",
        "  \u25cf > And a forest?  [5]",
        "  \u25cf Many.  [6, head]",
    ]


def test_json_has_the_path_or_with_tree_everything(command: Command, branched: None) -> None:
    path = json.loads(command("show", "talk", "--json").out)
    tree = json.loads(command("show", "talk", "--json", "--tree").out)
    assert [each["content"] for each in path["messages"]][2] == "Something tall."
    assert (len(path["messages"]), len(tree["messages"])) == (5, 6)
    assert path["digest"] == tree["digest"]
    assert tree["generations"][0]["receipt"]["reply_tokens"] == len("A plant.")


@pytest.mark.parametrize("columns", [20, 40, 80])
@pytest.mark.parametrize("tree", [[], ["--tree"]])
def test_no_line_is_wider_than_the_terminal(
    command: Command, say: Say, columns: int, tree: list[str]
) -> None:
    say("\u6f22" * 60, "\u4f60\u597d\u3000" * 50 + "\t|", "word " * 60 + "\x1b[31m" + "x" * 300)
    done = command("show", "\u6f22" * 60, *tree, columns=columns)
    assert max(map(get_cwidth, done.out.splitlines())) <= columns
    assert "\x1b" not in done.out


def test_branches_within_branches_stay_within_the_terminal(command: Command, store: Store, say: Say) -> None:
    say("deep", "q", "a")
    session = store.session("deep")
    for number in range(12):
        head = store.session("deep").head_id
        store.set_system(session.id, f"aside {number}", expected_head=head)
        store.move_head(session.id, to=head, expected_head=store.session("deep").head_id)
        say("deep", f"question {number}", "a")
    lines = command("show", "deep", "--tree", columns=40).out.splitlines()
    assert max(map(get_cwidth, lines)) <= 40
    assert "\u25cf > question" in lines[-2]


def test_a_name_that_is_none_is_one_line_with_the_nearest(command: Command, branched: None) -> None:
    done = command("show", "tlak")
    assert (done.status, done.out) == (1, "")
    assert done.err == "niels-chat show: there is no session named 'tlak'; did you mean 'talk'?\n"


def test_search_finds_words_wherever_they_were_said(command: Command, branched: None, say: Say) -> None:
    say("other", "A quiet forest", "x")
    done = command("search", "FOREST")
    assert [line.split(" · ")[:2] for line in done.out.splitlines()[::2]] == [
        ["other", "user"],
        ["talk", "user"],
    ]
    assert done.out.splitlines()[1] == "  A quiet forest"
    hit = json.loads(command("search", "tree", "--json").out)
    assert (hit["session_name"], hit["position"], hit["role"]) == ("talk", 1, "user")


def test_search_goes_on_by_pages(command: Command, say: Say) -> None:
    for number in range(3):
        say("a", f"tree {number}", "x")
    done = command("search", "tree", "--limit", "2")
    assert done.out.count("tree") == 2
    assert done.err == "more results: rerun with --offset 2\n"
    assert "tree 0" in command("search", "tree", "--limit", "2", "--offset", "2").out


@pytest.mark.parametrize("text", ["zebra", '"', "tree AND (", "*", "-x", "NEAR(x"])
def test_no_search_is_an_error(command: Command, branched: None, text: str) -> None:
    done = command("search", *(["--"] if text.startswith("-") else []), text)
    assert done.status == 0
    assert "no matches for" in done.err


def test_a_renamed_session_has_its_new_name_and_the_same_digest(
    command: Command, store: Store, branched: None
) -> None:
    before = store.verify(store.session("talk").id)
    assert command("rename", "talk", "tree talk").status == 0
    assert store.verify(store.session("tree talk").id) == before


@pytest.mark.parametrize(
    ("new", "said"), [("other", "there is already a session named 'other'"), (" x", "cannot be")]
)
def test_a_name_that_cannot_be_had_changes_nothing(
    command: Command, store: Store, say: Say, new: str, said: str
) -> None:
    say("talk", "q", "a")
    say("other", "q", "a")
    done = command("rename", "talk", new)
    assert done.status == 1
    assert said in done.err
    assert sorted(store.names()) == ["other", "talk"]


def test_delete_archives_and_restore_brings_back(command: Command, store: Store, say: Say) -> None:
    say("my talk", "q", "a")
    done = command("delete", "my talk")
    assert (done.status, done.out) == (0, "")
    assert "niels-chat restore 'my talk'  puts it back into the list" in done.err
    assert store.names() == []
    assert command("restore", "my talk").status == 0
    assert store.names() == ["my talk"]


def test_only_archived_sessions_are_deleted_for_ever(command: Command, store: Store, say: Say) -> None:
    say("talk", "q", "a")
    done = command("delete", "--purge", "--yes", "talk")
    assert done.status == 1
    assert "is not archived" in done.err
    command("delete", "talk")
    assert command("delete", "--purge", "--yes", "talk").status == 0
    assert store.sessions(archived=True) == []


class Terminal(io.StringIO):
    """A standard input that is a terminal."""

    def isatty(self) -> bool:
        return True


def purge(command: Command, monkeypatch: pytest.MonkeyPatch, answer: str | None) -> Printed:
    monkeypatch.setattr("sys.stdin", io.StringIO() if answer is None else Terminal(answer))
    return command("delete", "--purge", "talk")


def test_deleting_for_ever_asks_first(
    command: Command, store: Store, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    say("talk", "q", "a")
    command("delete", "talk")
    for answer in (None, "\n", "n\n", "yesterday\n", ""):
        assert purge(command, monkeypatch, answer).status == 1
    assert len(store.sessions(archived=True)) == 1
    done = purge(command, monkeypatch, "y\n")
    assert "'talk': 3 messages, last used" in done.err
    assert done.status == 0
    assert store.sessions(archived=True) == []


def test_one_wrong_name_among_several_changes_nothing(command: Command, store: Store, say: Say) -> None:
    say("a", "q", "a")
    assert command("delete", "a", "nowhere").status == 1
    assert store.names() == ["a"]


def test_restoring_what_is_not_archived_says_so(command: Command, say: Say) -> None:
    say("a", "q", "a")
    done = command("restore", "a")
    assert (done.status, done.err) == (0, "'a' is not archived; nothing was changed\n")


def test_colours_are_for_terminals_without_no_color(
    command: Command, branched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1mtalk\x1b[0m" in command("show", "talk").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in command("show", "talk").out


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prompt history of a user who typed three lines."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = history_path()
    kept = open_history()
    for line in ("my-secret-777", "another\nof two lines", "/edit my-secret-777", "my-secret-777 and more"):
        kept.store_string(line)
    return path


def test_a_purge_removes_what_was_typed_from_the_prompt_history(
    command: Command, say: Say, history: Path
) -> None:
    say("talk", "my-secret-777", "thanks")
    command("delete", "talk")
    done = command("delete", "--purge", "--yes", "talk")
    assert "removed 2 lines of it from the prompt history" in done.err
    assert list(open_history().load_history_strings())[::-1] == [
        "another\nof two lines",
        "my-secret-777 and more",
    ]
    assert history.stat().st_mode & 0o777 == 0o600


def test_the_prompt_history_is_left_alone_without_a_yes(
    command: Command, say: Say, history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say("talk", "my-secret-777", "thanks")
    command("delete", "talk")
    before = history.read_bytes()
    done = purge(command, monkeypatch, "y\nn\n")
    assert "The prompt history has 2 lines of it. Remove them too? [y/N]" in done.err
    assert history.read_bytes() == before


def test_a_session_that_was_changed_is_shown_with_a_warning(command: Command, store: Store, say: Say) -> None:
    say("talk", "hi", "hello")
    with store._database.writing() as transaction:
        transaction.connection().exec_driver_sql("UPDATE message SET content = 'ho' WHERE content = 'hi'")
    for words in ((), ("--tree",), ("--json",)):
        done = command("show", "talk", *words)
        assert done.status == 3
        assert "run niels-chat verify talk for details" in done.err


def test_a_very_long_line_is_wrapped_in_linear_time() -> None:
    text = "word " * 100_000 + "x" * 100_000
    lines = list(wrapped(text, 40))
    assert max(map(len, lines)) == 40
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("name", ["show", "verify"])
def test_c_stands_for_the_session_used_last(command: Command, say: Say, name: str) -> None:
    say("older", "q", "a")
    say("newer", "q", "a")
    assert command(name, "-c").out == command(name, "newer").out
    assert command(name).status == 2
    assert command(name, "-c", "older").status == 2


def test_without_sessions_there_is_no_last_one(command: Command, store: Store) -> None:
    del store
    assert (command("show", "-c").status, command("last").status) == (1, 1)
    assert "there are no sessions yet" in command("last").err


def test_last_prints_the_last_reply_and_nothing_else(command: Command, say: Say) -> None:
    say("talk", "q", "first")
    say("talk", "q", "so:\n~~~ py\nx = 1\n  y\n~~~\nend")
    assert command("last").out == "so:\n~~~ py\nx = 1\n  y\n~~~\nend\n"
    assert command("last", "talk", "-x").out == "x = 1\n  y\n"
    say("plain", "q", "no code")
    assert "the last reply of 'plain' has no code block" in command("last", "-x").err


def test_export_takes_the_session_used_last(command: Command, say: Say) -> None:
    say("older", "q", "a")
    say("newer", "q", "a")
    assert command("export", "-c").out == command("export", "newer").out

from __future__ import annotations

from typing import Any

import anyio
import pytest

from niels_gpt.chat.commands.base import GROUPS
from niels_gpt.chat.commands.registry import (
    COMMANDS,
    KNOWN_ELSEWHERE,
    Call,
    Say,
    Unknown,
    command_named,
    help_text,
    parse,
)
from niels_gpt.conversation.errors import ChatError
from niels_gpt.conversation.session import ConversationSession
from niels_gpt.conversation.settings import Settings, show
from sessions import Store


class FakeChat:
    """Runs lines against a session and remembers what was said: a Controller without a workspace."""

    def __init__(self, session: ConversationSession) -> None:
        self.session = session
        self.said: list[str] = []
        self.errors: list[str] = []
        self.leaving = False

    async def open_session(self) -> ConversationSession:
        return self.session

    def say(self, text: str) -> None:
        self.said.append(text)

    def error(self, text: str) -> None:
        self.errors.append(text)

    def columns(self) -> int:
        return 80

    def leave(self) -> None:
        self.leaving = True

    def type(self, line: str) -> None:
        meaning = parse(line)
        assert isinstance(meaning, Call)

        async def run() -> None:
            with anyio.fail_after(10):
                chat: Any = self
                try:
                    await meaning.command.run(chat, meaning.value)
                except ChatError as error:
                    self.errors.append(str(error))

        anyio.run(run)


@pytest.fixture
def chat(store: Store) -> FakeChat:
    async def make() -> ConversationSession:
        return ConversationSession(store)

    return FakeChat(anyio.run(make))


@pytest.mark.parametrize("line", ["", "   ", "\t\n"])
def test_a_blank_line_means_nothing(line: str) -> None:
    assert parse(line) is None


def test_a_line_goes_to_the_model_without_the_blanks_around_it() -> None:
    assert parse("  what is rope? \n") == Say(text="what is rope?")


def test_two_slashes_send_a_line_that_begins_with_one() -> None:
    assert parse("//temp 0") == Say(text="/temp 0")


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("/tmep 0", "/temp"),
        ("/hepl", "/help"),
        ("/topk 3", "/top_k"),
    ],
)
def test_an_unknown_command_suggests_the_nearest(line: str, near: str) -> None:
    meaning = parse(line)
    assert isinstance(meaning, Unknown)
    assert f"did you mean {near}?" in meaning.advice


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("/temperature 0.5", "/temperature"),
        ("/temp 0.5", "/temperature"),
        ("/tem 0.5", "/temperature"),
        ("/hist", "/history"),
        ("/clear", "/reset"),
        ("/new", "/reset"),
        ("/regen", "/retry"),
        ("/list", "/sessions"),
        ("/load trip", "/resume"),
        ("/bye", "/quit"),
        ("/?", "/help"),
    ],
)
def test_aliases_clear_beginnings_and_names_known_elsewhere_are_understood(line: str, meant: str) -> None:
    meaning = parse(line)
    assert isinstance(meaning, Call)
    assert (meaning.command.name, meaning.value) == (meant, "".join(line.split(maxsplit=1)[1:]))


@pytest.mark.parametrize("line", ["/set temperature 0.5", "/set parameter temp 0.5"])
def test_a_setting_is_set_as_in_other_programs(chat: FakeChat, line: str) -> None:
    chat.type(line)
    assert chat.said == ["temperature: 0.5, was 0.9"]


@pytest.mark.parametrize("line", ["/set", "/set x 1", "/set temperature", "/set reset now"])
def test_anything_else_that_is_set_is_explained(line: str) -> None:
    meaning = parse(line)
    assert isinstance(meaning, Unknown)
    assert "each setting is a command" in meaning.advice


def test_names_known_elsewhere_are_not_commands_and_mean_one() -> None:
    assert not set(KNOWN_ELSEWHERE) & set(COMMANDS)
    assert set(KNOWN_ELSEWHERE.values()) <= set(COMMANDS)


def test_a_beginning_of_several_commands_lists_them() -> None:
    meaning = parse("/red")
    assert isinstance(meaning, Call)
    meaning = parse("/re")
    assert isinstance(meaning, Unknown)
    assert "it may mean /repetition_penalty, /reset, /retry" in meaning.advice


@pytest.mark.parametrize("line", ["/usr/bin/env", "/", "/TEMP 0"])
def test_no_line_that_begins_with_one_slash_reaches_the_model(line: str) -> None:
    assert isinstance(parse(line), Unknown)


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("/temp 0", "temperature", 0.0),
        ("/top_k none", "top_k", None),
        ("/top_p 0.9", "top_p", 0.9),
        ("/rep_penalty 1.1", "repetition_penalty", 1.1),
        ("/max_tokens 64", "max_new_tokens", 64),
        ("/seed  7", "seed", 7),
    ],
)
def test_a_setting_command_sets_and_then_shows_its_value(
    chat: FakeChat, line: str, key: str, value: object
) -> None:
    chat.type(line)
    assert getattr(chat.session.settings, key) == value
    name, word = line.split()
    assert chat.said[-1].startswith(f"{key}: {word}")
    assert chat.said[-1].endswith(f", was {show(getattr(Settings(), key))}")
    chat.type(name)
    assert chat.said[-1].startswith(f"{key}: {word}")
    assert COMMANDS[f"/{key}"].allowed in chat.said[-1]
    chat.type(line)
    assert chat.said[-1].endswith(", as before")


def test_zero_is_explained(chat: FakeChat) -> None:
    chat.type("/temp 0")
    assert chat.said == ["temperature: 0 (greedy), was 0.9"]


@pytest.mark.parametrize("line", ["/save", "/set x"])
def test_what_other_programs_have_and_this_one_needs_not_is_explained(line: str) -> None:
    meaning = parse(line)
    assert isinstance(meaning, Unknown)
    assert "did you mean" not in meaning.advice
    assert meaning.advice.startswith(f"unknown command {line.split(maxsplit=1)[0]}: ")


@pytest.mark.parametrize(
    ("line", "said"),
    [("/alt", "no reply yet"), ("/diff", "no reply yet"), ("/undo", "nothing to undo yet")],
)
def test_before_the_first_message_an_error_names_what_is_missing(
    chat: FakeChat, line: str, said: str
) -> None:
    chat.type(line)
    assert chat.errors == [said]


def test_help_explains_one_command(chat: FakeChat) -> None:
    chat.type("/help temp")
    assert chat.said == [
        "/temperature X: randomness; 0 = always the likeliest token (0.9)",
        "X is a number from 0 to 3.4e38, usually up to 2",
        "also /temp",
    ]
    chat.type("/help nonsense")
    assert chat.errors[0].startswith("unknown command /nonsense: ")


@pytest.mark.parametrize("line", ["/alt", "/why", "/goto", "/fork @"])
def test_a_number_of_ten_thousand_digits_is_one_line(chat: FakeChat, line: str) -> None:
    chat.type(line + ("" if line.endswith("@") else " ") + "9" * 10_000)
    assert len(chat.errors) == 1


def test_a_wrong_value_changes_nothing_and_says_what_is_allowed(chat: FakeChat) -> None:
    chat.type("/temp hot")
    assert chat.session.settings == Settings()
    allowed = COMMANDS["/temperature"].allowed
    assert chat.errors == [f"/temperature: 'hot' is not allowed: {allowed} (it stays 0.9)"]


def test_system_shows_and_sets_the_system_prompt(chat: FakeChat) -> None:
    chat.type("/system")
    assert chat.said[-1].startswith("you are a tiny chatbot on niels’ website.")
    chat.type("/system speak in rhymes")
    chat.type("/system")
    assert chat.said[-1] == "speak in rhymes"


@pytest.mark.parametrize("name", ["/reset", "/history", "/undo", "/exit"])
def test_a_command_without_a_value_refuses_one(chat: FakeChat, name: str) -> None:
    chat.type(f"{name} now")
    assert "takes no value" in chat.errors[-1]
    assert not chat.leaving


def test_exit_leaves(chat: FakeChat) -> None:
    chat.type("/exit")
    assert chat.leaving


def test_history_of_nothing_says_so(chat: FakeChat) -> None:
    chat.type("/history")
    assert chat.said == ["no messages yet"]


def test_help_names_every_command_within_80_columns(chat: FakeChat) -> None:
    chat.type("/help")
    assert chat.said == [help_text()]
    for command in COMMANDS.values():
        assert command.name in help_text()
    assert max(map(len, help_text().splitlines())) <= 80


@pytest.mark.parametrize("group", GROUPS)
def test_help_explains_each_command_of_a_group(chat: FakeChat, group: str) -> None:
    chat.type(f"/help {group}")
    for command in COMMANDS.values():
        assert (f"{command.name} {command.value}".strip() in chat.said[0]) == (command.group == group)


def test_help_for_a_narrow_terminal_has_two_lines_a_command() -> None:
    lines = help_text(40).splitlines()
    assert lines[0] == "/reset"
    assert lines[1].startswith("  start a new conversation")
    assert (
        max(map(len, lines[2 * len([each for each in COMMANDS.values() if each.group == GROUPS[0]]) :])) < 90
    )


def test_the_registry_has_the_commands_that_users_know() -> None:
    known = "/temp /top_k /top_p /rep_penalty /min_p /max_tokens /seed /system /reset /history /help /exit"
    assert all(command_named(name) is not None for name in known.split())

from __future__ import annotations

import anyio
import pytest

from niels_gpt.chat.commands.registry import COMMANDS, Call, Say, Unknown, help_text, parse
from niels_gpt.conversation.session import ConversationSession
from niels_gpt.conversation.settings import Settings
from sessions import Store


class TestDesk:
    """Runs lines against a record and remembers what was said."""

    __test__ = False

    def __init__(self, record: ConversationSession) -> None:
        self._record = record
        self.said: list[str] = []
        self.errors: list[str] = []
        self.leaving = False

    async def record(self) -> ConversationSession:
        return self._record

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
                await meaning.command.run(self, meaning.value)

        anyio.run(run)


@pytest.fixture
def desk(store: Store) -> TestDesk:
    async def make() -> ConversationSession:
        return ConversationSession(store)

    return TestDesk(anyio.run(make))


def settings_of(desk: TestDesk) -> Settings:
    return anyio.run(desk.record).settings


@pytest.mark.parametrize("line", ["", "   ", "\t\n"])
def test_a_blank_line_means_nothing(line: str) -> None:
    assert parse(line) is None


def test_a_line_goes_to_the_model_without_the_blanks_around_it() -> None:
    assert parse("  what is rope? \n") == Say(text="what is rope?")


def test_two_slashes_send_a_line_that_begins_with_one() -> None:
    assert parse("//temp 0") == Say(text="/temp 0")


@pytest.mark.parametrize(("line", "near"), [("/tmep 0", "/temp"), ("/hepl", "/help"), ("/topk 3", "/top_k")])
def test_an_unknown_command_suggests_the_nearest(line: str, near: str) -> None:
    meaning = parse(line)
    assert isinstance(meaning, Unknown)
    assert f"did you mean {near}?" in meaning.advice


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
    desk: TestDesk, line: str, key: str, value: object
) -> None:
    desk.type(line)
    assert getattr(settings_of(desk), key) == value
    name, word = line.split()
    desk.type(name)
    assert desk.said[-1].startswith(f"{name} {word} (")
    assert COMMANDS[name].allowed in desk.said[-1]


def test_a_wrong_value_changes_nothing_and_says_what_is_allowed(desk: TestDesk) -> None:
    desk.type("/temp hot")
    assert settings_of(desk) == Settings()
    assert desk.errors == [f"/temp 'hot' is not allowed: {COMMANDS['/temp'].allowed} (it stays 0.9)"]


def test_system_shows_and_sets_the_system_prompt(desk: TestDesk) -> None:
    desk.type("/system")
    assert desk.said[-1].startswith("you are a tiny chatbot on niels’ website.")
    desk.type("/system speak in rhymes")
    desk.type("/system")
    assert desk.said[-1] == "speak in rhymes"


@pytest.mark.parametrize("name", ["/reset", "/history", "/help", "/exit"])
def test_a_command_without_a_value_refuses_one(desk: TestDesk, name: str) -> None:
    desk.type(f"{name} now")
    assert "takes no value" in desk.errors[-1]
    assert not desk.leaving


def test_exit_leaves(desk: TestDesk) -> None:
    desk.type("/exit")
    assert desk.leaving


def test_history_of_nothing_says_so(desk: TestDesk) -> None:
    desk.type("/history")
    assert desk.said == ["nothing was said yet"]


def test_help_names_every_command_within_80_columns(desk: TestDesk) -> None:
    desk.type("/help")
    assert desk.said == [help_text()]
    for command in COMMANDS.values():
        assert f"{command.name} {command.value}".strip() in help_text()
    assert max(map(len, help_text().splitlines())) <= 80


def test_help_for_a_narrow_terminal_has_two_lines_a_command() -> None:
    lines = help_text(40).splitlines()
    assert lines[0] == "/temp X"
    assert lines[1].startswith("  how daring")


def test_the_registry_has_the_commands_that_users_know() -> None:
    known = "/temp /top_k /top_p /rep_penalty /min_p /max_tokens /seed /system /reset /history /help /exit"
    assert set(known.split()) <= set(COMMANDS)

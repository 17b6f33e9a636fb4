"""How lines are edited and completed, on a scripted keyboard and no screen."""

from __future__ import annotations

import asyncio
import io
import itertools
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import DummyInput
from prompt_toolkit.output import DummyOutput

from niels_gpt.chat.controller import Controller
from niels_gpt.chat.line_editor import CommandCompleter, line_editor
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.workspace import Workspace
from niels_gpt.terminal.render import Screen
from tests.chat.typist import CTRL_C, CTRL_D, Typist


def test_keys_typed_while_a_reply_streams_appear_in_the_next_prompt(typist: Typist, scripted: Any) -> None:
    model = scripted(itertools.repeat("la "), ["fine"])
    later = (("la la la", "so long"), ("la " * 40, CTRL_C), ("(stopped)", "er\r"), ("fine\n", CTRL_D))
    typist.type("sing\r", model, later=later)
    assert typist.messages()[2] == ("user", "so longer")


def test_what_was_typed_before_the_session_opened_is_kept(typist: Typist, scripted: Any) -> None:
    later = (("new session", "lo\r"), ("hey\n", CTRL_D))
    typist.type("hel", scripted(["hey"]), later=later)
    assert typist.messages()[0] == ("user", "hello")


def completions(text: str) -> list[str]:
    screen = Screen(io.StringIO(), io.StringIO(), styled=False)
    chat = Controller(Workspace(ChatOptions()), screen, recall=False)
    return [each.text for each in CommandCompleter(chat).get_completions(Document(text), CompleteEvent())]


def test_commands_and_usual_values_are_completed_and_messages_are_not() -> None:
    assert completions("/to") == ["/top_k", "/top_p"]
    assert completions("/top_k ") == ["none", "1", "50"]
    assert completions("/temp 0.") == ["0.7", "0.9"]
    assert completions("to") == completions("/nonsense ") == completions("see /to") == []


def test_the_event_loop_stays_free_while_names_are_read_from_the_store() -> None:
    is_free = threading.Event()

    def names(_command: str, _prefix: str) -> list[str]:
        assert is_free.wait(20)
        return ["a"]

    chat: Any = SimpleNamespace(completions=names, preference=lambda _key: False)
    session = line_editor(chat, history=InMemoryHistory(), keyboard=DummyInput(), display=DummyOutput())

    async def completed() -> list[str]:
        asyncio.get_running_loop().call_soon(is_free.set)
        found = session.default_buffer.completer.get_completions_async(Document("/resume "), CompleteEvent())
        return [each.text async for each in found]

    assert asyncio.run(completed()) == ["a"]


def answered(typist: Typist, model: Any, keys: str, **options: Any) -> str:
    """The message that came of some keys."""
    typist.type(keys, model, later=(("ok\n", CTRL_D),), **options)
    return typist.messages()[0][1]


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("one\ntwo\r", "one\ntwo"),
        ("\x1b[200~one\n  two\nthree\x1b[201~\r", "one\n  two\nthree"),
        ("word gone\x17here\r", "word here"),
        ("second\x01first \r", "first second"),
        ("日本語\x7f!\r", "日本!"),
    ],
)
def test_keys_edit_a_message_of_many_lines(typist: Typist, scripted: Any, keys: str, sent: str) -> None:
    assert answered(typist, scripted(), keys) == sent


def test_vi_keys_edit_a_line_when_asked_and_can_be_switched_on_in_the_chat(
    typist: Typist, scripted: Any
) -> None:
    # Esc, to the beginning, insert.
    assert answered(typist, scripted(), "world\x1b0ihello \r", vi=True) == "hello world"
    shown = typist.type("/vi on\r", scripted(), later=(("vi: on", "two\x1b0ione \r"), ("ok\n", CTRL_D)))
    assert "vi: on, was off\n" in shown
    assert typist.messages()[2] == ("user", "one two")


def test_what_was_typed_before_is_found_by_its_letters(typist: Typist, scripted: Any) -> None:
    for line in ("what is rope", "hello"):
        typist.type(f"{line}\r", scripted(), session=None, later=(("ok\n", CTRL_D),))
    typist.type("\x12rop\r\r", scripted(), later=(("ok\n", CTRL_D),))
    assert typist.messages()[0] == ("user", "what is rope")

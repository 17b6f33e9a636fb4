"""The REPL on a scripted keyboard and no screen, with a scripted model on a real store."""

from __future__ import annotations

import asyncio
import io
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from niels_gpt.chat.desk import Desk
from niels_gpt.chat.editing import CommandCompleter
from niels_gpt.chat.errors import LoadFailed
from niels_gpt.chat.loader import Loader
from niels_gpt.chat.options import Options
from niels_gpt.chat.render import Screen
from niels_gpt.chat.repl import Repl
from sessions import open_store

CTRL_C, CTRL_D, ESC, UP = "\x03", "\x04", "\x1b", "\x1b[A"


class Watched(io.StringIO):
    """A stream that calls back once when a text has appeared on it."""

    def __init__(self) -> None:
        super().__init__()
        self.when: list[tuple[str, Callable[[], None]]] = []

    def write(self, text: str) -> int:
        length = super().write(text)
        for item in list(self.when):
            if item[0] in self.getvalue():
                self.when.remove(item)
                item[1]()
        return length


class Typist:
    """Runs one REPL after another over one store; keys are typed at once or when a text appears."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "sessions.db"
        self.history = InMemoryHistory()

    def type(
        self,
        keys: str,
        model: Any,
        *,
        session: str | None = "a",
        later: tuple[tuple[str, str | Callable[[], object]], ...] = (),
        **options: Any,
    ) -> str:
        out = Watched()
        columns = options.pop("columns", None)
        chosen = Options(session=session, **options)
        loader = Loader(
            chosen, open_store=lambda _: open_store(self.path), load_model=lambda _: self._load(model)
        )
        with ExitStack() as stack:
            keyboard = stack.enter_context(create_pipe_input())
            stack.enter_context(create_app_session(input=keyboard, output=DummyOutput()))
            out.when = [(text, lambda more=more: self._send(keyboard, more)) for text, more in later]
            self._send(keyboard, keys)
            screen = Screen(out, out, styled=columns is not None, columns=columns)
            repl = Repl(
                chosen, loader, screen, history=self.history, keyboard=keyboard, display=DummyOutput()
            )
            try:
                asyncio.run(asyncio.wait_for(repl.run(), 20))
            finally:
                loader.close()
        return out.getvalue()

    def messages(self, name: str = "a") -> list[tuple[str, str]]:
        with open_store(self.path) as store:
            return [(each.role, each.content) for each in store.path(store.session(name).id)][1:]

    def statuses(self, name: str = "a") -> list[str]:
        with open_store(self.path) as store:
            return [each.status for each in store.path(store.session(name).id)][1:]

    def _send(self, keyboard: PipeInput, keys: str | Callable[[], object]) -> None:
        if isinstance(keys, str):
            keyboard.send_text(keys)
        else:
            keys()

    def _load(self, model: Any) -> Any:
        if isinstance(model, Exception):
            raise model
        return model() if callable(model) else model


@pytest.fixture
def typist(tmp_path: Path) -> Typist:
    return Typist(tmp_path)


def test_a_line_is_answered_and_ctrl_d_says_how_to_resume(typist: Typist, scripted: Any) -> None:
    shown = typist.type("hi\r", scripted(["hel", "lo"]), later=(("hello\n", CTRL_D),))
    assert shown == "new session 'a'\nhello\nresume with: niels-chat --session a\n"
    assert typist.messages() == [("user", "hi"), ("assistant", "hello")]


def test_leaving_without_a_message_leaves_nothing_behind(typist: Typist, scripted: Any) -> None:
    assert typist.type("/exit\r", scripted(), session=None) == ""
    with open_store(typist.path) as store:
        assert store.sessions() == []


def test_commands_are_answered_and_never_reach_the_model(typist: Typist, scripted: Any) -> None:
    model = scripted(["ok"])
    shown = typist.type(
        "/temp 0\r/temp\r/temp x\r/tmep\r//temp\r", model, later=(("ok\n", "/exit\r"),)
    ).splitlines()
    assert shown[1] == "/temp 0"
    assert shown[2].startswith("/temp 0 (a number from 0 up")
    assert shown[3].startswith("/temp 'x' is not allowed")
    assert shown[4].startswith("/tmep is no command: did you mean /temp?")
    assert [content for role, content in typist.messages() if role == "user"] == ["/temp"]
    assert model.requests[0].settings.temperature == 0.0


@pytest.mark.parametrize("key", [CTRL_C, ESC])
def test_a_key_stops_the_reply_and_the_chat_goes_on(typist: Typist, scripted: Any, key: str) -> None:
    model = scripted(itertools.repeat("la "), ["fine"], context_length=10**6)
    later = (("la la la", key), ("(stopped)", "thanks\r"), ("fine\n", CTRL_D))
    shown = typist.type("sing\r", model, later=later)
    assert "la \n(stopped)\nfine\n" in shown
    assert typist.statuses() == ["complete", "cancelled", "complete", "complete"]


def test_keys_typed_while_a_reply_streams_appear_in_the_next_prompt(typist: Typist, scripted: Any) -> None:
    model = scripted(itertools.repeat("la "), ["fine"])
    later = (("la la la", "so long"), ("la " * 40, CTRL_C), ("(stopped)", "er\r"), ("fine\n", CTRL_D))
    typist.type("sing\r", model, later=later)
    assert typist.messages()[2] == ("user", "so longer")


def test_ctrl_c_at_the_prompt_drops_the_line_and_stays(typist: Typist, scripted: Any) -> None:
    shown = typist.type("never sent" + CTRL_C + "hi\r", scripted(["hello"]), later=(("hello\n", CTRL_D),))
    assert "(ctrl-d or /exit leaves)\n" in shown
    assert typist.messages() == [("user", "hi"), ("assistant", "hello")]


def test_ctrl_c_while_the_model_loads_sends_nothing(typist: Typist, scripted: Any) -> None:
    class Endless(Loader):
        async def model(self) -> Any:
            await asyncio.Event().wait()

    out = Watched()
    options = Options(session="a")
    loader = Endless(options, open_store=lambda _: open_store(typist.path), load_model=lambda _: scripted())
    with create_pipe_input() as keyboard:
        # Ctrl-c can only be meant for the line once that is being worked on.
        out.when = [
            ("loading the model", lambda: keyboard.send_text(CTRL_C)),
            ("(stopped)", lambda: keyboard.send_text(CTRL_D)),
        ]
        keyboard.send_text("hi\r")
        screen = Screen(out, out, styled=True, columns=lambda: 80)
        repl = Repl(
            options, loader, screen, history=InMemoryHistory(), keyboard=keyboard, display=DummyOutput()
        )
        asyncio.run(asyncio.wait_for(repl.run(), 20))
        loader.close()
    with open_store(typist.path) as store:
        assert store.sessions() == []


def test_a_resumed_session_shows_its_last_exchange_and_goes_on(typist: Typist, scripted: Any) -> None:
    typist.type("one\r", scripted(["first"]), later=(("first\n", CTRL_D),))
    shown = typist.type("", scripted(["second"]), later=(("first\n", "two\r"), ("second\n", CTRL_D)))
    assert shown.startswith("resumed 'a': 3 messages\n> one\nfirst\nsecond\n")
    assert [content for _, content in typist.messages()] == ["one", "first", "two", "second"]


def test_what_was_typed_before_the_session_opened_is_kept(typist: Typist, scripted: Any) -> None:
    later = (("new session", "lo\r"), ("hey\n", CTRL_D))
    typist.type("hel", scripted(["hey"]), later=later)
    assert typist.messages()[0] == ("user", "hello")


def test_a_session_name_is_quoted_in_the_way_back(typist: Typist, scripted: Any) -> None:
    shown = typist.type("hi\r", scripted(), session="it's me", store="/x y", later=(("ok\n", CTRL_D),))
    assert shown.splitlines()[-1] == """resume with: niels-chat --session 'it'"'"'s me' --store '/x y'"""


def test_a_failed_reply_is_one_line_and_the_chat_goes_on(typist: Typist, scripted: Any) -> None:
    model = scripted(["oh", "!no"], ["fine"])
    shown = typist.type("one\r", model, later=(("kept", "two\r"), ("fine\n", CTRL_D)))
    assert "oh\nthe reply failed (RuntimeError: !no); your message is kept, send another\nfine\n" in shown


def test_a_hostile_reply_is_shown_harmless_and_stored_as_it_was(typist: Typist, scripted: Any) -> None:
    shown = typist.type("hi\r", scripted(["a\x1b", "[2J", "\r", "b"]), later=(("b\n", CTRL_D),))
    assert "a␛[2J␍b\n" in shown
    assert "\x1b" not in shown
    assert typist.messages()[1] == ("assistant", "a\x1b[2J\rb")


def test_a_checkpoint_that_does_not_load_ends_the_chat_while_the_prompt_waits(typist: Typist) -> None:
    with pytest.raises(LoadFailed, match="damaged"):
        typist.type("half a li", LoadFailed("damaged"))


def test_an_unforeseen_error_while_loading_is_told_with_its_kind(typist: Typist) -> None:
    with pytest.raises(LoadFailed, match="cannot start: RuntimeError: no such operator"):
        typist.type("hi\r", RuntimeError("no such operator"))


def completions(text: str) -> list[str]:
    options = Options()
    desk = Desk(options, Loader(options), Screen(io.StringIO(), io.StringIO(), styled=False), recall=False)
    return [each.text for each in CommandCompleter(desk).get_completions(Document(text), CompleteEvent())]


def test_commands_and_usual_values_are_completed_and_messages_are_not() -> None:
    assert completions("/to") == ["/top_k", "/top_p"]
    assert completions("/top_k ") == ["none", "1", "50"]
    assert completions("/temp 0.") == ["0.7", "0.9"]
    assert completions("to") == completions("/nonsense ") == completions("see /to") == []


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
    shown = typist.type("/vi on\r", scripted(), later=(("/vi on\n", "two\x1b0ione \r"), ("ok\n", CTRL_D)))
    assert "/vi on\n" in shown
    assert typist.messages()[2] == ("user", "one two")


def test_what_was_typed_before_is_found_by_its_letters(typist: Typist, scripted: Any) -> None:
    for line in ("what is rope", "hello"):
        typist.type(f"{line}\r", scripted(), session=None, later=(("ok\n", CTRL_D),))
    typist.type("\x12rop\r\r", scripted(), later=(("ok\n", CTRL_D),))
    assert typist.messages()[0] == ("user", "what is rope")


def test_the_words_help_quit_and_exit_alone_are_commands(typist: Typist, scripted: Any) -> None:
    shown = typist.type("help\rquit\r", scripted())
    assert "/temp X" in shown
    assert "resume" not in shown.splitlines()[-1]


def test_another_session_is_resumed_and_this_one_renamed(typist: Typist, scripted: Any) -> None:
    typist.type("one\r", scripted(["first"]), later=(("first\n", CTRL_D),))
    typist.type("two\r", scripted(["second"]), session="b", later=(("second\n", CTRL_D),))
    shown = typist.type(
        "/resume nowhere\r/resume a\r/rename c\r/sessions\rmore\r",
        scripted(["third"]),
        session="b",
        later=(("third\n", CTRL_D),),
    )
    assert "there is no session 'nowhere': /sessions lists them\n" in shown
    assert "resumed 'a': 3 messages\n> one\nfirst\n" in shown
    assert "* c  1 turn  one\n" in shown
    assert shown.splitlines()[-1] == "resume with: niels-chat --session c"
    assert [content for _, content in typist.messages("c")] == ["one", "first", "more", "third"]
    assert [content for _, content in typist.messages("b")] == ["two", "second"]


def test_another_checkpoint_goes_on_with_the_same_conversation(
    typist: Typist, scripted: Any, tmp_path: Path
) -> None:
    (tmp_path / "other.pt").touch()
    models = iter([scripted(["first"]), scripted(["second"], fingerprint="f2")])
    kept = []

    def load() -> Any:
        kept.append(next(models))
        return kept[-1]

    shown = typist.type(
        f"one\r/model {tmp_path}/none.pt\r/model {tmp_path}/other.pt\rtwo\r",
        load,
        later=(("second\n", CTRL_D),),
    )
    assert "none.pt' does not exist" in shown
    assert [content for _, content in typist.messages()] == ["one", "first", "two", "second"]
    with open_store(typist.path) as store:
        made = store.generations(store.session("a").id)
    assert made[0].checkpoint_id != made[1].checkpoint_id
    assert all(model.closed for model in kept)


def test_a_stopped_reply_can_be_kept_from_the_model(typist: Typist, scripted: Any) -> None:
    model = scripted(itertools.repeat("la "), ["fine"], context_length=10**6)
    later = (("la la la", CTRL_C), ("(stopped; the model will not see", "thanks\r"), ("fine\n", CTRL_D))
    typist.type("/keep_stopped off\rsing\r", model, later=later)
    assert typist.statuses()[1] == "cancelled"
    # One number a word and one a message: the system prompt, "thanks" and the roles.
    assert len(model.requests[1].prompt_ids) == len(model.requests[0].prompt_ids)


def test_statistics_tell_tokens_and_context(typist: Typist, scripted: Any) -> None:
    shown = typist.type("/stats\rhi\r/stats\r", scripted(), later=(("last reply", CTRL_D),))
    assert "since start no reply\n" in shown
    assert "since start 1 reply, 2 tokens\n" in shown
    assert " of 1000 tokens\n" in shown


def test_a_session_is_exported_to_a_file_that_is_not_there_yet(
    typist: Typist, scripted: Any, tmp_path: Path
) -> None:
    path = tmp_path / "chat.md"
    shown = typist.type(
        f"hi\r/export {path}\r/export {path}\r", scripted(), later=(("is there already", CTRL_D),)
    )
    assert f"wrote session 'a' to '{path}'\n" in shown
    assert "hi" in path.read_text(encoding="utf-8")


def test_a_mark_turns_until_the_first_token_and_not_longer(typist: Typist, scripted: Any) -> None:
    seen = threading.Event()

    def thoughtful() -> Iterator[str]:
        assert seen.wait(20)
        yield "well"

    later = (("thinking", seen.set), ("well\n", CTRL_D))
    shown = typist.type("hi\r", scripted(thoughtful()), later=later, columns=lambda: 60)
    assert "\r\x1b[Kwell\n" in shown
    assert "thinking" not in shown.partition("well")[2]


def test_markdown_is_rendered_when_asked(typist: Typist, scripted: Any) -> None:
    model = scripted(["so **b", "old**"], ["**plain**"])
    later = (("old", "/markdown off\r"), ("/markdown off\n", "again\r"), ("plain**", CTRL_D))
    shown = typist.type("hi\r", model, later=later, markdown=True, columns=lambda: 60)
    assert "so \x1b[0;1mbold" in shown
    assert "**plain**" in shown
    assert typist.messages()[1] == ("assistant", "so **bold**")


def test_without_a_session_nothing_is_said_about_resuming(typist: Typist, scripted: Any) -> None:
    shown = typist.type("hi\r", scripted(), session=None, ephemeral=True, later=(("ok\n", CTRL_D),))
    assert shown == "ok\n"

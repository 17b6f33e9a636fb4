"""Runs the chat on a scripted keyboard and no screen, with a scripted model on a real store."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prompt_toolkit.application import create_app_session
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from niels_gpt.chat.repl import Repl
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.workspace import Workspace
from niels_gpt.terminal.render import Screen
from sessions import open_store

CTRL_C, CTRL_D, ESC = "\x03", "\x04", "\x1b"


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
        typed = options.pop("typed", b"")
        chosen = ChatOptions(session=session, **options)
        workspace = Workspace(
            chosen, open_store=lambda _: open_store(self.path), load_model=lambda _: self._load(model)
        )
        with ExitStack() as stack:
            keyboard = stack.enter_context(create_pipe_input())
            stack.enter_context(create_app_session(input=keyboard, output=DummyOutput()))
            out.when = [(text, lambda more=more: self._send(keyboard, more)) for text, more in later]
            self._send(keyboard, keys)
            screen = Screen(out, out, styled=columns is not None, columns=columns, quiet=chosen.quiet)
            repl = Repl(
                workspace, screen, history=self.history, typed=typed, keyboard=keyboard, display=DummyOutput()
            )
            try:
                asyncio.run(asyncio.wait_for(repl.run(), 20))
            finally:
                workspace.close()
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

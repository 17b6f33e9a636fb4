"""Going on without a name: the session used last, or one from a list."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import pytest

from niels_gpt.chat.app import with_picked
from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.cli.options import parse_options
from niels_gpt.conversation.errors import LoadFailed
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.conversation.workspace import Workspace, with_latest
from sessions import Store

from .conftest import Say


def test_continue_means_the_session_used_last_archived_ones_left_out(store: Store, say: Say) -> None:
    for name in "abc":
        say(name, "hi", "ho")
    store.archive(store.session("c").id)
    say("a", "again", "yes")
    options = parse_options(["-c", "--temperature", "0"])
    assert options.latest
    assert with_latest(store, options).session == "a"
    assert with_latest(store, options).settings == {"temperature": 0.0}


def test_continuing_without_any_session_says_how_to_begin_one(store: Store) -> None:
    with pytest.raises(LoadFailed, match="no session to continue yet"):
        with_latest(store, parse_options(["--continue"]))


def test_picking_needs_a_terminal() -> None:
    with pytest.raises(LoadFailed, match="--pick asks on a terminal"):
        with_picked(parse_options(["--pick"]))


@pytest.mark.parametrize(
    "argv", [["-c", "--pick"], ["-c", "--session", "a"], ["--no-session", "-c"], ["--no-session", "--pick"]]
)
def test_only_one_way_to_name_a_session_at_once(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_chat_cli(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_chat_opens_the_session_used_last(store: Store, say: Say) -> None:
    say("a", "hi", "ho")
    say("b", "hi", "ho")

    def no_model(options: ChatOptions) -> NoReturn:
        raise LoadFailed("not needed here")

    async def run() -> Workspace:
        options = parse_options(["-c"])
        opened = Workspace(options, open_store=lambda _: store, load_model=no_model)
        opened.start()
        await asyncio.wait_for(opened.serve(), timeout=20)
        return opened

    opened = asyncio.run(run())
    assert opened.session is not None
    assert (opened.options.session, opened.session.name, opened.session.exists) == ("b", "b", True)

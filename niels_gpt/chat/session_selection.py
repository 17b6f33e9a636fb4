"""Which session to go on with when the command line gives no name: the last used one, or one from a list.

Imports the store and the list only when they are asked for.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from niels_gpt.conversation.errors import LoadFailed
from niels_gpt.conversation.options import ChatOptions

if TYPE_CHECKING:
    from sessions import Store

_LISTED = 1000


def with_latest(store: Store, options: ChatOptions) -> ChatOptions:
    """Return the options with the name of the session that was used last. LoadFailed if there is none."""
    session = store.last_used()
    if session is None:
        raise LoadFailed("there is no session to go on with yet: niels-chat without --continue begins one")
    return replace(options, session=session.name)


def with_picked(options: ChatOptions) -> ChatOptions | None:
    """Ask on the terminal and return the options with the chosen name; None if the user chose none.

    LoadFailed where there is no terminal, or nothing to choose from.
    """
    if options.prompt is not None or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise LoadFailed("--pick asks on a terminal: give --session NAME, or --continue for the last used")
    from niels_gpt.conversation.session import open_store  # noqa: PLC0415
    from niels_gpt.terminal.picker import choice_of, pick  # noqa: PLC0415 - heavy, and asked for by few

    with open_store(options) as store:
        choices = [choice_of(each) for each in store.sessions(limit=_LISTED)]
    if not choices:
        raise LoadFailed("there are no sessions to choose from yet: niels-chat without --pick begins one")
    name = asyncio.run(pick(choices))
    return None if name is None else replace(options, session=name)

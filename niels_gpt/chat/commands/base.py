"""What a command is, and what the modules of commands share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread

from niels_gpt.conversation.errors import SessionTrouble

if TYPE_CHECKING:  # the store behind a session is heavy, and /help must not wait for it
    from niels_gpt.chat.controller import Controller
    from sessions import Store

T = TypeVar("T")

_MOST_DIGITS = 18
GROUPS = ("conversation", "sessions", "model", "settings", "screen")


def no_completions(store: Store | None, prefix: str) -> Iterable[str]:
    """Offer nothing."""
    del store, prefix
    return ()


@dataclass(frozen=True, kw_only=True)
class Command:
    """One row of the registry. `value` is the placeholder of its argument, empty where there is none.

    `group` is one of `GROUPS`, under which the help lists it. `aliases` are other names of it.

    What can be completed after it are the `examples`, and what `complete` finds for the letters typed so far;
    the store is None while it loads.
    """

    name: str
    value: str
    help: str
    group: str
    aliases: tuple[str, ...] = ()
    allowed: str = ""
    examples: tuple[str, ...] = ()
    complete: Callable[[Store | None, str], Iterable[str]] = no_completions
    run: Callable[[Controller, str], Awaitable[None]]


async def of_store(function: Callable[..., T], *args: object) -> T:
    """Call the store on a thread; its errors become SessionTrouble."""
    from sessions import StoreError  # noqa: PLC0415 - heavy; where there is a store, it is imported

    try:
        return await anyio.to_thread.run_sync(partial(function, *args))
    except StoreError as error:
        raise SessionTrouble(str(error)) from error


def takes_nothing(name: str, chat: Controller, text: str) -> bool:
    """Return whether a command got no value; prints an error where it got one."""
    if text:
        chat.error(f"{name} takes no value, got {text!r}; to send the line as a message type /{name} {text}")
    return not text


def whole_number(text: str) -> int | None:
    """Return a whole number from 0 that a command got; None for anything else, absurd lengths included."""
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None

"""What a command is, and what the modules of commands share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the store behind a session is heavy, and /help must not wait for it
    from niels_gpt.chat.controller import Controller
    from sessions import Store

_MOST_DIGITS = 18


def no_completions(store: Store | None, prefix: str) -> Iterable[str]:
    """Offer nothing."""
    del store, prefix
    return ()


@dataclass(frozen=True, kw_only=True)
class Command:
    """One row of the registry. `value` is the placeholder of its argument, empty where there is none.

    What can be completed after it are the `examples`, and what `complete` finds for the letters typed so far;
    the store is None while it loads.
    """

    name: str
    value: str
    help: str
    allowed: str = ""
    examples: tuple[str, ...] = ()
    complete: Callable[[Store | None, str], Iterable[str]] = no_completions
    run: Callable[[Controller, str], Awaitable[None]]


def takes_nothing(name: str, chat: Controller, text: str) -> bool:
    """Return whether a command got no value; prints an error where it got one."""
    if text:
        chat.error(f"{name} takes no value, got {text!r}; to send the line as a message type /{name} {text}")
    return not text


def whole_number(text: str) -> int | None:
    """Return a whole number from 0 that a command got; None for anything else, absurd lengths included."""
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None

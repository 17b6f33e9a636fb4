"""What a command is and what it can reach: the vocabulary that the modules of commands share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from niels_gpt.conversation.settings import Value

if TYPE_CHECKING:  # the store behind a record is heavy, and /help must not wait for it
    from niels_gpt.chat.stats import ChatStats
    from niels_gpt.conversation.conversation import Conversation, Listener, TurnResult
    from niels_gpt.conversation.options import ChatOptions
    from niels_gpt.conversation.session import ConversationSession
    from sessions import Store


class ChatActions(Protocol):
    """What a command can reach."""

    async def record(self) -> ConversationSession:
        """Return the open session; waits while the store loads."""
        ...

    async def store(self) -> Store:
        """Return the store; waits while it loads."""
        ...

    async def conversation(self) -> Conversation:
        """Return the conversation with the model; waits while it loads."""
        ...

    async def answer(self, work: Callable[[Conversation, Listener], Awaitable[TurnResult]]) -> None:
        """Have a reply generated and show it as it comes."""
        ...

    async def switch(self, session: str) -> None:
        """Go on with another session; ChatError leaves everything as it is."""
        ...

    async def use(self, checkpoint: Path) -> None:
        """Go on with another checkpoint; ChatError leaves everything as it is."""
        ...

    async def during(self, work: Awaitable[object], what: str) -> None:
        """Wait for something that takes long, and show so."""
        ...

    def columns(self) -> int:
        """Return how wide a line may be."""
        ...

    def options(self) -> ChatOptions:
        """Return what the user asked for, as far as it still holds."""
        ...

    def facts(self) -> ChatStats:
        """Return what is known of session, model and replies."""
        ...

    def preference(self, key: str) -> Value:
        """Return how the chat looks or works now."""
        ...

    def prefer(self, key: str, value: Value) -> None:
        """Change how the chat looks or works; ChatError where that cannot be."""
        ...

    def say(self, text: str) -> None:
        """Print lines that were asked for."""
        ...

    def error(self, text: str) -> None:
        """Print what was wrong with a line, in one line."""
        ...

    def leave(self) -> None:
        """End the chat after this command."""
        ...


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
    run: Callable[[ChatActions, str], Awaitable[None]]


def takes_nothing(name: str, desk: ChatActions, text: str) -> bool:
    """Return whether a command got no value; says so where it got one."""
    if text:
        desk.error(f"{name} takes no value, got {text!r}; to send the line as a message type /{name} {text}")
    return not text

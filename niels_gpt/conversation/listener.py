"""Who hears a reply as it comes. A module of its own because importing it costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from niels_gpt.conversation.conversation import TurnResult
    from sessions import Generation


class Listener:
    """Hears a reply as it comes; the methods do nothing until they are overridden.

    They are called on the event loop. What `text` raises ends the reply as cancelled.
    """

    def trimmed(self, turns: int) -> None:
        """The oldest `turns` whole turns do not fit into the context. Called when the first one leaves it."""

    def cut(self, tokens: int) -> None:
        """The first `tokens` tokens of the system prompt do not fit into the context."""

    def restarted(self, generation: Generation) -> None:
        """An interrupted reply cannot be finished as it was begun; the next attempt at it is made."""

    def text(self, delta: str) -> None:
        """The next piece of the reply, raw."""

    def ended(self, result: TurnResult) -> None:
        """The reply has ended and is kept, also when it was cancelled."""

"""What the chat says about a conversation: its messages, and who answers in it when that changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from niels_gpt.terminal.render import Screen
from niels_gpt.text.attachments import folded

if TYPE_CHECKING:
    from niels_gpt.conversation.conversation import Conversation
    from niels_gpt.conversation.session import ConversationSession
    from sessions import Message, Turn

STOPPED = "(stopped)"


def quoted(text: str) -> str:
    """Return a user's message as the chat shows it: a mark before it, its other lines indented."""
    return "> " + folded(text).replace("\n", "\n  ")


def show_messages(screen: Screen, messages: Iterable[Message], *, dim: bool = False) -> None:
    """Print messages as the chat shows them, dim for what is only recalled."""
    for message in messages:
        if message.role == "user":
            screen.say_asked(quoted(message.content), dim=dim)
        elif message.role == "system":
            screen.notice(f"(system) {message.content}")
        else:
            screen.say_reply(message.content, dim=dim)
            if message.status == "cancelled":
                screen.notice(STOPPED)


async def who_answers(
    session: ConversationSession, conversation: Conversation, checkpoint: Path
) -> str | None:
    """Return a notice where the last reply was made elsewhere than the next one will be, else None.

    Args:
        session: Whose last reply.
        conversation: What makes the next one.
        checkpoint: Its path.
    """
    last = await session.last_turn()
    if last is None:
        return None
    before, now = place_of(last.generation.environment), place_of(conversation.model.environment)
    if last.generation.checkpoint_id != await conversation.checkpoint_id():
        old = Path((await session.checkpoint(last.generation.checkpoint_id)).path)
        name = checkpoint.name if before != now else _distinct(checkpoint, old)
        back = f", and /model {old} goes back" if before == now else ""
        return f"(the replies so far are by {old.name}{before}; {name}{now} answers now{back})"
    if before != now:
        return f"(the replies so far are by {checkpoint.name}{before}; {checkpoint.name}{now} answers now)"
    return None


async def who_finishes(
    session: ConversationSession, conversation: Conversation, checkpoint: Path, turn: Turn
) -> tuple[str, bool]:
    """Return a notice about a reply that was interrupted, and whether what began it finishes it.

    Args:
        session: Where the reply is.
        conversation: What finishes it.
        checkpoint: Its path.
        turn: The turn of the reply.
    """
    if turn.generation.checkpoint_id == await conversation.checkpoint_id():
        return "(this reply was interrupted; finishing it)", True
    old = Path((await session.checkpoint(turn.generation.checkpoint_id)).path)
    name = _distinct(checkpoint, old)
    return f"(this reply was interrupted under {old.name}; {name} answers from the start)", False


def place_of(environment: Mapping[str, object]) -> str:
    """Return what to add to a checkpoint's name where it runs unusually: the device, the form of weights."""
    facts = [str(environment["device"])] if environment.get("device", "cpu") != "cpu" else []
    if environment.get("weights") == "int8":
        facts.append("int8 weights")
    elif environment.get("path") == "torch" and not facts:
        facts.append("torch")
    return f" ({', '.join(facts)})" if facts else ""


def _distinct(checkpoint: Path, other: Path) -> str:
    """Return a name of a checkpoint that distinguishes it from another one."""
    return f"{checkpoint.name} with other weights" if checkpoint.name == other.name else checkpoint.name

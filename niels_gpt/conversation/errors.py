"""The errors of a conversation: each message is one complete line that a user can act on.

Errors of the layers below (store, checkpoint, engine) are translated into one of these where they are met.
A front end prints the message and nothing else.
"""

from __future__ import annotations

from niels_gpt.errors import ReportedError


class ChatError(ReportedError):
    """Base of these errors: the message is complete and meant for the user."""


class LoadFailed(ChatError):  # noqa: N818 - named for what happened, as everywhere in this project
    """The checkpoint or the store cannot be used: the program ends."""


class MessageTooLong(ChatError):  # noqa: N818
    """A message leaves no room for a reply even with every older turn dropped; nothing was stored."""


class ReplyFailed(ChatError):  # noqa: N818
    """The generation broke; the user's message stays in the session, without a reply."""


class SessionTrouble(ChatError):  # noqa: N818
    """The store refused: another program moved the session, the disk is full, the name is taken, ..."""


class NotStoredYet(SessionTrouble):
    """The last reply is not durable yet; it is kept in memory, and nothing else was stored."""

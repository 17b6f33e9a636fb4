"""Compute the prefill budget: how many tokens of a prompt one call reads.

Every call reads all weights, so a prompt is read fastest in one call. But no sequence can join, leave or be
cancelled while a call runs. So a prompt that is alone is read in chunks of about equal length, sized by the
measured times of earlier calls to take a thirtieth of a second. The bits of the result do not depend on the
chunks.
"""

from __future__ import annotations

CALL_SECONDS = 0.03
MOST = 512  # rows of a call, at most
LEAST = 16  # fewer would read all weights for too little


class PrefillBudget:
    """The budget for prompts that are read alone, adapted to measured times."""

    def __init__(self, usual: int) -> None:
        """Create a budget; `usual` tokens are read while other prompts wait, and until a call was timed."""
        self._usual = usual
        self._longest = usual
        self._affordable = usual

    def next(self, unread: int) -> int:
        """Return how many of `unread` tokens to read now, so that no short chunk remains for the end."""
        calls = max(1, round(unread / self._longest))
        return min(-(-unread // calls), MOST)

    @property
    def shared(self) -> int:
        """The tokens to read in a call while other sequences wait; fewer for a slow model."""
        return min(self._usual, max(LEAST, self._affordable))

    def record(self, tokens: int, seconds: float) -> None:
        """Record how long reading so many tokens took; calls with few tokens are ignored."""
        if 2 * tokens >= self._usual:
            self._affordable = int(tokens * CALL_SECONDS / max(seconds, 1e-9))
            self._longest = max(self._usual, min(self._affordable, MOST))
        elif tokens >= LEAST:  # a call that others waited for
            self._affordable = int(tokens * CALL_SECONDS / max(seconds, 1e-9))

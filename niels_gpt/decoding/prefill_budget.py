"""The prefill budget: how many tokens of a prompt one call reads.

Every call reads all weights, so a prompt is read fastest in one. But nothing can join, leave or be cancelled
while a call runs. So a prompt that is alone is read in chunks of about equal length, as long as earlier calls
suggest for a thirtieth of a second. The bits of the result do not depend on the chunks.
"""

from __future__ import annotations

CALL_SECONDS = 0.03
MOST = 512  # rows of a call, at most


class PrefillBudget:
    """The budget for prompts that are read alone, adapted to measured times."""

    def __init__(self, usual: int) -> None:
        """`usual` tokens are read where other prompts wait, and until a call was timed."""
        self._usual = usual
        self._longest = usual

    def next(self, unread: int) -> int:
        """Return how many of `unread` tokens to read now, so that no short chunk remains for the end."""
        calls = max(1, round(unread / self._longest))
        return min(-(-unread // calls), MOST)

    def record(self, tokens: int, seconds: float) -> None:
        """Record how long reading so many tokens took; calls with few tokens are ignored."""
        if 2 * tokens >= self._usual:
            affordable = int(tokens * CALL_SECONDS / max(seconds, 1e-9))
            self._longest = max(self._usual, min(affordable, MOST))

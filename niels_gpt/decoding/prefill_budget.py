"""How many tokens of a prompt one call reads: few where others wait, more where nobody does.

Every call reads all weights, so a prompt is read fastest in one. But nothing can join, leave or be
cancelled while a call runs. So a prompt that is alone is read in portions of as many tokens as take about a
thirtieth of a second by what earlier calls took, all of about one length. The result is the same bits in
any portions.
"""

from __future__ import annotations

CALL_SECONDS = 0.03
MOST = 512  # rows that a call has memory for


class PrefillBudget:
    """For prompts that are read alone, as times come in."""

    def __init__(self, usual: int) -> None:
        """`usual` tokens are what a call reads where others wait, and until something was timed."""
        self._usual = usual
        self._longest = usual

    def next(self, unread: int) -> int:
        """How many of so many unread tokens to read now: a last portion is no tiny rest."""
        calls = max(1, round(unread / self._longest))
        return min(-(-unread // calls), MOST)

    def took(self, tokens: int, seconds: float) -> None:
        """Hear how long reading so many tokens took; too few of them say nothing."""
        if 2 * tokens >= self._usual:
            affordable = int(tokens * CALL_SECONDS / max(seconds, 1e-9))
            self._longest = max(self._usual, min(affordable, MOST))

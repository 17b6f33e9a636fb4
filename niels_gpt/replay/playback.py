"""Play a conversation as it was: the pauses before each reply, and its words at their pace.

The stored texts and timings are enough; no checkpoint is needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from sessions import RecordedTurn

_LONGEST_SECONDS = 600.0
_WORDS = re.compile(r"\S*\s*")


def play(
    turn: RecordedTurn,
    *,
    speed: float,
    show: Callable[[str], None],
    wait: Callable[[float], None],
) -> None:
    """Show a reply word by word; `wait` gets seconds, divided by `speed`.

    A reply without recorded timings comes at once.
    """
    timings: Mapping[str, object] = turn.generation.timings or {}
    first, total = (_seconds(timings.get(name)) for name in ("first_token", "total"))
    pieces = [piece for piece in _WORDS.findall(turn.reply.content) if piece]
    pause = max(0.0, total - first) / max(1, len(pieces)) / speed
    wait(first / speed)
    for piece in pieces:
        show(piece)
        wait(pause)


def _seconds(value: object) -> float:
    """Return a recorded time as one that can be waited for: an imported file may claim anything."""
    if not isinstance(value, (int, float)) or math.isnan(value):
        return 0.0
    return min(max(value, 0.0), _LONGEST_SECONDS)

"""Pieces of bytes into whole text, as they come, for a reader who sees each part once.

A UTF-8 character split over pieces waits for its end, and what may be the beginning of a stop sequence
waits until it is one or is not. The parts concatenate to exactly the text before the first stop sequence,
however the bytes were cut.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence


class Detokenizer:
    """Text of one reply. First is the stop sequence whose last byte comes first, of equals the longest."""

    def __init__(self, token_bytes: Callable[[int], bytes], stop_sequences: Sequence[bytes] = ()) -> None:
        """`token_bytes` gives the bytes of an id; an empty stop sequence raises `ValueError`."""
        if not all(stop_sequences):
            raise ValueError(f"the stop sequences {list(stop_sequences)!r} hold an empty one, expected bytes")
        self._token_bytes = token_bytes
        self._stops = tuple(stop_sequences)
        self._held = b""  # bytes that may begin a stop sequence
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ended = False
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Text that is certain once this token is in; "" after a stop sequence was found."""
        if self._ended:
            return ""
        if not self._stops:
            return self._characters.decode(self._token_bytes(token_id))
        self._held += self._token_bytes(token_id)
        start = self._stop_start()
        if start is not None:
            self.stopped = True
            self._held = self._held[:start]
            return self.finish()
        certain = len(self._held) - self._possible_stop()
        text = self._characters.decode(self._held[:certain])
        self._held = self._held[certain:]
        return text

    def finish(self) -> str:
        """Text still held back, when nothing follows; an unfinished character becomes U+FFFD."""
        self._ended = True
        held, self._held = self._held, b""
        return self._characters.decode(held, final=True)

    def _stop_start(self) -> int | None:
        found = [(start + len(stop), start) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _possible_stop(self) -> int:
        """Length of the longest end of the held bytes that begins a stop sequence."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

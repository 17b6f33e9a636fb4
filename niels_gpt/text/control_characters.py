"""Make text from models, files and other programs safe to print.

Replies, messages and names are data: nothing in them may move the cursor, ring the bell, set the title or
reorder a line.
"""

from __future__ import annotations

import unicodedata

_PASS = frozenset("\n\t")
_REORDERING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def _harmless_character(character: str) -> str:
    if character in _PASS:
        return character
    category = unicodedata.category(character)
    if category == "Cc":
        code = ord(character)
        # The pictures of C0 and DEL in Unicode; C1 has none.
        return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else f"\\x{code:02x}"
    if category in {"Zl", "Zp"} or unicodedata.bidirectional(character) in _REORDERING:
        return f"\\u{ord(character):04x}"
    return "\N{REPLACEMENT CHARACTER}" if category == "Cs" else character


class Harmless:
    """Makes streamed text safe to print, piece by piece.

    Tabs and newlines pass; every other control character becomes a visible stand-in. No escape sequence
    survives a split, because its characters are replaced one by one. A carriage return waits for its
    newline: alone it would overwrite the line.
    """

    def __init__(self) -> None:
        self._held = ""

    def feed(self, delta: str) -> str:
        """Return what of the text so far can be printed now."""
        text = (self._held + delta).replace("\r\n", "\n")
        self._held = "\r" if text.endswith("\r") else ""
        text = text.removesuffix("\r") if self._held else text
        return text if text.isascii() and text.isprintable() else "".join(map(_harmless_character, text))

    def finish(self) -> str:
        """Return the text that was held back, and reset."""
        held, self._held = self._held, ""
        return "".join(map(_harmless_character, held))


def harmless(text: str) -> str:
    """Return a whole text, safe to print."""
    filtered = Harmless()
    return filtered.feed(text) + filtered.finish()

"""Letters that a search takes for others, frozen with schema 0003: PostgreSQL's index is built with them."""

from __future__ import annotations

import unicodedata

_LATIN_GREEK_CYRILLIC = (range(0xC0, 0x250), range(0x370, 0x530), range(0x1E00, 0x2000))
_MARKS = "".join(map(chr, range(0x300, 0x370)))


def _pairs() -> list[tuple[str, str]]:
    letters = [chr(code) for block in _LATIN_GREEK_CYRILLIC for code in block]
    plain = [(letter, unicodedata.normalize("NFD", letter)[0]) for letter in letters]
    return [(letter, base) for letter, base in plain if letter != base and base.isalpha()]


_PAIRS = _pairs()
ACCENTED = "".join(letter for letter, _ in _PAIRS) + _MARKS
"""Letters with accents, and the accents, which have no counterpart in ``PLAIN`` and are deleted."""
PLAIN = "".join(base for _, base in _PAIRS)


def without_accents(text: str) -> str:
    """Return ``text`` as SQL's ``translate(text, ACCENTED, PLAIN)`` does."""
    return text.translate(_TABLE)


_TABLE = str.maketrans(ACCENTED[: len(PLAIN)], PLAIN, _MARKS)

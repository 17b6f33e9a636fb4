"""Compare two texts word by word, for a screen with colour or in plain marks."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

Kind = Literal["same", "gone", "new"]

_WORDS = re.compile(r"\s*\S+|\s+$")  # a blank goes with the word after it, or every one would match another
_RED, _GREEN, _PLAIN = "\x1b[31;9m", "\x1b[32m", "\x1b[0m"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A run of words, with the blanks between them."""

    kind: Kind
    text: str


def word_difference(old: str, new: str) -> list[Piece]:
    """Return the pieces of both texts: without the new ones they are the old text, and the reverse."""
    a, b = _WORDS.findall(old), _WORDS.findall(new)
    pieces: list[Piece] = []
    for tag, a_from, a_to, b_from, b_to in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "equal":
            pieces.append(Piece(kind="same", text="".join(a[a_from:a_to])))
            continue
        if a_to > a_from:
            pieces.append(Piece(kind="gone", text="".join(a[a_from:a_to])))
        if b_to > b_from:
            pieces.append(Piece(kind="new", text="".join(b[b_from:b_to])))
    return pieces


def words(pieces: list[Piece], kind: Kind) -> int:
    """Return how many words the pieces of one kind have."""
    return sum(len(piece.text.split()) for piece in pieces if piece.kind == kind)


def _touches(before: Piece, piece: Piece) -> bool:
    return not before.text[-1:].isspace() and not piece.text[:1].isspace()


def parts(pieces: list[Piece], *, styled: bool) -> list[tuple[str, str]]:
    """Return the pieces as texts with their styles: struck red and green, or `[-gone-]` and `{+new+}`."""
    # What replaces the first words has no blank of its own before it.
    pieces = [
        Piece(kind=piece.kind, text=f" {piece.text}" if _touches(before, piece) else piece.text)
        for before, piece in itertools.pairwise([Piece(kind="same", text=" "), *pieces])
    ]
    if styled:
        styles = {"same": "", "gone": _RED, "new": _GREEN}
        return [(piece.text, styles[piece.kind]) for piece in pieces]
    forms = {"same": "{}", "gone": "[-{}-]", "new": "{{+{}+}}"}
    return [(forms[piece.kind].format(piece.text), "") for piece in pieces]


def shown(pieces: list[Piece], *, styled: bool) -> str:
    """Return the pieces as one text."""
    return "".join(
        f"{style}{text}{_PLAIN}" if style else text for text, style in parts(pieces, styled=styled)
    )

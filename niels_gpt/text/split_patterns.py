"""The patterns that byte-level tokenizers split text with, and a check of patterns that files bring along.

The library's regular expressions backtrack, so a hostile pattern can take exponential time on a short text.
A pattern is taken if nothing in it repeats a group and no alternative repeats more than `MOST_REPEATS`
times, which bounds its time by a small power of the text's length.
"""

from __future__ import annotations

import re

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
QWEN2 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTIONS + r"?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTIONS + r"?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LONGEST_PATTERN = 2000
MOST_REPEATS = 5

_ATOMS = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_REPEAT = re.compile(r"[*+]|\{\d*,\d*\}|\{\d+\}")


def pattern_fault(pattern: str) -> str | None:
    """Return why a pattern cannot be trusted with any text, or None."""
    if len(pattern) > LONGEST_PATTERN:
        return f"its pattern has {len(pattern)} characters, expected at most {LONGEST_PATTERN}"
    repeats, closed, at = 0, False, 0
    while at < len(pattern):
        repeat = _REPEAT.match(pattern, at)
        if repeat is not None:
            if closed:
                return f"its pattern repeats a group ({pattern[max(at - 20, 0) : repeat.end()]!r})"
            unbounded = (
                repeat.group() in {"*", "+"} or repeat.group().endswith(",}") or _large(repeat.group())
            )
            repeats += unbounded
            if repeats > MOST_REPEATS:
                return f"its pattern repeats more than {MOST_REPEATS} times in one alternative"
            at, closed = repeat.end(), False
            continue
        atom = _ATOMS.match(pattern, at)
        text = pattern[at] if atom is None else atom.group()
        if text == "|":
            repeats = 0
        closed = text == ")"
        at += len(text)
    return None


def _large(repeat: str) -> bool:
    return any(int(number) > 16 for number in re.findall(r"\d+", repeat[:40]))

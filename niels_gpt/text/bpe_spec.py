"""All that decides the ids of a BPE tokenizer of another project, and how a tokenizer.json says it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from niels_gpt.text.split_patterns import pattern_fault
from niels_gpt.text.tokenizer import TokenizerError

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's letter for a blank."""
LARGEST_VOCABULARY = 2**21
SPLITTERS = ("ByteLevel", "Digits", "Metaspace", "Punctuation", "Split")
KEPT = ("Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
"""What a splitter may do with what it matches: anything but remove it."""


@dataclass(frozen=True, kw_only=True)
class BPESpec:
    """All that decides a tokenizer's ids, whatever file it came from."""

    pieces: Sequence[str]
    """By id, in the alphabet's letters; "" for an id that stands for nothing."""
    merges: Sequence[Sequence[str]]
    alphabet: Literal["bytes", "spaces"]
    """Letters that stand for a byte each, or text with `SPACE` for a blank and <0x0A> for single bytes."""
    splitters: Sequence[Mapping[str, Any]] = ()
    """The library's pre-tokenizers."""
    special: Sequence[int] = ()
    """Ids of control tokens: never part of a text, in or out."""
    visible: Sequence[int] = ()
    """Ids of added tokens that a model may say, and that are shown then: <think>."""
    strips: Mapping[int, str] = ()  # pyright: ignore[reportAssignmentType] - an empty mapping
    """Added tokens that take the blanks at their left ("l"), right ("r") or both ("lr")."""
    runs: Sequence[int] = ()
    """Ids of added tokens that are blanks and nothing else, and part of ordinary text."""
    ignore_merges: bool = False
    prefix: Literal["", "first", "always"] = ""
    """Where a rendered prompt gets a blank in front: nowhere, at its start, or after every control token."""
    begin: Sequence[int] = ()
    """Ids in front of a text that is not a chat."""
    end: str | None = None
    """The control token that ends a text, which `special_token_ids` then calls "eot"."""


def spec_of(stored: object, *, end: str | None = None) -> BPESpec:
    """Return what a tokenizer.json says.

    Args:
        stored: the parsed file.
        end: the control token that ends a text.

    Raises:
        TokenizerError: a part is missing, of the wrong type, or not supported.

    """
    try:
        return _spec_of(stored, end)
    except TokenizerError as error:
        raise TokenizerError(f"not a tokenizer that can be used here: {error}") from error
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise TokenizerError(f"not a tokenizer: {reason}; expected a tokenizer.json") from error


def _spec_of(stored: Any, end: str | None) -> BPESpec:
    model, added = stored["model"], stored.get("added_tokens") or []
    kind = model.get("type", "BPE")
    decoder = json.dumps(stored.get("decoder"))
    alphabet = "bytes" if '"ByteLevel"' in decoder else "spaces"
    if kind != "BPE" or (alphabet == "spaces" and not model.get("byte_fallback")):
        raise TokenizerError(f"it is a {kind} without pieces for single bytes, expected a byte-level BPE")
    for setting in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(setting):
            raise TokenizerError(f"its {setting} is {model[setting]!r}, expected none")
    vocab = {str(piece): _id(n) for piece, n in model["vocab"].items()}
    contents = {_id(token["id"]): str(token["content"]) for token in added}
    ids = {n: piece for piece, n in vocab.items()} | contents
    pieces = [ids.get(n, "") for n in range(max(ids, default=-1) + 1)]
    special = [n for n, token in zip(contents, added, strict=True) if token.get("special")]
    plain = [n for n in contents if n not in set(special)]
    runs = [n for n in plain if not contents[n].replace(SPACE, " ").strip()]
    if end is not None and end not in {contents[n] for n in special}:
        raise TokenizerError(
            f"its end token {end!r} is none of its control tokens {sorted(contents[n] for n in special)!r}"
        )
    return BPESpec(
        pieces=pieces,
        merges=[_pair(merge) for merge in model["merges"]],
        alphabet=alphabet,
        splitters=_splitters(stored.get("pre_tokenizer"), alphabet),
        special=special,
        visible=[n for n in plain if n not in set(runs)],
        strips={
            _id(token["id"]): "l" * bool(token.get("lstrip")) + "r" * bool(token.get("rstrip"))
            for token in added
            if token.get("lstrip") or token.get("rstrip")
        },
        runs=runs,
        ignore_merges=bool(model.get("ignore_merges")),
        prefix=_prefix(stored),
        end=end,
    )


def _id(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < LARGEST_VOCABULARY:
        raise TokenizerError(f"it has the id {value!r}, expected 0 to {LARGEST_VOCABULARY - 1}")
    return value


def _pair(merge: object) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    match parts:
        case [str(left), str(right)]:
            return left, right
        case _:
            raise TokenizerError(f"its merge {merge!r} is not of two pieces")


def _listed(part: Any, name: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return list(part[name]) if part["type"] == "Sequence" else [part]


def _splitters(part: Any, alphabet: str) -> list[dict[str, Any]]:
    found = [one for given in _listed(part, "pretokenizers") if (one := _checked_splitter(given)) is not None]
    if alphabet == "bytes" and not any(one["type"] == "ByteLevel" for one in found):
        raise TokenizerError("it has no ByteLevel pre-tokenizer, so bytes without a letter would vanish")
    return found


def _checked_splitter(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a pre-tokenizer that only splits, without a blank in front; None for one that does nothing."""
    kind = given["type"]
    if kind not in SPLITTERS:
        raise TokenizerError(
            f"its pre-tokenizer {kind!r} drops or changes text, expected {', '.join(SPLITTERS)}"
        )
    if kind == "Metaspace":
        if not given.get("split", True):
            return None
        return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": True}
    if kind == "Split":
        if given["behavior"] not in KEPT:
            raise TokenizerError(f"its pre-tokenizer removes what it splits at ({given['behavior']!r})")
        pattern = given["pattern"].get("Regex")
        fault = None if pattern is None else pattern_fault(pattern)
        if fault:
            raise TokenizerError(fault)
    return {**given, "add_prefix_space": False} if kind == "ByteLevel" else dict(given)


def _prefix(stored: Any) -> Literal["", "first", "always"]:
    """Return where a tokenizer puts a blank in front."""
    for one in _listed(stored.get("normalizer"), "normalizers"):
        if one["type"] == "Prepend":
            return "always"
    parts = _listed(stored.get("pre_tokenizer"), "pretokenizers")
    for one in parts:
        if one["type"] == "Metaspace":
            scheme = one.get("prepend_scheme", "always" if one.get("add_prefix_space", True) else "never")
            return "" if scheme == "never" else "first" if scheme == "first" else "always"
        if one["type"] == "ByteLevel" and one.get("add_prefix_space") and len(parts) == 1:
            return "always"
    return ""

"""nanochat's pickled `tiktoken.Encoding` as a BPE: its pieces by rank, from which the merges follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from niels_gpt.text.bpe import BYTE_OF_LETTER
from niels_gpt.text.bpe_spec import LARGEST_VOCABULARY, BPESpec
from niels_gpt.text.gguf_vocabulary import LETTERS
from niels_gpt.text.safe_pickle import EncodingState
from niels_gpt.text.split_patterns import pattern_fault
from niels_gpt.text.tokenizer import TokenizerError

LETTER_OF_BYTE = {byte: letter for letter, byte in BYTE_OF_LETTER.items()}
LONGEST_PIECE = 512


def nanochat_spec(pickled: Any) -> BPESpec:
    """Return the tokenizer of a pickled encoding.

    Raises:
        TokenizerError: the pickle is something else, or contradicts itself.

    """
    state = pickled.state if isinstance(pickled, EncodingState) else None
    match state:
        case {"pat_str": str(pattern), "mergeable_ranks": dict(ranks), "special_tokens": dict(special)}:
            pass
        case _:
            raise TokenizerError("the pickle is not a tiktoken encoding with its ranks")
    fault = pattern_fault(pattern)
    if fault:
        raise TokenizerError(fault)
    _check(ranks, special)
    pieces = [""] * (1 + max((*ranks.values(), *special.values())))
    for piece, rank in ranks.items():
        pieces[rank] = _letters(piece)
    for name, token_id in special.items():
        pieces[token_id] = name
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    by_rank = sorted(ranks, key=ranks.__getitem__)
    merges = [tuple(map(_letters, _halves(piece, ranks))) for piece in by_rank if len(piece) > 1]
    return BPESpec(
        pieces=pieces,
        merges=merges,
        alphabet="bytes",
        splitters=[split, LETTERS],
        special=sorted(special.values()),
        begin=[special["<|bos|>"]] if "<|bos|>" in special else [],
    )


def _check(ranks: Mapping[Any, Any], special: Mapping[Any, Any]) -> None:
    for kind, names in ((bytes, ranks), (str, special)):
        for name, number in names.items():
            good = isinstance(name, kind) and isinstance(number, int) and 0 <= number < LARGEST_VOCABULARY
            if not good or len(name) > LONGEST_PIECE:
                raise TokenizerError(f"the encoding has {name!r}: {number!r}, expected an id by its piece")


def _letters(piece: bytes) -> str:
    return "".join(LETTER_OF_BYTE[byte] for byte in piece)


def _halves(piece: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two pieces that are merged into one: what is left when all lower ranks are merged."""
    most, parts = ranks[piece], [bytes((byte,)) for byte in piece]
    while len(parts) > 2:
        found = [
            (rank, n)
            for n in range(len(parts) - 1)
            if (rank := ranks.get(parts[n] + parts[n + 1], most)) < most
        ]
        if not found:
            raise TokenizerError(f"the piece {piece!r} does not follow from pieces of lower rank")
        _, n = min(found)
        parts[n : n + 2] = [parts[n] + parts[n + 1]]
    return parts[0], parts[1]

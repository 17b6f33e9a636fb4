"""Byte-level BPE tokenizers of other projects, as published small models bring them along.

What such a tokenizer does to a text before its pieces (Unicode normalisation) or adds around them is taken
off: here the pieces of a text are exactly its bytes. Its control tokens exist as ids only.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer as HFTokenizer

from niels_gpt.text.bpe import BYTE_OF_LETTER
from niels_gpt.text.byte_pieces import PieceTokenizer
from niels_gpt.text.tokenizer import TokenizerError, utf8

KIND_KEY, KIND = "niels_gpt", "byte-level"
"""What tells the stored form from a tokenizer of our own."""


class ByteLevelTokenizer(PieceTokenizer):
    """A byte-level BPE with whatever control tokens it has. Make one with `adopt` or `from_json`."""

    def __init__(self, pipeline: HFTokenizer, *, end: str | None, json_text: str) -> None:
        self._json = json_text
        added = pipeline.get_added_tokens_decoder()
        self._control = {token.content: token_id for token_id, token in added.items() if token.special}
        if end is not None:
            self._control["eot"] = self._control.pop(end)
        plain = {token_id: utf8(token.content) for token_id, token in added.items() if not token.special}
        control_ids = set(self._control.values())
        vocab = pipeline.get_vocab(with_added_tokens=True)
        pieces = [
            b"" if token_id in control_ids else plain.get(token_id) or _bytes_of(piece)
            for piece, token_id in sorted(vocab.items(), key=lambda item: item[1])
        ]
        super().__init__(pipeline, pieces)

    @classmethod
    def from_json(cls, json_text: str) -> ByteLevelTokenizer:
        """Tokenizer from what `to_json` gave; for anything else a `TokenizerError` says what is wrong."""
        try:
            stored = json.loads(json_text)
            pipeline = HFTokenizer.from_str(json.dumps(stored["tokenizer"], ensure_ascii=False))
            end = stored.get("end")
        except Exception as error:  # the library raises nothing narrower
            msg = (
                f"not a stored tokenizer: {error}; expected the JSON that python -m niels_gpt.model.hf writes"
            )
            raise TokenizerError(msg) from error
        fault = _fault(json.loads(pipeline.to_str()), end)
        if fault:
            raise TokenizerError(f"not a tokenizer that can be used here: {fault}")
        return cls(pipeline, end=end, json_text=json_text)

    def special_token_ids(self) -> dict[str, int]:
        """Control ids by their text, the one that ends a text as "eot"."""
        return dict(self._control)

    def to_json(self) -> str:
        """Give the JSON that travels in a checkpoint."""
        return self._json

    def published_json(self) -> str:
        """Give the tokenizer.json that other programs read."""
        return json.dumps(json.loads(self._json)["tokenizer"], ensure_ascii=False)


def adopt(json_text: str, *, end: str | None) -> ByteLevelTokenizer:
    """Tokenizer from a published tokenizer.json; `end` is the control token that ends a text, if any.

    Raises `TokenizerError` for one that is no byte-level BPE.
    """
    try:
        stored = json.loads(json_text)
        parts = dict.fromkeys(("normalizer", "post_processor", "truncation", "padding"))
        content = {KIND_KEY: KIND, "end": end, "tokenizer": {**stored, **parts}}
    except (ValueError, TypeError) as error:
        raise TokenizerError(f"not a tokenizer: {error}; expected a tokenizer.json") from error
    return ByteLevelTokenizer.from_json(json.dumps(content, ensure_ascii=False))


def is_adopted(json_text: str) -> bool:
    """Whether a stored tokenizer is one of these."""
    return json_text.startswith(f'{{"{KIND_KEY}": "{KIND}"')


def _fault(stored: dict[str, Any], end: str | None) -> str | None:
    """Name what makes a tokenizer unusable here, or give None. `stored`: what the library writes."""
    model, added = stored["model"], stored["added_tokens"]
    if model["type"] != "BPE" or (stored["decoder"] or {}).get("type") != "ByteLevel":
        return f"it is a {model['type']} without byte-level pieces, expected a byte-level BPE"
    if any(token["lstrip"] or token["rstrip"] for token in added):
        return "an added token swallows the space beside it"
    special = {token["content"] for token in added if token["special"]}
    if end is not None and end not in special:
        return f"its end token {end!r} is none of its control tokens {sorted(special)!r}"
    pieces = model["vocab"].keys() - {token["content"] for token in added}
    ids = set(model["vocab"].values()) | {token["id"] for token in added}
    if ids != set(range(len(ids))):
        return f"its {len(ids)} ids do not run from 0 without gaps"
    missing = [byte for letter, byte in BYTE_OF_LETTER.items() if letter not in pieces]
    if missing:
        return f"it lacks {len(missing)} single bytes, the first is {missing[0]:#04x}"
    foreign = [piece for piece in pieces if not BYTE_OF_LETTER.keys() >= set(piece)]
    return f"its piece {foreign[0]!r} is not made of bytes" if foreign else None


def _bytes_of(piece: str) -> bytes:
    return bytes(BYTE_OF_LETTER[letter] for letter in piece)

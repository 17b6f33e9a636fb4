"""One id for each character of a small alphabet, as nanoGPT's `meta.pkl` lists them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from niels_gpt.text.tokenizer import TokenizerError, as_id_list, id_tensor, utf8

if TYPE_CHECKING:
    import torch

KIND_KEY, KIND = "niels_gpt", "characters"


class CharTokenizer:
    """Ids by character. A text with any other character is refused."""

    unused_ids: frozenset[int] = frozenset()

    def __init__(self, characters: Sequence[str]) -> None:
        """Take the characters by id; "" for an id that stands for nothing."""
        self._characters = list(characters)
        self._ids = {character: n for n, character in enumerate(self._characters) if character}
        self.unused_ids = frozenset(n for n, character in enumerate(self._characters) if not character)

    @classmethod
    def from_meta(cls, meta: Any, *, size: int) -> CharTokenizer:
        """Return the tokenizer of a `meta.pkl`'s content for a model of `size` ids; `TokenizerError`."""
        names = meta.get("itos") if isinstance(meta, dict) else None
        if not isinstance(names, dict) or not names:
            raise TokenizerError("the pickle has no dictionary 'itos' of characters by id")
        characters = [""] * size
        for token_id, character in names.items():
            if not isinstance(token_id, int) or not isinstance(character, str) or len(character) != 1:
                raise TokenizerError(
                    f"'itos' has {token_id!r}: {character!r}, expected a character by its id"
                )
            if not 0 <= token_id < size:
                raise TokenizerError(f"'itos' has the id {token_id!r}, expected 0 to {size - 1}")
            characters[token_id] = character
        return cls(characters)

    @classmethod
    def from_json(cls, json_text: str) -> CharTokenizer:
        """Return what `to_json` stored; `TokenizerError`."""
        try:
            characters = json.loads(json_text)["characters"]
        except (ValueError, KeyError, TypeError) as error:
            raise TokenizerError(f"not a stored tokenizer: {error}") from error
        if not isinstance(characters, list) or not all(isinstance(one, str) for one in characters):
            raise TokenizerError("not a stored tokenizer: 'characters' is not a list of texts")
        return cls(characters)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self._characters)

    def encode_ids(self, text: str) -> list[int]:
        """Ids of the characters; `TokenizerError` for one that the alphabet lacks."""
        utf8(text)
        for character in text:
            if character not in self._ids:
                raise TokenizerError(
                    f"the text holds {character!r}, none of the {len(self._ids)} characters of this model"
                )
        return [self._ids[character] for character in text]

    def encode(self, text: str) -> torch.LongTensor:
        """Give the same ids as an int64 tensor (n,) on the CPU."""
        return id_tensor(self.encode_ids(text))

    def decode(self, ids: Iterable[int] | torch.Tensor) -> str:
        """Text of the ids."""
        return b"".join(map(self.token_bytes, as_id_list(ids))).decode()

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 of the character."""
        if not 0 <= token_id < len(self._characters):
            raise TokenizerError(f"token id {token_id!r} is unknown; expected 0..{len(self._characters) - 1}")
        return self._characters[token_id].encode()

    def special_token_ids(self) -> dict[str, int]:
        """Characters have no room for control tokens."""
        return {}

    def to_json(self) -> str:
        """Return the JSON that a checkpoint stores."""
        return json.dumps({KIND_KEY: KIND, "characters": self._characters}, ensure_ascii=False)


def is_characters(json_text: str) -> bool:
    """Whether a stored tokenizer is one of these."""
    return json_text.startswith(f'{{"{KIND_KEY}": "{KIND}"')

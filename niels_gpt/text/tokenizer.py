"""Text to token ids and back: the contract that every tokenizer keeps, and the byte tokenizer.

One token is one byte of the text's UTF-8 here, so any text round-trips and no file is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from niels_gpt.errors import NielsGptError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer as HFTokenizer


class TokenizerError(NielsGptError):
    """Text, ids or a stored tokenizer that cannot be used; the message says what was expected."""


class Tokenizer(Protocol):
    """The contract of every tokenizer.

    Concatenating `token_bytes` over `encode_ids(text)` gives exactly the UTF-8 of `text`.
    """

    @property
    def vocab_size(self) -> int:
        """Number of ids; they run from 0 without gaps."""
        ...

    def encode_ids(self, text: str) -> list[int]:
        """Ids of ordinary pieces, never of a control token. Text that UTF-8 cannot hold: `TokenizerError`."""
        ...

    def encode(self, text: str) -> torch.LongTensor:
        """Give the same ids as an int64 tensor (n,) on the CPU."""
        ...

    def decode(self, ids: Iterable[int] | torch.Tensor) -> str:
        """Text of the ids, invalid UTF-8 as U+FFFD, control ids as nothing. Unknown id: `TokenizerError`."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Raw bytes of one piece; b"" for a control id. Unknown id: `TokenizerError`."""
        ...

    def special_token_ids(self) -> dict[str, int]:
        """Control ids by name, "sys", "usr", "asst" and "eot"; empty if the tokenizer has none."""
        ...

    def to_json(self) -> str | None:
        """Return the JSON of which `tokenizer_from_json` makes an equal tokenizer; None for bytes."""
        ...


def utf8(text: str) -> bytes:
    """UTF-8 of a text; a lone surrogate, which is not a character, raises `TokenizerError`."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"text holds {text[error.start : error.start + 1]!r} at position {error.start}, half of a "
            "surrogate pair; expected whole characters: read the text with errors='replace'"
        ) from error


def as_id_list(ids: Iterable[int] | torch.Tensor) -> list[int]:
    """Plain ints of a tensor of any shape, or of any iterable of ids."""
    flatten = getattr(ids, "flatten", None)
    return flatten().tolist() if flatten is not None else [int(i) for i in ids]


def id_tensor(ids: Sequence[int] | np.ndarray) -> torch.LongTensor:
    """Return ids as an int64 tensor (n,) on the CPU."""
    import torch  # noqa: PLC0415 - heavy, and only training and the documented functions need it

    values = np.array(ids, np.int64)
    return torch.from_numpy(values)  # pyright: ignore[reportReturnType]  # int64 on the CPU is a LongTensor


def encode(text: str) -> torch.LongTensor:
    """UTF-8 bytes of a text as int64 ids (n,) in 0..255 on the CPU."""
    return id_tensor(np.frombuffer(utf8(text), dtype=np.uint8))


def decode(ids: Iterable[int] | torch.Tensor) -> str:
    """Return the text of byte ids (n,); invalid UTF-8 becomes U+FFFD.

    Raises:
        TokenizerError: A ValueError. An id is outside 0..255, or a tensor has another number of dimensions.

    """
    shape = tuple(getattr(ids, "shape", (0,)))
    if len(shape) != 1:
        raise TokenizerError(f"ids have the shape {shape}, expected (n,)")
    values = as_id_list(ids)
    try:
        return bytes(values).decode("utf-8", errors="replace")
    except ValueError as error:
        bad = next(value for value in values if not 0 <= value < 256)
        raise TokenizerError(f"token id {bad!r} is not a byte; expected 0..255") from error


class ByteTokenizer:
    """One id a byte: 256 ids, no control tokens, nothing to store."""

    @property
    def vocab_size(self) -> int:
        """256."""
        return 256

    def encode_ids(self, text: str) -> list[int]:
        """UTF-8 bytes of the text."""
        return list(utf8(text))

    def encode(self, text: str) -> torch.LongTensor:
        """Give the same ids as an int64 tensor (n,) on the CPU."""
        return encode(text)

    def decode(self, ids: Iterable[int] | torch.Tensor) -> str:
        """Text of the bytes; invalid UTF-8 becomes U+FFFD."""
        return decode(ids)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the byte itself."""
        if not 0 <= token_id < 256:
            raise TokenizerError(f"token id {token_id!r} is not a byte; expected 0..255")
        return bytes((token_id,))

    def special_token_ids(self) -> dict[str, int]:
        """Bytes have no room for control tokens."""
        return {}

    def to_json(self) -> str | None:
        """Return None: a byte tokenizer needs no file."""
        return None


class PieceTokenizer:
    """Base of the byte-level tokenizers; `pieces[id]` are the bytes of a token, b"" for a control token."""

    def __init__(self, pipeline: HFTokenizer, pieces: Sequence[bytes]) -> None:
        self._pipeline = pipeline
        # The library matches control tokens inside texts unless told not to, and does not store the setting.
        self._pipeline.encode_special_tokens = True
        self._pieces = pieces

    @property
    def vocab_size(self) -> int:
        """Number of ids, the control tokens among them."""
        return len(self._pieces)

    def encode_ids(self, text: str) -> list[int]:
        """Ids of ordinary pieces; a text that spells a control token is cut into pieces like any other."""
        utf8(text)  # refuses half surrogates with a message; the library's own speaks of its argument types
        return self._pipeline.encode(text, add_special_tokens=False).ids

    def encode(self, text: str) -> torch.LongTensor:
        """Give the same ids as an int64 tensor (n,) on the CPU."""
        return id_tensor(self.encode_ids(text))

    def decode(self, ids: Iterable[int] | torch.Tensor) -> str:
        """Text of the ids; invalid UTF-8 becomes U+FFFD, control ids nothing."""
        return b"".join(map(self.token_bytes, as_id_list(ids))).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Raw bytes of one piece; b"" for a control id."""
        if not 0 <= token_id < len(self._pieces):
            raise TokenizerError(f"token id {token_id!r} is unknown; expected 0..{len(self._pieces) - 1}")
        return self._pieces[token_id]


class IdTokenizer:
    """A vocabulary of which only the size is known: ids in, ids out."""

    def __init__(self, size: int) -> None:
        """Take the number of ids."""
        self._size = size

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._size

    def encode_ids(self, text: str) -> list[int]:
        """Return nothing for an empty text; `TokenizerError` for any other."""
        if text:
            raise TokenizerError(
                f"the checkpoint carries no tokenizer, but its model has V={self._size}: give token ids, "
                "or save it again with the tokenizer that it was trained on"
            )
        return []

    def encode(self, text: str) -> torch.LongTensor:
        """Give the same as an int64 tensor."""
        return id_tensor(self.encode_ids(text))

    def decode(self, ids: Iterable[int] | torch.Tensor) -> str:
        """Return the ids themselves, as numbers with blanks between them."""
        return " ".join(map(str, as_id_list(ids)))

    def token_bytes(self, token_id: int) -> bytes:
        """Return the id as a number and a blank."""
        if not 0 <= token_id < self._size:
            raise TokenizerError(f"token id {token_id!r} is unknown; expected 0..{self._size - 1}")
        return b"%d " % token_id

    def special_token_ids(self) -> dict[str, int]:
        """Nothing is known of control tokens."""
        return {}

    def to_json(self) -> str | None:
        """Nothing can be stored."""
        return None

"""Text to ids and back over pieces of bytes, the base of every byte-level tokenizer here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tokenizers import Tokenizer as HFTokenizer

from niels_gpt.text.tokenizer import TokenizerError, as_id_list, id_tensor, utf8

if TYPE_CHECKING:
    import torch


class PieceTokenizer:
    """`pieces[id]` are the bytes of a token, b"" for a control token."""

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

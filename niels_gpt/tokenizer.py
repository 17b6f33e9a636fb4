"""Import path that users of the original project call; the code is in `niels_gpt.text.tokenizer`."""

from niels_gpt.text.tokenizer import (
    decode,
    encode,
)

__all__ = [
    "decode",
    "encode",
]

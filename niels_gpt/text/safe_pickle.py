"""Read plain values out of a pickle file without running anything in it.

Dictionaries, lists, numbers and texts come through; of classes only `tiktoken.Encoding`, as a record of its
state. A pickle that names anything else is refused.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from niels_gpt.text.tokenizer import TokenizerError

LARGEST = 256 * 2**20
ENCODINGS = (("tiktoken.core", "Encoding"), ("tiktoken", "Encoding"))


class EncodingState:
    """The state of a pickled `tiktoken.Encoding`."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        """Keep the state as it is."""
        self.state = state


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return the one class that is known; refuse every other name."""
        if (module_name, global_name) in ENCODINGS:
            return EncodingState
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"it refers to an object outside itself ({pid!r})")


def read_pickle(path: Path) -> Any:
    """Return the value in a file.

    Raises:
        TokenizerError: it cannot be read, or holds more than plain values.

    """
    try:
        size = path.stat().st_size
        raw = path.read_bytes() if size <= LARGEST else b""
    except OSError as error:
        raise TokenizerError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    if size > LARGEST:
        raise TokenizerError(f"the pickle has {size} bytes, expected at most {LARGEST}")
    try:
        return _PlainUnpickler(io.BytesIO(raw)).load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise TokenizerError(f"not a pickle of plain values: {' '.join(str(error).split())[:200]}") from error

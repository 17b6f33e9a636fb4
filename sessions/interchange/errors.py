"""What goes wrong between files and sessions: a file is refused, or a session cannot be written."""

from __future__ import annotations

from collections.abc import Sized

from sessions.errors import StoreError

_SHOWN = 60  # characters of an offending value that an error quotes


class ImportRefused(StoreError, ValueError):  # noqa: N818 - named for what happened, as in sessions.errors
    """A file holds something that cannot be taken; ``where`` names file and line, ``field`` what in it."""

    def __init__(self, where: str, field: str, what: str) -> None:
        place = f"{where}, {field}" if field else where
        super().__init__(f"{place}: {what}; nothing was imported")
        self.where = where
        self.field = field


class ExportRefused(StoreError, ValueError):  # noqa: N818
    """A session cannot be written in the format that was asked for."""


def quoted(value: object) -> str:
    """Return a value as an error shows it, shortened if it is long."""
    # The repr of a long text or list would be made whole only to be cut.
    if isinstance(value, Sized) and len(value) > _SHOWN:
        return f"{type(value).__name__} of length {len(value)}"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"

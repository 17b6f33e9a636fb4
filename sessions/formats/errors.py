"""Errors of imports and exports: a file is refused, or a session cannot be written."""

from __future__ import annotations

from collections.abc import Sized

from sessions.errors import StoreError

_SHOWN = 60  # characters of an offending value that an error quotes
_TOLD = 400  # characters of a field's name, and of what is wrong with it


class ImportRefused(StoreError, ValueError):  # noqa: N818 - named for what happened, as in sessions.errors
    """A file has something that cannot be imported.

    Attributes:
        where: The file and the line or element.
        field: The field in that, "" for all of it.
        place: Both.
        what: What is wrong there.

    """

    def __init__(self, where: str, field: str, what: str) -> None:
        # Names of fields, and what a library says about a file, can hold anything that the file holds.
        self.place = " ".join((f"{where}, {_short(field, _TOLD)}" if field else where).split())
        self.what = " ".join(_short(what, _TOLD).split())
        super().__init__(f"{self.place}: {self.what}; nothing was imported")
        self.where = where
        self.field = field


class ExportRefused(StoreError, ValueError):  # noqa: N818
    """A session cannot be written in the format that was asked for."""


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def quoted(value: object) -> str:
    """Return a value as an error shows it, shortened if it is long."""
    # The repr of a long text or list would be made whole only to be cut.
    if isinstance(value, str | bytes):
        return repr(value[:_SHOWN]) + ("…" if len(value) > _SHOWN else "")
    if isinstance(value, Sized) and len(value) > _SHOWN:
        return f"{type(value).__name__} of length {len(value)}"
    return _short(repr(value), _SHOWN)

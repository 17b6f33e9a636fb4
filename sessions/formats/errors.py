"""Define the errors of imports and exports."""

from __future__ import annotations

from collections.abc import Sized

from sessions.errors import StoreError

_SHOWN = 60  # characters of an offending value that an error quotes
_TOLD = 400  # characters of a field's name, and of the reason


class ImportRefused(StoreError, ValueError):  # noqa: N818 - named for what happened, as in sessions.errors
    """A file contains something that cannot be imported.

    Attributes:
        where: The file and the line or element.
        field: The field in that place, "" for the whole record.
        place: Both.
        what: The reason.

    """

    def __init__(self, where: str, field: str, what: str) -> None:
        # Field names and a library's message about a file can contain any of the file's characters.
        self.place = " ".join((f"{where}, {_short(field, _TOLD)}" if field else where).split())
        self.what = " ".join(_short(what, _TOLD).split())
        super().__init__(f"{self.place}: {self.what}; nothing was imported")
        self.where = where
        self.field = field


class ExportRefused(StoreError, ValueError):  # noqa: N818
    """A session cannot be written in the requested format."""


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def quoted(value: object) -> str:
    """Return a value formatted for an error message, shortened if it is long."""
    # Cut first: the repr of a long text or list would be built in full only to be cut.
    if isinstance(value, str | bytes):
        return repr(value[:_SHOWN]) + ("…" if len(value) > _SHOWN else "")
    if isinstance(value, Sized) and len(value) > _SHOWN:
        return f"{type(value).__name__} of length {len(value)}"
    return _short(repr(value), _SHOWN)

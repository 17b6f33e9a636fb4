"""Complete session names, for a shell or the chat, while the user types.

Nothing here is an error: where the store cannot be read there are no names.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from urllib.parse import quote

from niels_gpt.errors import NielsGptError
from niels_gpt.paths import user_path
from sessions.place import default_path, is_url

_WAIT_SECONDS = 0.5  # for a store that is locked; who types waits no longer
_NAMES = (
    "SELECT name FROM session WHERE NOT archived AND substr(name, 1, ?) = ? "
    "ORDER BY last_used DESC, id DESC LIMIT ?"
)


def names(prefix: str = "", *, store: str | None = None, limit: int = 50) -> list[str]:
    """Return the names that begin with `prefix`, last used first.

    A file is read with SQLite itself: loading the store would take ten times as long as the query.

    Args:
        prefix: The beginning of the names.
        store: A path or URL; None for the user's own store. A store that is not there is not created.
        limit: The most names.

    Returns:
        The names; none where the store cannot be read.

    """
    place = str(default_path()) if store is None else store
    if is_url(place):
        return _names_of_url(place, prefix, limit)
    with suppress(sqlite3.Error, OSError, NielsGptError, UnicodeError):
        path = quote(str(user_path(place).resolve()))
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=_WAIT_SECONDS)) as database:
            found = database.execute(_NAMES, (len(prefix), prefix, limit)).fetchall()
            return [name for (name,) in found if isinstance(name, str)]
    return []


def _names_of_url(url: str, prefix: str, limit: int) -> list[str]:
    from sessions import StoreError, open_store  # noqa: PLC0415 - heavy

    try:
        with open_store(url, missing="refuse") as opened:
            return opened.names(prefix, limit)
    except StoreError:
        return []

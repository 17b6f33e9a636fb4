"""Find the place of the store, and show it without its password. Imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import platformdirs

from sessions.errors import StoreUnavailable

# A password ends at the last @ of the host's part. One with an unescaped slash leaves no such @; then it ends
# at the last of all.
_PASSWORD = re.compile(r"(?P<before>://[^:/@?#]*:)(?:[^/?#]*|.*)(?=@)", re.DOTALL)


def default_path() -> Path:
    """Return the path of a user's own store (on Linux below XDG_DATA_HOME)."""
    return platformdirs.user_data_path("niels-gpt", appauthor=False) / "sessions.db"


def expanded(path: str | Path) -> Path:
    """Return a path with `~` and `~NAME` expanded. Raises StoreUnavailable without such a home directory."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise StoreUnavailable(
            f"{str(path)!r}: no home directory is known for {Path(path).parts[0]!r}"
        ) from error


def is_url(place: str) -> bool:
    """Return whether a place is a URL and not a path."""
    return "://" in place


def path_of_url(url: str) -> Path | None:
    """Return the path that a URL of a SQLite file names; None for another URL."""
    scheme, _, rest = url.partition("://")
    path = unquote(rest.partition("?")[0].removeprefix("/"))
    return Path(path) if scheme.partition("+")[0] == "sqlite" and path else None


def without_password(place: str) -> str:
    """Return a path or URL with the password of the URL, if any, as ``***``, in its query too."""
    if not is_url(place):
        return place
    shown = _PASSWORD.sub(r"\g<before>***", place)
    return re.sub(r"(?i)(?<=[?&])(password|passwd|pwd)=[^&#]*", r"\1=***", shown)

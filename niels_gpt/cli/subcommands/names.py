"""Names of sessions for completion: a shell, or the chat, asks while the user types.

So nothing here is an error: where the store cannot be read there are no names.
"""

from __future__ import annotations

from pathlib import Path


def names(prefix: str = "", *, store: str | None = None, limit: int = 50) -> list[str]:
    """Return the names that begin with `prefix`, last used first; [] where the store does not open.

    `store` is a path or URL, None for the user's own. A store that is not there is not made.
    """
    # Heavy; who only imports this module to complete flags must not wait for it.
    from sessions import StoreError, open_store  # noqa: PLC0415
    from sessions.place import default_path  # noqa: PLC0415

    place = store if store is not None else str(default_path())
    try:
        if "://" not in place and not Path(place).expanduser().exists():
            return []
        with open_store(place) as opened:
            return opened.names(prefix, limit)
    except (StoreError, OSError):
        return []

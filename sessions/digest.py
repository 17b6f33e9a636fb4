"""The digest of a message, chained over its parent, so that one line stands for a whole conversation.

The digest is the hex SHA-256 of these fields, in this order, each as its length in bytes (8 bytes, big
endian) followed by its bytes, so that no two different messages give the same stream:

1. the scheme's name, ``niels-gpt message 1``; 2. the parent's digest (32 raw bytes; empty for a root);
3. role; 4. status; 5. content (all three in UTF-8); 6. the token ids: empty if there are none recorded, else
one byte 1 and each id as 8 bytes, big endian. A recorded empty reply thus differs from an unrecorded one.

Ids, names and times stay outside: two people who hold the same conversation hold the same digest. Knows
nothing about the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_SCHEME = b"niels-gpt message 1"


def message_digest(
    *, parent: str | None, role: str, content: str, status: str, token_ids: Sequence[int] | None
) -> str:
    """Return the digest (64 hex digits) of a message below the message whose digest is ``parent``."""
    ids = b"" if token_ids is None else b"\x01" + b"".join(each.to_bytes(8, "big") for each in token_ids)
    parent_bytes = b"" if parent is None else bytes.fromhex(parent)
    fields = (_SCHEME, parent_bytes, role.encode(), status.encode(), content.encode(), ids)
    chain = hashlib.sha256()
    for field in fields:
        chain.update(len(field).to_bytes(8, "big"))
        chain.update(field)
    return chain.hexdigest()

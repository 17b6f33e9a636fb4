"""Detect network mounts, where a file's locks and syncs depend on another machine.

Reads Linux's table of mounts; on other systems nothing is known.
"""

from __future__ import annotations

import re
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_NETWORK = re.compile(
    r"(nfs\d*|cifs|smb\d*|smbfs|9p|afs|ceph|glusterfs|lustre|beegfs|ncpfs|davfs|fuse\.(sshfs|rclone|davfs2?|"
    r"glusterfs|ceph.*|s3fs|gcsfuse|smb.*|nfs.*|juicefs|goofys))"
)


def network_filesystem(path: Path, table: str | None = None) -> str | None:
    """Return the type of the network mount that ``path`` lies on; None if there is none, or none is known.

    ``table`` replaces the contents of ``/proc/self/mountinfo``.
    """
    if table is None:
        try:
            table = _TABLE.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None
    found, kind = Path(), ""
    for line in table.splitlines():
        fields, _, rest = line.partition(" - ")
        # Blanks and backslashes in a path are written in octal there.
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields.split(" ")[4]))
        # A later mount on the same place lies over the earlier one.
        if path.is_relative_to(point) and len(point.parts) >= len(found.parts):
            found, kind = point, rest.split(" ")[0]
    return kind if _NETWORK.fullmatch(kind) else None

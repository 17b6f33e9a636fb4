"""A PostgreSQL server of our own: started in a folder that is thrown away, reached by a socket in it alone.

Nothing in it needs to last, so it syncs nothing. The server refuses to run as root; there it runs as nobody.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

MEMORY = Path("/dev/shm")  # noqa: S108 - a RAM disk, where the system has one
OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "listen_addresses": "",
    "shared_buffers": "16MB",
    "max_connections": "30",
}


def programs() -> Path | None:
    """Return the folder with ``initdb`` and ``pg_ctl``, newest version first; None where there is none."""
    on_path = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: int(each.parts[-3]))
    found = [Path(on_path)] if on_path else debian[::-1]
    return found[0].parent if found else None


class Server:
    """A running server, and fresh databases in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://store@/{database}?host={self._folder}"

    def execute(self, statement: str, *, database: str = "postgres") -> list[tuple[object, ...]]:
        import psycopg  # noqa: PLC0415 - optional

        with psycopg.connect(
            host=str(self._folder), user="store", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """Yield the name of a new database, a copy of ``template``."""
        name = f"d{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running(folder_of_programs: Path) -> Iterator[Server]:
    """Start a server, and stop it at the end."""
    base = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="pg", dir=base, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        user = None
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            os.chown(folder, user.pw_uid, user.pw_gid)

        def run(program: str, *arguments: str) -> None:
            done = subprocess.run(
                [str(folder_of_programs / program), "-D", str(folder / "data"), *arguments],
                user=None if user is None else user.pw_uid,
                group=None if user is None else user.pw_gid,
                extra_groups=None if user is None else [],
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # inherited by the server: a pipe would never end
                stderr=subprocess.DEVNULL,
                timeout=50,
                check=False,
            )
            if done.returncode:
                log = folder / "log"
                raise RuntimeError(f"{program} failed: {log.read_text() if log.exists() else 'no log'}")

        run("initdb", "-U", "store", "-A", "trust", "-N", "-E", "UTF8", "--locale=C.UTF-8")
        options = " ".join(f"-c {name}='{value}'" for name, value in OPTIONS.items())
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-k {folder} {options}", "start")
        try:
            yield Server(folder)
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")

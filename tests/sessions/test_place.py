"""Where a store lies: its path, its URL, and what is shown of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sessions.place import path_of_url, without_password


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("postgresql+psycopg://me:secret@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("postgresql://me:se@cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:se/cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://:secret@host/db", "postgresql://:***@host/db"),
        ("postgresql://me@host/db?password=secret&x=1", "postgresql://me@host/db?password=***&x=1"),
        ("postgresql://me@host:5432/db", "postgresql://me@host:5432/db"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
        ("sqlite:////home/me:x/sessions.db", "sqlite:////home/me:x/sessions.db"),
        ("/home/me:secret@x/sessions.db", "/home/me:secret@x/sessions.db"),
    ],
)
def test_a_url_is_shown_without_its_password(place, shown):
    assert without_password(place) == shown


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////a/b%20c.db?timeout=1", Path("/a/b c.db")),
        ("sqlite+pysqlite:///c.db", Path("c.db")),
        ("sqlite://", None),
        ("postgresql://host/db", None),
    ],
)
def test_the_url_of_a_file_names_its_path(url, path):
    assert path_of_url(url) == path


def test_the_place_and_the_errors_are_imported_without_the_store():
    program = "import sys, sessions, sessions.place; print({'sqlalchemy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "set()\n"

"""The schema's history: it arrives where the tables say, keeps a backup, and refuses the future."""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Integer, MetaData, create_engine

from sessions import NotAStore, SchemaTooNew, Store, StoreDamaged, open_store
from sessions.database import open_database
from sessions.migrations import SHIPPED, VERSION_TABLE, MigrationChain, snapshot
from sessions.tables import schema

NEXT_STEP = """
import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade():
    op.add_column("session", sa.Column("note", sa.Text))
    {then}
"""


@pytest.fixture
def place(sqlite_place):
    return sqlite_place


@pytest.fixture
def longer_chain(tmp_path):
    """The shipped chain and one step more, which ends in the given statement."""

    def make(then: str = "") -> MigrationChain:
        folder = tmp_path / "100% longer"
        shutil.copytree(SHIPPED.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "versions" / "rev_0004_note.py").write_text(NEXT_STEP.format(then=then))
        return MigrationChain(folder, (*SHIPPED.revisions, "0004"))

    return make


def layout(path: Path) -> set[tuple[str, str]]:
    """Every statement that the database was made with, apart from the version table."""
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {
        (name, re.sub(r"\s*([(),])\s*", r"\1", " ".join(sql.split()))) for name, sql in rows if is_ours(name)
    }


def is_ours(name: str) -> bool:
    """Leave out what Alembic keeps, and what makes messages searchable: no row of ours is in either."""
    return name != VERSION_TABLE and not name.startswith(
        ("message_words", "message_trigrams", "message_plain")
    )


def layout_of(metadata: MetaData, path: Path) -> set[tuple[str, str]]:
    engine = create_engine(f"sqlite:///{path}")
    metadata.create_all(engine)
    engine.dispose()
    return layout(path)


def test_the_migrations_arrive_exactly_at_the_tables(store, store_path, tmp_path):
    assert layout(store_path) == layout_of(schema, tmp_path / "tables.db")
    with store._database.reading() as transaction:
        options = {
            "version_table": VERSION_TABLE,
            "include_object": lambda _object, name, *_others: is_ours(name),
        }
        context = MigrationContext.configure(transaction.connection(), opts=options)
        assert compare_metadata(context, schema) == []


def test_a_column_that_no_migration_makes_is_noticed(store_path, store, tmp_path):
    changed = MetaData()
    for table in schema.tables.values():
        table.to_metadata(changed)
    changed.tables["session"].append_column(Column("forgotten", Integer))
    assert layout(store_path) != layout_of(changed, tmp_path / "changed.db")


def test_the_known_revisions_are_those_in_the_folder():
    config = Config()
    config.set_main_option("script_location", str(SHIPPED.folder))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    assert [each.revision for each in reversed(list(script.walk_revisions()))] == list(SHIPPED.revisions)


def schema_of(path: Path) -> list[tuple[str, ...]]:
    """Every table, index and trigger, SQLite's own too, and the revision."""
    every = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid"
    with closing(sqlite3.connect(path)) as database:
        revisions = database.execute("SELECT version_num FROM niels_gpt_schema")
        return [*database.execute(every), *revisions]


def test_a_new_store_is_what_all_migrations_make(tmp_path, monkeypatch):
    open_store(tmp_path / "script.db").close()
    monkeypatch.setattr("sessions.database.create_newest", lambda *_: False)
    open_store(tmp_path / "migrated.db").close()
    assert schema_of(tmp_path / "script.db") == schema_of(tmp_path / "migrated.db")


def test_the_stored_script_is_the_one_that_its_command_writes():
    again = "after a migration was added: python -m sessions.migrations.snapshot"
    assert snapshot.SNAPSHOT.read_text(encoding="utf-8") == snapshot.script_of(SHIPPED), again


def test_a_script_of_another_revision_is_not_used(tmp_path, longer_chain):
    with Store(open_database(tmp_path / "new.db", longer_chain())) as made:
        assert made.sessions() == []
    assert "note TEXT" in dict(layout(tmp_path / "new.db"))["session"]


def test_an_older_store_is_migrated_and_a_private_backup_kept(store, store_path, session, longer_chain):
    store.close()
    before = layout(store_path)
    chain = longer_chain()
    with Store(open_database(store_path, chain)) as migrated:
        assert migrated.session("talk") == session
    assert "note TEXT" in dict(layout(store_path))["session"]
    (backup,) = store_path.parent.glob("*.backup")
    assert backup.name.startswith("sessions.db.schema-0003-")
    assert backup.stat().st_mode & 0o777 == 0o600
    assert layout(backup) == before
    with open_store(backup) as old:
        assert old.session("talk") == session

    Store(open_database(store_path, chain)).close()
    assert list(store_path.parent.glob("*.backup")) == [backup]


def test_a_migration_that_fails_half_way_changes_nothing(store, store_path, session, longer_chain):
    store.close()
    before = layout(store_path)
    with pytest.raises(ZeroDivisionError):
        open_database(store_path, longer_chain(then="1 / 0"))
    assert layout(store_path) == before
    with open_store(store_path) as again:
        assert again.session("talk") == session


KILLED = """
    op.execute("PRAGMA cache_size = 1")
    op.execute("CREATE TABLE half AS SELECT randomblob(9000) FROM sqlite_master, sqlite_master AS twice")
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""
OPEN_LONGER = """
import sys, pathlib
from sessions.database import open_database
from sessions.migrations import MigrationChain
open_database(sys.argv[1], MigrationChain(pathlib.Path(sys.argv[2]), tuple(sys.argv[3:])))
"""


def test_a_migration_that_is_killed_leaves_the_store_as_it_was(store, store_path, session, longer_chain):
    store.close()
    before = layout(store_path)
    chain = longer_chain(then=KILLED)
    child = subprocess.run(
        [sys.executable, "-c", OPEN_LONGER, str(store_path), str(chain.folder), *chain.revisions],
        cwd=Path(__file__).parents[2],
        timeout=40,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    assert Path(f"{store_path}-journal").stat().st_size > 0
    with open_store(store_path) as again:
        assert again.session("talk") == session
        assert again.check() == []
    assert layout(store_path) == before


def test_a_newer_schema_is_refused_and_the_file_stays_as_it_was(store_path, longer_chain):
    open_database(store_path, longer_chain()).close()
    before = store_path.read_bytes()
    with pytest.raises(SchemaTooNew, match="upgrade niels-gpt, or give another store") as caught:
        open_store(store_path)
    assert (caught.value.found, caught.value.known) == ("0004", "0003")
    assert store_path.read_bytes() == before


@pytest.mark.parametrize(
    "damage", ["DELETE FROM niels_gpt_schema", "INSERT INTO niels_gpt_schema VALUES ('0000')"]
)
def test_a_store_that_does_not_know_its_revision_is_refused(store, store_path, damage):
    store.close()
    with closing(sqlite3.connect(store_path)) as database, database:
        database.execute(damage)
    with pytest.raises(StoreDamaged, match="schema revisions, expected 1"):
        open_store(store_path)


def test_a_store_without_its_version_table_is_not_migrated_again(store, store_path):
    store.close()
    with closing(sqlite3.connect(store_path)) as database:
        database.execute(f"DROP TABLE {VERSION_TABLE}")
    with pytest.raises(NotAStore):
        open_store(store_path)


def test_an_sqlite_database_without_tables_becomes_a_store(tmp_path):
    path = tmp_path / "bare.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("VACUUM")
        database.execute("PRAGMA user_version = 1")
    with open_store(path) as store:
        assert store.sessions() == []


@pytest.mark.parametrize("state", ["new", "up to date"])
def test_a_store_is_opened_without_importing_alembic(state, place):
    if state == "new":
        place.unlink()
    program = (
        "import sys, sessions; sessions.open_store(sys.argv[1]).sessions(); print('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(place)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "False\n"

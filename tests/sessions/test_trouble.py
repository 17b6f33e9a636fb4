"""Trouble with the file, its folder, its disk and its process: each has one answer, and nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from sessions import (
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    network_fs,
    open_store,
    recover_store,
    recovery,
    sqlite_file,
)
from sessions.postgresql_connection import meaning_of
from sessions.sqlite_connection import Journal, journal_for
from sessions.tables import MessageRow

NOBODY = 65534


@pytest.fixture
def place(sqlite_place):
    return sqlite_place


def contents(store, name="talk"):
    return [message.content for message in store.path(store.session(name).id)]


@contextmanager
def as_an_ordinary_user():
    """Root may write everywhere; a test of what may not be written is run by somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def reachable_folder():
    """A folder that every user can reach, which a test's own is not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


def test_a_new_store_in_a_folder_that_permits_no_writing_is_refused_with_the_reason(reachable_folder):
    reachable_folder.chmod(0o555)
    with as_an_ordinary_user(), pytest.raises(StoreReadOnly, match="permit access to it"):
        open_store(reachable_folder / "sessions.db")
    assert list(reachable_folder.iterdir()) == []


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_store_that_permits_no_writing_is_read_and_refuses_to_be_written(
    reachable_folder, fresh_file, what
):
    path = reachable_folder / "sessions.db"
    path.write_bytes(fresh_file)
    with open_store(path) as store:
        store.create_session("talk", seed=1, system="be brief", settings={})
    path.chmod(0o666 if what == "folder" else 0o444)
    reachable_folder.chmod(0o555 if what == "folder" else 0o777)
    with as_an_ordinary_user(), open_store(path) as store:
        assert contents(store) == ["be brief"]
        with pytest.raises(StoreReadOnly, match="permit writing"):
            store.create_session("more", seed=1, system=None, settings={})
        assert contents(store) == ["be brief"]


def no_links(_source, _target):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_new_store_appears_where_the_file_system_has_no_hard_links(tmp_path, fresh_file):
    (tmp_path / "new").write_bytes(fresh_file)
    sqlite_file.publish(tmp_path / "new", tmp_path / "sessions.db", link=no_links)
    with open_store(tmp_path / "sessions.db") as store:
        assert store.sessions() == []


def test_a_new_store_never_takes_the_place_of_one_that_was_faster(tmp_path):
    (tmp_path / "sessions.db").write_text("first")
    (tmp_path / "new").write_text("second")
    for link in (no_links, os.link):
        sqlite_file.publish(tmp_path / "new", tmp_path / "sessions.db", link=link)
        assert (tmp_path / "sessions.db").read_text() == "first"


MOUNTS = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /home rw shared:1 - nfs4 server:/home rw,vers=4.2
31 22 0:41 / /mnt/two\040words rw - cifs //server/share rw
32 30 0:42 / /home/me/local rw - btrfs /dev/vdb rw
33 22 0:43 / /remote rw - fuse.sshfs me@host: rw
34 22 0:44 / /pass rw - fuse.portal portal rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/sessions.db", None),
        ("/home/me/sessions.db", "nfs4"),
        ("/home/me/local/sessions.db", None),
        ("/homes/sessions.db", None),
        ("/mnt/two words/sessions.db", "cifs"),
        ("/remote/sessions.db", "fuse.sshfs"),
        ("/pass/sessions.db", None),
    ],
)
def test_a_network_mount_is_told_by_the_table_of_mounts(path, kind):
    assert network_fs.network_filesystem(Path(path), MOUNTS) == kind


def test_on_a_network_mount_no_version_of_sqlite_shares_memory_between_machines():
    assert journal_for((3, 52, 0), network=True) == Journal("delete", "EXTRA")


def test_a_store_on_a_local_disk_needs_no_caution(store):
    assert store.caution is None


def in_a_fork(work):
    """Return what ``work`` says, run in a forked child that ends without cleaning up after its parent."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = work()
        except BaseException as error:  # noqa: BLE001 - told to the parent
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()


@pytest.mark.parametrize(
    ("sqlstate", "is_cut", "kind", "text"),
    [
        ("53100", False, StoreFull, "has no room left"),
        ("53200", True, StoreUnavailable, "cannot be used, its server is short"),
        (None, True, StoreUnavailable, "cannot be reached: check the server"),
        (None, False, StoreUnavailable, "cannot be used"),
    ],
)
def test_what_a_server_says_becomes_an_error_of_the_store(sqlstate, is_cut, kind, text):
    said = sqlite3.Error("no\nluck")
    said.sqlstate = sqlstate
    found = meaning_of(DBAPIError("SELECT 1", None, said, connection_invalidated=is_cut), "there")
    assert type(found) is kind
    assert f"the session store there {text}" in str(found)
    assert "(the server says: no luck)" in str(found)


def test_a_forked_child_is_refused_its_parents_store_and_may_open_it_again(store, session, store_path):
    def use_then_open():
        with pytest.raises(StoreClosed, match="before a fork of this process: open it again"):
            store.sessions()
        store.close()
        with open_store(store_path) as own:
            own.create_session("from the child", seed=1, system=None, settings={})
        return "done"

    assert in_a_fork(use_then_open) == "done"
    assert {each.name for each in store.sessions()} == {"talk", "from the child"}
    store.update_settings(session.id, seed=3)
    assert store.check() == []


def damaged_in_the_middle(path):
    """Overwrite one page of messages with noise."""
    with closing(sqlite3.connect(path)) as database:
        size = database.execute("PRAGMA page_size").fetchone()[0]
        root = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'message'").fetchone()[0]
    raw = bytearray(path.read_bytes())
    raw[(root - 1) * size : root * size] = b"\x5a" * size
    path.write_bytes(raw)
    return bytes(raw)


def test_damage_within_is_reported_by_a_check_and_by_whoever_reads_it(store, session, store_path):
    store.close()
    damaged_in_the_middle(store_path)
    with open_store(store_path) as opened:
        assert any("damaged" in line or "the file" in line for line in opened.check())
        with pytest.raises(StoreDamaged, match="recover what can be read"):
            opened.path(session.id)


LAST_PAGE = (
    "SELECT pageno FROM dbstat WHERE name = 'message' AND pagetype = 'leaf' ORDER BY path DESC LIMIT 1"
)


def last_page_of_messages(path):
    with closing(sqlite3.connect(path)) as database:
        if ("ENABLE_DBSTAT_VTAB",) not in database.execute("PRAGMA compile_options"):
            pytest.skip("this SQLite tells nothing about its pages")
        return database.execute(LAST_PAGE).fetchone()[0]


def test_what_can_be_read_of_a_damaged_store_is_saved_and_the_file_kept(store, session, exchange, store_path):
    exchange(store, session, "hi", "hello")
    for number in range(4):
        exchange(store, session, f"number {number} " * 300, f"reply {number} " * 300)
    store.close()
    whole = store_path.read_bytes()
    page = last_page_of_messages(store_path)
    raw = bytearray(whole)
    raw[(page - 1) * 4096 : page * 4096] = b"\x5a" * 4096
    store_path.write_bytes(raw)

    saved = recover_store(store_path)

    assert saved.kept.read_bytes() == bytes(raw)
    with open_store(store_path) as recovered:
        assert recovered.check() == []
        assert contents(recovered)[:3] == ["be brief", "hi", "hello"]
        assert saved.messages == len(contents(recovered)) < 11
    assert store_path.stat().st_mode & 0o777 == 0o600


def test_a_whole_store_is_recovered_whole(store, session, exchange, store_path):
    exchange(store, session, "hi \0", "hello")
    before = store.export_session(session.id)
    store.close()
    saved = recover_store(store_path)
    assert (saved.sessions, saved.messages, saved.generations, saved.dropped) == (1, 3, 1, 0)
    with open_store(store_path) as recovered:
        assert recovered.export_session(session.id) == before


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_a_recovered_store_is_closed_before_it_is_moved(store, session, store_path, monkeypatch):
    store.close()

    def swap(place, fresh):
        descriptors = [each for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        assert fresh not in [each.readlink() for each in descriptors]
        return original(place, fresh)

    original = recovery._swap
    monkeypatch.setattr(recovery, "_swap", swap)
    assert recover_store(store_path).sessions == 1


def test_what_does_not_hang_together_is_not_saved(store, session, exchange, store_path):
    exchange(store, session, "hi", "hello")
    exchange(store, session, "more", "yes")
    store.close()
    with closing(sqlite3.connect(store_path)) as database, database:
        database.execute("UPDATE message SET content = 'changed' WHERE content = 'more'")
        database.execute("UPDATE session SET settings = 'no json'")
    saved = recover_store(store_path)
    assert saved.messages == 3
    with open_store(store_path) as recovered:
        assert contents(recovered, "recovered-1") == ["be brief", "hi", "hello"]
        assert recovered.check() == []


def test_a_file_of_which_nothing_can_be_read_stays_in_its_place(tmp_path):
    path = tmp_path / "sessions.db"
    path.write_bytes(noise := b"\x5a" * 20_000)
    with pytest.raises(StoreDamaged, match="nothing can be read"):
        recover_store(path)
    assert path.read_bytes() == noise
    assert list(tmp_path.iterdir()) == [path]


class Unreadable:
    """A damaged file of which no range of rows can be read."""

    def __init__(self):
        self.queries = 0

    def execute(self, query, _values=()):
        self.queries += 1
        if "max(id)" in query:
            return self
        raise sqlite3.DatabaseError("database disk image is malformed")

    def fetchone(self):
        return (9 * 10**15,)


def test_a_damaged_counter_of_ids_does_not_keep_a_recovery_from_ending():
    source = Unreadable()
    assert list(recovery._readable_rows(source, MessageRow, ["id"], most=100)) == []
    assert source.queries < 2000


def test_rows_are_recovered_below_an_absurd_id(store, session, exchange, store_path):
    exchange(store, session, "hi", "hello")
    store.close()
    with closing(sqlite3.connect(store_path)) as database, database:
        database.execute("UPDATE sqlite_sequence SET seq = 9000000000000000")
        database.execute(
            "INSERT INTO session SELECT 9000000000000000, 'x', seed, settings, NULL, NULL, created, "
            "last_used, archived, NULL, NULL FROM session WHERE id = 1"
        )
    saved = recover_store(store_path)
    assert (saved.sessions, saved.messages) == (2, 3)


def test_a_recovered_session_gets_a_name_that_is_free(store, session, exchange, store_path):
    store.create_session("recovered-1", seed=1, system=None, settings={})
    store.close()
    with closing(sqlite3.connect(store_path)) as database, database:
        database.execute("UPDATE session SET seed = 'x' WHERE name = 'talk'")
    recover_store(store_path)
    with open_store(store_path) as recovered:
        assert set(recovered.names()) == {"recovered-1", "recovered-1-2"}
        assert contents(recovered, "recovered-1-2") == ["be brief"]


@pytest.fixture
def without_posix(monkeypatch):
    """A system that opens no folders and has no fcntl, as Windows is."""
    monkeypatch.setattr(sqlite_file, "_FOLDERS_CAN_BE_SYNCED", False)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    real = os.open

    def opened(path, *options, **place):
        # With a place it is the clean-up of the test's own folder.
        if not place and Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *options, **place)

    monkeypatch.setattr(os, "open", opened)


def test_a_store_is_created_and_copied_where_no_folder_can_be_opened(without_posix, tmp_path):
    with open_store(tmp_path / "sessions.db") as store:
        store.create_session("talk", seed=1, system=None, settings={})
        store.backup(tmp_path / "copy.db")
        assert store.check() == []
    (tmp_path / "new").write_bytes(b"x")
    sqlite_file.publish(tmp_path / "new", tmp_path / "moved", link=no_links)
    assert (tmp_path / "moved").read_bytes() == b"x"


@pytest.fixture
def interrupted(store, session, store_path):
    """The store and its journal as a power cut in the middle of a transaction leaves them."""
    with store._database.writing() as transaction:
        connection = transaction.connection()
        connection.exec_driver_sql("PRAGMA cache_spill = 1")
        connection.exec_driver_sql("PRAGMA cache_size = 1")
        for number in range(60):
            connection.exec_driver_sql(
                "INSERT INTO message (session_id, position, role, content, status, digest, created) "
                "VALUES (?, 0, 'user', ?, 'complete', '', 0)",
                (session.id, f"{number} " * 1000),
            )
        copy = store_path.with_name("copy.db")
        shutil.copy(store_path, copy)
        shutil.copy(f"{store_path}-journal", f"{copy}-journal")
        transaction.connection().exec_driver_sql("DELETE FROM message WHERE digest = ''")
    return copy


def test_a_transaction_that_was_interrupted_is_rolled_back_by_its_journal(interrupted):
    with open_store(interrupted) as store:
        assert contents(store) == ["be brief"]
        assert store.check() == []


def test_a_missing_journal_is_noticed_and_nothing_is_emptied(interrupted):
    Path(f"{interrupted}-journal").unlink()
    size = interrupted.stat().st_size
    try:
        with open_store(interrupted) as store:
            assert store.check() != []
    except StoreError as error:
        assert isinstance(error, StoreDamaged)  # noqa: PT017 - either answer is one
    assert interrupted.stat().st_size == size


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 2000, b"no journal at all " * 200], ids=["empty", "zero", "text"]
)
def test_a_journal_that_is_none_changes_nothing(store, session, store_path, content):
    store.close()
    Path(f"{store_path}-journal").write_bytes(content)
    with open_store(store_path) as again:
        assert contents(again) == ["be brief"]
        assert again.check() == []


def test_the_journal_of_another_store_is_noticed(interrupted, store, session, exchange, store_path):
    for number in range(8):
        exchange(store, session, f"question {number}", "answer " * 500)
    store.close()
    shutil.copy(f"{interrupted}-journal", f"{store_path}-journal")
    try:
        with open_store(store_path) as again:
            assert again.check() != []
    except StoreError as error:
        assert isinstance(error, StoreDamaged)  # noqa: PT017 - either answer is one


def test_a_backup_is_a_private_store_with_everything_and_replaces_nothing(store, session, exchange, tmp_path):
    exchange(store, session, "hi", "hello")
    store.backup(tmp_path / "copies" / "today.db")
    assert (tmp_path / "copies" / "today.db").stat().st_mode & 0o777 == 0o600
    with open_store(tmp_path / "copies" / "today.db") as copy:
        assert copy.export_session(session.id) == store.export_session(session.id)
    with pytest.raises(StoreError, match="there already"):
        store.backup(tmp_path / "copies" / "today.db")


def test_a_backup_that_cannot_be_written_says_so(store, store_path):
    with pytest.raises(StoreUnavailable):
        store.backup(store_path / "in a file.db")

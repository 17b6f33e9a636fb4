"""The logs database of llm from 0.32 on: threads and turns over a tree of messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessions import Store
from sessions.formats import ImportRefused, Source, read_sessions

from .test_llm_logs import logs, said

THREADS = """
CREATE TABLE messages (hash TEXT PRIMARY KEY, parent_hash TEXT, role TEXT, provider_metadata TEXT);
CREATE TABLE parts (
  id INTEGER PRIMARY KEY, message_hash TEXT, position INTEGER, type TEXT, text TEXT, payload TEXT);
CREATE TABLE threads (
  id TEXT PRIMARY KEY, name TEXT, tip_message_hash TEXT, forked_from TEXT, datetime_utc TEXT);
CREATE TABLE turns (
  id TEXT PRIMARY KEY, thread_id TEXT, parent_message_hash TEXT, tip_message_hash TEXT, datetime_utc TEXT);
"""
FRAGMENTS = """
CREATE TABLE fragments (id INTEGER PRIMARY KEY, hash TEXT, content TEXT, datetime_utc TEXT, source TEXT);
CREATE TABLE part_fragments (part_id INTEGER, fragment_id INTEGER, "order" INTEGER);
INSERT INTO fragments VALUES (1, 'h', 'a long file', NULL, NULL);
INSERT INTO part_fragments VALUES (2, 1, 0);
"""
TOLD = """
INSERT INTO messages (hash, parent_hash, role) VALUES
  ('s', NULL, 'system'), ('q', 's', 'user'), ('c', 'q', 'assistant'), ('t', 'c', 'tool'),
  ('a', 't', 'assistant'), ('b', 'q', 'assistant');
INSERT INTO parts (id, message_hash, position, type, text) VALUES
  (1, 's', 0, 'text', 'be brief'), (2, 'q', 0, 'text', 'Which is longest?'), (3, 'c', 0, 'tool_call', NULL),
  (4, 't', 0, 'tool_result', 'Nile'), (5, 'a', 0, 'reasoning', 'hm'), (6, 'a', 1, 'text', 'The Nile.'),
  (7, 'b', 0, 'text', 'The Amazon.');
INSERT INTO threads VALUES
  ('t1', 'Rivers', 'a', NULL, '2026-01-02 03:04:05+00:00'), ('t2', 'empty', NULL, NULL, NULL);
INSERT INTO turns (id, thread_id, tip_message_hash, datetime_utc) VALUES
  ('u1', 't1', 'b', '2026-01-02T03:04:06+00:00'), ('u2', 't1', 'a', '2026-01-02T03:05:00+00:00');
"""


def test_threads_are_read_with_their_branches(tmp_path: Path, store: Store) -> None:
    source = Source(logs(tmp_path / "logs.db", THREADS, TOLD))
    (archive,) = read_sessions(source)
    assert archive.session.name == "Rivers"
    assert said(archive) == [
        ("system", "be brief"), ("user", "Which is longest?"), ("assistant", "The Nile."),
    ]  # fmt: skip
    other = next(each for each in archive.messages if each.content == "The Amazon.")
    assert (other.position, f"{other.created:%T}") == (2, "03:04:06")
    assert source.left_out == {
        "calls of tools": 1, "results of tools": 1, "thoughts": 1, "conversations without messages": 1,
    }  # fmt: skip
    assert store.verify(store.import_session(archive).id).faults == ()


def test_fragments_stand_before_the_part_that_they_belong_to(tmp_path: Path) -> None:
    (archive,) = read_sessions(Source(logs(tmp_path / "logs.db", THREADS, TOLD, FRAGMENTS)))
    assert said(archive)[1] == ("user", "a long file\nWhich is longest?")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("UPDATE messages SET parent_hash = 'a' WHERE hash = 's'", "is its own ancestor"),
        ("DELETE FROM messages WHERE hash = 't'", "there is no message 't'"),
        (
            "UPDATE messages SET role = 'robot' WHERE hash = 'q'",
            r"messages\['q'\].role: 'robot' is not",
        ),
        ("UPDATE parts SET text = x'00ff' WHERE id = 2", "is not text"),
        ("UPDATE turns SET datetime_utc = 'now'", r"turns\['u1'\].datetime_utc: 'now'"),
        ("DROP TABLE parts", "conversations: has no table"),
    ],
)
def test_a_tree_that_does_not_hold_is_refused_with_its_place(tmp_path: Path, change: str, where: str) -> None:
    path = logs(tmp_path / "logs.db", THREADS, TOLD, change)
    with pytest.raises(ImportRefused, match=where):
        list(read_sessions(Source(path)))

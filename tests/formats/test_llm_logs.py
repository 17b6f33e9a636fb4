"""The logs database of the llm tool, in the variants of its schema."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sessions import SessionArchive, Store
from sessions.formats import ImportRefused, Limits, Source, read_sessions
from sessions.formats.builder import path_of

FIRST = """
CREATE TABLE conversations (id TEXT PRIMARY KEY, name TEXT, model TEXT);
CREATE TABLE responses (
  id TEXT PRIMARY KEY, model TEXT, prompt TEXT, system TEXT, prompt_json TEXT, options_json TEXT,
  response TEXT, response_json TEXT, conversation_id TEXT REFERENCES conversations(id),
  duration_ms INTEGER, datetime_utc TEXT);
"""
WITH_FRAGMENTS = (
    FIRST
    + """
ALTER TABLE responses ADD COLUMN input_tokens INTEGER;
ALTER TABLE responses ADD COLUMN schema_id TEXT;
CREATE TABLE fragments (id INTEGER PRIMARY KEY, hash TEXT, content TEXT, datetime_utc TEXT, source TEXT);
CREATE TABLE prompt_fragments (response_id TEXT, fragment_id INTEGER, "order" INTEGER);
CREATE TABLE system_fragments (response_id TEXT, fragment_id INTEGER, "order" INTEGER);
CREATE TABLE tools (id INTEGER PRIMARY KEY, hash TEXT, name TEXT);
"""
)
SAID = """
INSERT INTO conversations VALUES ('c1', 'Trees', 'gpt'), ('c2', NULL, 'gpt'), ('c3', 'empty', 'gpt');
INSERT INTO responses (id, prompt, system, response, conversation_id, datetime_utc) VALUES
  ('r1', 'What is a tree?', 'be brief', 'A plant.', 'c1', '2024-01-02T03:04:05.678901'),
  ('r2', 'And a forest?', NULL, 'Many.', 'c1', '2024-01-02T03:05:05+00:00'),
  ('r3', 'hi', NULL, 'ho', 'c2', NULL);
"""


def logs(path: Path, schema: str, *more: str) -> Path:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(schema)
        for each in more:
            database.executescript(each)
        database.commit()
    return path


def read(path: Path, **limits: int) -> list[SessionArchive]:
    return list(read_sessions(Source(path, limits=Limits(**limits))))


def said(archive: SessionArchive) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in path_of(archive)]


@pytest.mark.parametrize("schema", [FIRST, WITH_FRAGMENTS])
def test_every_conversation_with_a_response_is_read(tmp_path: Path, store: Store, schema: str) -> None:
    trees, unnamed = read(logs(tmp_path / "logs.db", schema, SAID))
    assert said(trees) == [
        ("system", "be brief"),
        ("user", "What is a tree?"),
        ("assistant", "A plant."),
        ("user", "And a forest?"),
        ("assistant", "Many."),
    ]
    assert [trees.session.name, unnamed.session.name] == ["Trees", "logs-2"]
    assert f"{trees.session.created:%F %T %Z}" == "2024-01-02 03:04:05 UTC"
    assert store.verify(store.import_session(trees).id).faults == ()


def test_fragments_stand_before_the_text_that_they_belong_to(tmp_path: Path) -> None:
    fragments = """
    INSERT INTO fragments VALUES (1, 'h1', 'a long file', NULL, NULL), (2, 'h2', 'another', NULL, NULL);
    INSERT INTO prompt_fragments VALUES ('r3', 2, 1), ('r3', 1, 0);
    INSERT INTO system_fragments VALUES ('r3', 2, 0);
    """
    _, archive = read(logs(tmp_path / "logs.db", WITH_FRAGMENTS, SAID, fragments))
    assert said(archive) == [
        ("system", "another"),
        ("user", "a long file\nanother\nhi"),
        ("assistant", "ho"),
    ]


def test_the_database_is_not_written_to(tmp_path: Path) -> None:
    path = logs(tmp_path / "logs.db", FIRST, SAID)
    before = path.read_bytes()
    path.chmod(0o400)
    read(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("logs")] == ["logs.db"]


ENDLESS = """
CREATE TABLE conversations (id TEXT, name TEXT);
CREATE VIEW responses AS
  WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n)
  SELECT id, 'x' AS prompt, 'y' AS response, 'c1' AS conversation_id FROM n;
INSERT INTO conversations VALUES ('c1', 'endless');
"""
NO_RESPONSE = "CREATE TABLE conversations (id, name); CREATE TABLE responses (id, prompt, conversation_id);"


@pytest.mark.parametrize(
    ("schema", "more", "where"),
    [
        ("CREATE TABLE other (x);", "", "conversations: has no table 'conversations'"),
        (NO_RESPONSE, "", "responses: lacks 'response'"),
        # A view would run whatever the file's maker wrote.
        (ENDLESS, "", "responses: has no table 'responses'"),
        (FIRST, "UPDATE responses SET prompt = x'00ff'", r"responses\['r1'\].prompt: b'.*is not text"),
        (FIRST, "UPDATE responses SET datetime_utc = 'now'", r"responses\['r1'\].datetime_utc: 'now'"),
        (FIRST, "UPDATE responses SET response = zeroblob(200000)", "string or blob too big"),
        (
            FIRST,
            "UPDATE responses SET response = CAST(x'ff41' AS TEXT)",
            "cannot be read as a logs database",
        ),
    ],
)
def test_what_is_no_logs_database_is_refused_with_its_place(
    tmp_path: Path, schema: str, more: str, where: str
) -> None:
    path = logs(tmp_path / "logs.db", schema, SAID if schema is FIRST else "", more)
    with pytest.raises(ImportRefused, match=where):
        read(path, record_bytes=100_000)


def test_a_text_beyond_the_cap_is_refused(tmp_path: Path) -> None:
    path = logs(tmp_path / "logs.db", FIRST, SAID)
    with pytest.raises(ImportRefused, match=r"responses\['r1'\].prompt: has 15 bytes: expected at most 10"):
        read(path, message_bytes=10)

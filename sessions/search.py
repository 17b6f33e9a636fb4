"""Full-text search over all messages, newest first.

A search is words: a message is found when all of them are in it, whatever their case and their accents' (on
SQLite). What stands between quotes, operators, brackets: all of it is text, so no search is an error.
SQLite keeps the words in an FTS5 table and PostgreSQL in a GIN index, both made by the migrations; another
database compares letters. Newest first needs no ranking, so a common word costs no more than a rare one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import reduce
from typing import cast

from sqlalchemy import ColumnElement, Integer, Text, column, desc, func, literal_column, table
from sqlalchemy.exc import DatabaseError
from sqlmodel import Session as Transaction
from sqlmodel import col, select
from sqlmodel.sql.expression import Select

from sessions.records import Role, SearchHit
from sessions.tables import MessageRow, SessionRow

Found = Select[MessageRow, str]

_WORDS_USED = 64  # of a longer search the others are left out: it is a quotation, found by these as well
_BEFORE, _SHOWN = 24, 160  # characters of a message that a hit shows: before the first word found, in all


def words_of(search: str) -> list[str]:
    """Return the different words of a search, at most 64; what is no character separates them."""
    plain = "".join(" " if unicodedata.category(each) in {"Cc", "Cs"} else each for each in search)
    return list(dict.fromkeys(plain.split()))[:_WORDS_USED]


def hits(transaction: Transaction, search: str, *, limit: int, offset: int) -> list[SearchHit]:
    """Return a page of what was found, newest first, archived sessions left out."""
    words = words_of(search)
    if not words:
        return []
    found = _finders.get(transaction.connection().dialect.name, with_letters)(words)
    query = (
        found.join(SessionRow, col(SessionRow.id) == col(MessageRow.session_id))
        .where(~col(SessionRow.archived))
        .limit(limit)
        .offset(offset)
    )
    return [_hit(message, name, words) for message, name in transaction.exec(query)]


def with_letters(words: list[str]) -> Found:
    """Find the messages with all ``words`` somewhere in their letters, in any database."""
    letters = [col(MessageRow.content).icontains(word, autoescape=True) for word in words]
    return select(MessageRow, SessionRow.name).where(*letters).order_by(desc(col(MessageRow.id)))


def _with_fts5(words: list[str]) -> Found:
    # A word in quotes is a phrase: what the tokenizer makes of it, in this order. Nothing else is special
    # there. By the index's own row ids, in their own order: it stops where the page is full.
    phrases = " ".join('"' + word.replace('"', '""') + '"' for word in words)
    return (
        select(MessageRow, SessionRow.name)
        .select_from(_FTS5)
        .join(MessageRow, col(MessageRow.id) == _FTS5.c.rowid)
        .where(_FTS5.c.message_words.op("MATCH")(phrases))
        .order_by(desc(_FTS5.c.rowid))
    )


def _with_tsvector(words: list[str]) -> Found:
    document = func.to_tsvector(_SIMPLE, func.left(MessageRow.content, literal_column("200000")))
    phrases = [func.phraseto_tsquery(_SIMPLE, word) for word in words]
    wanted = reduce(lambda left, right: left.op("&&")(right), phrases[1:], phrases[0])
    return (
        select(MessageRow, SessionRow.name)
        .where(document.op("@@")(wanted))
        .order_by(desc(col(MessageRow.id)))
    )


def index_faults(transaction: Transaction) -> list[str]:
    """Return what is wrong with the index, compared with the messages; writes nothing, but takes the lock."""
    connection = transaction.connection()
    if connection.dialect.name != "sqlite":
        return []
    try:
        connection.exec_driver_sql(
            "INSERT INTO message_words (message_words, rank) VALUES ('integrity-check', 1)"
        )
    except DatabaseError:
        return ["the search index does not have the words of the messages"]
    return []


_FTS5 = table("message_words", column("rowid", Integer), column("message_words", Text))
_SIMPLE: ColumnElement[str] = literal_column(
    "'simple'", Text
)  # as the index has it: words as they are, of no language
_finders: dict[str, Callable[[list[str]], Found]] = {"sqlite": _with_fts5, "postgresql": _with_tsvector}


def _hit(message: MessageRow, session_name: str, words: list[str]) -> SearchHit:
    return SearchHit(
        session_name=session_name,
        session_id=message.session_id,
        message_id=message.id,
        position=message.position,
        role=cast("Role", message.role),
        snippet=_snippet(message.content, words),
        created=message.created,
    )


def _snippet(content: str, words: list[str]) -> str:
    first = re.search("|".join(map(re.escape, words)), content, re.IGNORECASE)
    start = 0 if first is None else max(0, first.start() - _BEFORE)
    line = " ".join(content[start : start + 2 * _SHOWN].split())
    before = "…" if start else ""
    after = "…" if len(line) > _SHOWN or start + 2 * _SHOWN < len(content) else ""
    return f"{before}{line[:_SHOWN].rstrip()}{after}"

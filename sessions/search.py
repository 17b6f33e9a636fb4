"""Search the text of all messages, newest first.

A search is words: a message is found when it has all of them, whatever their case and accents. Quotes,
operators and brackets are text, so no search is an error. SQLite keeps the words in an FTS5 table and
PostgreSQL in a GIN index, both created by the migrations; another database compares letters. Results need no
ranking, so a common word costs no more than a rare one.

Languages that write words without blanks (Chinese, Japanese, Thai) have no words for those indexes. A word
of a search with such letters is compared as letters, on SQLite with the help of a second index, by trigrams.
"""

from __future__ import annotations

import re
import unicodedata

from sqlalchemy import ColumnElement, Integer, Text, column, desc, func, literal_column, table
from sqlalchemy.exc import DatabaseError
from sqlmodel import Session as Transaction
from sqlmodel import col, select
from sqlmodel.sql.expression import Select

from sessions.fields import read
from sessions.migrations.folding import ACCENTED, PLAIN, without_accents
from sessions.records import Message, SearchHit
from sessions.tables import MessageRow, SessionRow

Found = Select[MessageRow, str]

_WORDS_USED = 64  # of a longer search; it is a quotation, and found by these as well
_BEFORE, _SHOWN = 24, 160  # characters of a message in a hit: before the first word found, in all
_TRIGRAM = 3  # letters of the shortest word that the second index finds
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003134f]"
)


def words_of(search: str) -> list[str]:
    """Return the different words of a search, at most 64; control characters separate them."""
    plain = "".join(" " if unicodedata.category(each) in {"Cc", "Cs"} else each for each in search)
    return list(dict.fromkeys(plain.split()))[:_WORDS_USED]


def hits(transaction: Transaction, search: str, *, limit: int, offset: int) -> list[SearchHit]:
    """Return a page of the messages found, newest first, archived sessions left out."""
    words = words_of(search)
    if not words:
        return []
    dialect = transaction.connection().dialect.name
    if dialect == "sqlite":
        found = _with_fts5(words, trigrams=_has_trigrams(transaction))
    elif dialect == "postgresql":
        found = _with_tsvector(words)
    else:
        found = with_letters(words)
    query = (
        found.join(SessionRow, col(SessionRow.id) == col(MessageRow.session_id))
        .where(~col(SessionRow.archived))
        .limit(limit)
        .offset(offset)
    )
    return [_hit(message, name, words) for message, name in transaction.exec(query)]


def with_letters(words: list[str]) -> Found:
    """Find the messages with all ``words`` somewhere in their letters, in any database."""
    letters = [_contains(word) for word in words]
    return select(MessageRow, SessionRow.name).where(*letters).order_by(desc(col(MessageRow.id)))


def _contains(word: str) -> ColumnElement[bool]:
    return col(MessageRow.content).icontains(word, autoescape=True)


def _with_fts5(words: list[str], *, trigrams: bool) -> Found:
    spaced = [word for word in words if _UNSPACED.search(word) is None]
    unspaced = [word for word in words if _UNSPACED.search(word) is not None]
    if not unspaced:
        # By the index's row ids, in their order: SQLite stops where the page is full.
        return (
            select(MessageRow, SessionRow.name)
            .select_from(_WORDS)
            .join(MessageRow, col(MessageRow.id) == _WORDS.c.rowid)
            .where(_WORDS.c.message_words.op("MATCH")(_phrases(spaced)))
            .order_by(desc(_WORDS.c.rowid))
        )
    id_ = col(MessageRow.id)
    conditions = [_contains(word) for word in unspaced]
    if spaced:
        matched = select(_WORDS.c.rowid).where(_WORDS.c.message_words.op("MATCH")(_phrases(spaced)))
        conditions.append(id_.in_(matched))
    long = [word for word in unspaced if len(word) >= _TRIGRAM]
    if trigrams and long:
        matched = select(_TRIGRAMS.c.rowid).where(_TRIGRAMS.c.message_trigrams.op("MATCH")(_phrases(long)))
        conditions.append(id_.in_(matched))
    return select(MessageRow, SessionRow.name).where(*conditions).order_by(desc(id_))


def _phrases(words: list[str]) -> str:
    # A word in quotes is a phrase: its tokens, in this order. Nothing else is special there.
    return " ".join('"' + word.replace('"', '""') + '"' for word in words)


def _has_trigrams(transaction: Transaction) -> bool:
    # SQLite before 3.34 has none, and so has a store that it created.
    there = "SELECT 1 FROM sqlite_master WHERE name = 'message_trigrams'"
    return transaction.connection().exec_driver_sql(there).first() is not None


def _with_tsvector(words: list[str]) -> Found:
    start = func.left(MessageRow.content, literal_column("200000"))
    plain = func.translate(start, literal_column(f"'{ACCENTED}'"), literal_column(f"'{PLAIN}'"))
    document = func.to_tsvector(_SIMPLE, plain)
    conditions = [
        document.op("@@")(func.phraseto_tsquery(_SIMPLE, without_accents(word)))
        if _UNSPACED.search(word) is None
        else _contains(word)
        for word in words
    ]
    return select(MessageRow, SessionRow.name).where(*conditions).order_by(desc(col(MessageRow.id)))


def index_faults(transaction: Transaction) -> list[str]:
    """Return the faults of the indexes, compared with the messages; writes nothing, but takes the lock."""
    connection = transaction.connection()
    if connection.dialect.name != "sqlite":
        return []
    # The trigrams are of some messages only, so their index is compared with itself.
    checks = {"message_words": 1} | ({"message_trigrams": 0} if _has_trigrams(transaction) else {})
    faults: list[str] = []
    for index, rank in checks.items():
        check = f"INSERT INTO {index} ({index}, rank) VALUES ('integrity-check', {rank})"  # noqa: S608 - constants
        try:
            connection.exec_driver_sql(check)
        except DatabaseError:
            faults.append(f"the search index {index} does not have the words of the messages")
    return faults


_WORDS = table("message_words", column("rowid", Integer), column("message_words", Text))
_TRIGRAMS = table("message_trigrams", column("rowid", Integer), column("message_trigrams", Text))
# As the index has it: words as they are, of no language.
_SIMPLE: ColumnElement[str] = literal_column("'simple'", Text)


def _hit(row: MessageRow, session_name: str, words: list[str]) -> SearchHit:
    message = read(Message, row)
    return SearchHit(
        session_name=session_name if isinstance(session_name, str) else "",  # pyright: ignore[reportUnnecessaryIsInstance] - of a damaged row
        session_id=message.session_id,
        message_id=message.id,
        position=message.position,
        role=message.role,
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

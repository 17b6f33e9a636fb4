"""Damage single cells of a store, and read it by every method that reads.

    python tests/sessions/damage_campaign.py [--every N] [--folder F]

Each variant changes one cell of one row to a value of another type or range. Whatever it is, a method returns
or raises a StoreError, and ``examine`` raises nothing and finds the damage. Exits with 1 and the variants
that break this.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from sessions import NewGeneration, Store, StoreError, open_store
from sessions.digest import PARTS, fingerprint_of
from sessions.formats import write_sessions
from sessions.tables import schema

VALUES = (
    "NULL",
    "''",
    "'other'",
    "'a much longer text, é and 東京'",
    "CAST(X'C328' AS TEXT)",
    "X'FF00'",
    "-1",
    "0",
    "1",
    "77",
    "9000000000000000000",
    "-9000000000000000000",
    "1.5",
    "'[]'",
    "'[-1]'",
    "'{}'",
    "'null'",
    """'{"temperature": NaN}'""",
    "'" + '{"a": ' * 3000 + "1" + "}" * 3000 + "'",
)
UNNOTICED = {("checksum", "NULL"), *((each, "'null'") for each in ("receipt", "timings", "token_ids"))}
"""Changes without a meaning: a row of an earlier version has no checksum, and no JSON is the same as null."""


class Discarded:
    """A file that keeps nothing."""

    def write(self, text: str) -> None:
        """Encode a text, as a file would."""
        text.encode()


def told(path: Path) -> None:
    """Create the store that is damaged: turns, a retry, a failed and a pending reply, a fork."""
    parts = {part: part[0] * 64 for part in PARTS}
    with open_store(path) as store:
        checkpoint = store.remember_checkpoint(
            fingerprint=str(fingerprint_of(parts)), parts=parts, config={"V": 256}, step=1, path="/a/best.pt"
        )

        def asked(seed: int) -> NewGeneration:
            return NewGeneration(
                checkpoint_id=checkpoint,
                seed=seed,
                attempt=0,
                sampling={"temperature": 0.9},
                max_new_tokens=32,
                prompt_hash="p" * 64,
                trimmed_turns=0,
                environment={"torch": "2.13"},
            )

        def finish(generation_id: int, reply: str) -> None:
            store.finish_reply(
                generation_id,
                content=reply,
                token_ids=list(reply.encode()),
                status="complete",
                finish_reason="stop",
                receipt={"logits_hash": "0" * 64},
                timings={"total_s": 0.5},
            )

        talk = store.create_session("talk", seed=7, system="be brief", settings={"temperature": 0.9})
        turn = store.begin_turn(talk.id, content="hi", expected_head=talk.head_id, generation=asked(1))
        finish(turn.generation.id, "hello")
        retry = store.begin_retry(talk.id, user_message_id=turn.user.id, generation=asked(2))
        store.fail_generation(retry.generation.id, error="out of memory")
        fork = store.fork(talk.id, name="fork")
        turn = store.begin_turn(fork.id, content="more", expected_head=fork.head_id, generation=asked(3))
        finish(turn.generation.id, "yes")
        head = store.session("talk").head_id
        store.begin_turn(talk.id, content="waiting", expected_head=head, generation=asked(4))


def variants() -> Iterator[tuple[str, str, str, str]]:
    """Yield table, column, the row's condition and the new value, as SQL."""
    for table in schema.sorted_tables:
        for row in ("id = 1", "id = (SELECT max(id) FROM {0})"):
            for column in table.columns:
                if column.name != "id":
                    for value in VALUES:
                        yield table.name, column.name, row.format(table.name), value


def damage(path: Path, table: str, column: str, row: str, value: str) -> bool:
    """Change the cell; return whether it holds something else now."""
    with closing(sqlite3.connect(path)) as database, database:
        database.text_factory = bytes
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute("PRAGMA writable_schema = ON")
        # SQLite has no other way to store NULL where it is refused.
        database.execute(
            "UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL,', ',') WHERE name = ?", (table,)
        )
        database.execute("PRAGMA writable_schema = RESET")
        cell = f"SELECT typeof({column}), {column} FROM {table} WHERE {row}"  # noqa: S608 - names of this file
        before = database.execute(cell).fetchone()
        database.execute(f"UPDATE {table} SET {column} = {value} WHERE {row}")  # noqa: S608
        return database.execute(cell).fetchone() != before


def readers(store: Store) -> Iterator[Callable[[], Any]]:
    """Yield calls that read all that there is."""
    yield lambda: store.sessions(archived=True)
    yield store.last_used
    yield store.names
    yield lambda: store.search("hello")
    yield lambda: store.search("東京")
    yield lambda: store.checkpoint(1)
    for name in ("talk", "fork"):
        yield lambda name=name: store.session(name)
    for session_id in (1, 2):
        for read in (
            store.path,
            store.pending,
            store.generations,
            store.recorded_turns,
            store.last_turn,
            store.verify,
        ):
            yield lambda read=read, session_id=session_id: read(session_id)
        yield lambda session_id=session_id: store.variants(session_id, 2)
        for name in ("jsonl", "openai", "markdown", "html"):
            yield lambda session_id=session_id, name=name: write_sessions(
                [store.export_session(session_id)], Discarded(), format_name=name
            )


def problems_of(path: Path, column: str, value: str, *, changed: bool) -> Iterator[str]:
    """Yield what a damaged store does that it must not do."""
    try:
        opened = open_store(path)
    except StoreError:
        return
    with opened as store:
        for read in readers(store):
            try:
                read()
            except StoreError:
                pass
            except Exception as error:  # noqa: BLE001 - anything else is what is looked for
                yield f"a reader raised {type(error).__name__}: {error}"
        try:
            faults = store.check()
        except Exception as error:  # noqa: BLE001
            yield f"the check raised {type(error).__name__}: {error}"
        else:
            if changed and not faults and (column, value) not in UNNOTICED:
                yield "the check found nothing"


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=1, help="take each Nth variant only")
    parser.add_argument("--folder", type=Path, help="where the stores are written")
    options = parser.parse_args(arguments)
    tried = problems = 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        whole, path = Path(folder) / "whole.db", Path(folder) / "damaged.db"
        told(whole)
        for table, column, row, value in list(variants())[:: options.every]:
            shutil.copyfile(whole, path)
            changed = damage(path, table, column, row, value)
            tried += 1
            for problem in problems_of(path, column, value, changed=changed):
                problems += 1
                print(f"{table}.{column} where {row} = {value[:40]}: {problem}", file=sys.stderr)
    print(f"{tried} damaged cells\n{problems} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

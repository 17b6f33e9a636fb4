"""Back up the store and check all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.orm import aliased
from sqlmodel import Session as Transaction
from sqlmodel import col, select

from sessions import queries, search
from sessions.errors import StoreDamaged
from sessions.integrity import generation_faults, message_faults
from sessions.mixin import StorePart
from sessions.records import Fault, Message
from sessions.sqlite_connection import structure_faults
from sessions.tables import CheckpointRow, GenerationRow, MessageRow

_AT_ONCE = 500  # rows in memory


class Care(StorePart):
    """Backups and checks."""

    def backup(self, path: str | Path) -> None:
        """Copy everything that was acknowledged to a new private file, which is a store itself.

        Raises InvalidValue where something lies at ``path`` already, StoreUnavailable where the copy cannot
        be written or the store is no file.
        """
        self._database.back_up(Path(path).expanduser())

    def check(self) -> list[str]:
        """Return what is wrong with the store, one line each; [] when all is well.

        Looks at the file's own structure, references, the search index, and every digest: all is read.
        """
        faults: list[str] = []
        try:
            with self._database.reading() as transaction:
                faults += structure_faults(transaction.connection())
                faults += (_line(fault) for fault in _digest_faults(transaction))
            with self._database.writing() as transaction:
                faults += search.index_faults(transaction)
        except StoreDamaged as error:
            faults.append(str(error))
        except (AttributeError, TypeError, ValueError) as error:
            # Damage can put anything into a row, such as nothing where there is always something.
            faults.append(f"a row of the store makes no sense ({error})")
        return faults


def _digest_faults(transaction: Transaction) -> Iterator[Fault]:
    parent, user, reply = aliased(MessageRow), aliased(MessageRow), aliased(MessageRow)
    messages = transaction.exec(
        select(MessageRow, parent)
        .join(parent, col(MessageRow.parent_id) == col(parent.id), isouter=True)
        .order_by(col(MessageRow.id))
        .execution_options(yield_per=_AT_ONCE)
    )
    for row, above in messages:
        yield from message_faults(queries.message_record(row), _message(above))
    generations = transaction.exec(
        select(GenerationRow, user, reply, CheckpointRow.fingerprint)
        .join(user, col(GenerationRow.user_message_id) == col(user.id), isouter=True)
        .join(reply, col(GenerationRow.reply_id) == col(reply.id), isouter=True)
        .join(CheckpointRow, col(GenerationRow.checkpoint_id) == col(CheckpointRow.id), isouter=True)
        .order_by(col(GenerationRow.id))
        .execution_options(yield_per=_AT_ONCE)
    )
    for row, asked, answer, fingerprint in generations:
        yield from generation_faults(
            queries.generation_record(row),
            _message(asked),
            _message(answer),
            fingerprint,
        )


def _message(row: MessageRow | None) -> Message | None:
    return None if row is None else queries.message_record(row)


def _line(fault: Fault) -> str:
    return f"{fault.where} is {fault.got}, expected {fault.expected}"

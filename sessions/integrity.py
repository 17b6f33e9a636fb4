"""Verify stored values: recompute each digest from the values it covers, and compare.

A message is checked against the stored digest of its parent, so that a change shows at the place where it
was made. Pure functions over records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from sessions.digest import digest_of_generation, digest_of_message, session_digest
from sessions.records import Checkpoint, Fault, Generation, Message, Verification


class ChecksummedRow(Protocol):
    """A row of any table."""

    id: int
    checksum: str | None


def message_faults(message: Message, parent: Message | None) -> Iterator[Fault]:
    """Yield the faults of one message below ``parent`` (None: a root, or its parent is missing)."""
    where = f"message {message.id} ({message.role}, position {message.position})"
    if parent is None and message.parent_id is not None:
        yield _fault(f"{where}: its parent", f"message {message.parent_id}", "none", message=message)
        return
    position = 0 if parent is None else parent.position + 1
    if message.position != position:
        yield _fault(f"{where}: its position", str(position), str(message.position), message=message)
    recomputed = digest_of_message(message, None if parent is None else parent.digest)
    if message.digest != recomputed:
        yield _fault(f"{where}: its digest", message.digest, recomputed, message=message)


def generation_faults(
    generation: Generation, user: Message | None, reply: Message | None, fingerprint: str | None
) -> Iterator[Fault]:
    """Yield the faults of one generation; None stands for a row that it names and that is missing."""
    where = f"generation {generation.id}"
    if user is None or user.role != "user":
        asked = f"user message {generation.user_message_id}"
        yield _fault(f"{where}: its question", asked, _described(user), generation=generation)
        return
    if generation.reply_id is None:
        return
    if reply is None or reply.role != "assistant" or reply.parent_id != user.id:
        wanted = f"assistant message {generation.reply_id} below message {user.id}"
        yield _fault(f"{where}: its reply", wanted, _described(reply), generation=generation)
        return
    if fingerprint is None:
        wanted = f"checkpoint {generation.checkpoint_id}"
        yield _fault(f"{where}: its checkpoint", wanted, "none", generation=generation)
        return
    if generation.digest is None:
        return
    recomputed = digest_of_generation(
        generation, user=user.digest, reply=reply.digest, fingerprint=fingerprint
    )
    if generation.digest != recomputed:
        yield _fault(f"{where}: its digest", generation.digest, recomputed, generation=generation)


def checksum_fault(row: ChecksummedRow) -> Fault:
    """Return the fault of a row whose checksum is not that of its values."""
    kind = type(row).__name__.removesuffix("Row").lower()
    return Fault(
        where=f"{kind} {row.id}: its checksum",
        message_id=row.id if kind == "message" else None,
        generation_id=row.id if kind == "generation" else None,
        expected=str(row.checksum),
        got="the checksum of other values",
    )


def verified(
    head_id: int | None,
    messages: Sequence[Message],
    generations: Sequence[Generation],
    checkpoints: Iterable[Checkpoint],
) -> Verification:
    """Check a whole tree, and digest the path to ``head_id`` from recomputed digests."""
    by_id = {message.id: message for message in messages}
    fingerprints = {checkpoint.id: checkpoint.fingerprint for checkpoint in checkpoints}
    faults: list[Fault] = []
    for message in messages:
        faults += message_faults(message, _of(by_id, message.parent_id))
    for generation in generations:
        faults += generation_faults(
            generation,
            by_id.get(generation.user_message_id),
            _of(by_id, generation.reply_id),
            fingerprints.get(generation.checkpoint_id),
        )
    return Verification(
        digest=_path_digest(head_id, by_id, generations, fingerprints),
        faults=tuple(faults),
        messages=len(messages),
        generations=len(generations),
    )


def _path_digest(
    head_id: int | None,
    messages: Mapping[int, Message],
    generations: Iterable[Generation],
    fingerprints: Mapping[int, str],
) -> str:
    made_by = {each.reply_id: each for each in generations if each.reply_id is not None}
    pairs: list[tuple[str, str | None]] = []
    # Popping ends the walk where damaged rows form a cycle.
    left = dict(messages)
    chain: list[Message] = []
    at = head_id
    while at is not None and (message := left.pop(at, None)) is not None:
        chain.append(message)
        at = message.parent_id
    parent: str | None = None
    for message in reversed(chain):
        recomputed = digest_of_message(message, parent)
        generation = made_by.get(message.id)
        fingerprint = None if generation is None else fingerprints.get(generation.checkpoint_id)
        if generation is None or fingerprint is None or parent is None:
            pairs.append((recomputed, None))
        else:
            how = digest_of_generation(generation, user=parent, reply=recomputed, fingerprint=fingerprint)
            pairs.append((recomputed, how))
        parent = recomputed
    return session_digest(pairs)


def _of(messages: Mapping[int, Message], message_id: int | None) -> Message | None:
    return None if message_id is None else messages.get(message_id)


def _described(message: Message | None) -> str:
    return "none" if message is None else f"{message.role} message below message {message.parent_id}"


def _fault(
    where: str,
    expected: str,
    got: str,
    *,
    message: Message | None = None,
    generation: Generation | None = None,
) -> Fault:
    return Fault(
        where=where,
        message_id=None if message is None else message.id,
        generation_id=None if generation is None else generation.id,
        expected=expected,
        got=got,
    )

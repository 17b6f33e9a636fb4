"""Check archives from elsewhere, whole, before anything of them is stored.

Nothing in an archive is trusted: types, ranges, roles, the tree, references, fingerprints, every digest. Pure
functions over records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sessions.digest import PARTS, fingerprint_of
from sessions.errors import InvalidValue
from sessions.fields import checked
from sessions.integrity import verified
from sessions.records import Checkpoint, Generation, Message, SessionArchive
from sessions.validation import checked_int


def checked_archive(archive: SessionArchive) -> SessionArchive:
    """Return the archive in plain types. Raises InvalidValue for the first value that cannot be stored."""
    found = SessionArchive(
        session=checked(archive.session, "the session"),
        messages=tuple(_messages(archive.messages)),
        generations=tuple(_checked_generations(archive.generations)),
        checkpoints=tuple(_checkpoints(archive.checkpoints)),
        digest=archive.digest,
    )
    _check_replies(found)
    _check_digests(found)
    return found


def _messages(messages: Iterable[Message]) -> Iterable[Message]:
    seen: set[int] = set()
    for message in messages:
        what = f"message {checked_int(message.id, 'a message id')}"
        # Parents come first, so there can be no cycle.
        if message.parent_id is not None and message.parent_id not in seen:
            raise InvalidValue(
                f"the parent of {what} is {message.parent_id!r}, which does not come before it"
            )
        _add_new(message.id, seen, what)
        yield checked(message, what)


def _checkpoints(checkpoints: Iterable[Checkpoint]) -> Iterable[Checkpoint]:
    seen: set[int] = set()
    fingerprints: set[str] = set()
    for checkpoint in checkpoints:
        what = f"checkpoint {checked_int(checkpoint.id, 'a checkpoint id')}"
        _add_new(checkpoint.id, seen, what)
        found = checked(checkpoint, what)
        if found.fingerprint in fingerprints:
            raise InvalidValue(f"{what} has the fingerprint of another checkpoint, {found.fingerprint!r}")
        fingerprints.add(found.fingerprint)
        recomputed = fingerprint_of(found.parts)
        if recomputed is None:
            raise InvalidValue(
                f"the parts of {what} are {sorted(found.parts)}: expected the digests of {', '.join(PARTS)}"
            )
        if recomputed != found.fingerprint:
            raise InvalidValue(
                f"the fingerprint of {what} is {found.fingerprint!r}, but its parts give {recomputed!r}: "
                "the archive was changed"
            )
        yield found


def _checked_generations(generations: Sequence[Generation]) -> Iterable[Generation]:
    seen: set[int] = set()
    for generation in generations:
        what = f"generation {checked_int(generation.id, 'a generation id')}"
        _add_new(generation.id, seen, what)
        yield checked(generation, what)


def _check_replies(archive: SessionArchive) -> None:
    """Check that every outcome is that of its reply, and that at most one reply is pending."""
    checkpoints = {checkpoint.id for checkpoint in archive.checkpoints}
    statuses = {message.id: message.status for message in archive.messages}
    replies: set[int] = set()
    for generation in archive.generations:
        what = f"generation {generation.id}"
        if generation.checkpoint_id not in checkpoints:
            raise InvalidValue(
                f"{what} names checkpoint {generation.checkpoint_id!r}, which the archive lacks"
            )
        if generation.reply_id is not None:
            _add_new(generation.reply_id, replies, f"the reply of {what}")
        outcome = None if generation.reply_id is None else statuses.get(generation.reply_id)
        expected = outcome or ("pending" if generation.status == "pending" else "failed")
        if generation.status != expected:
            raise InvalidValue(f"{what} is {generation.status!r}: expected {expected!r}, as its reply is")
    pending = sum(generation.status == "pending" for generation in archive.generations)
    if pending > 1:
        raise InvalidValue(f"the session waits for {pending} replies: expected one at most")


def _check_digests(archive: SessionArchive) -> None:
    ids = {message.id for message in archive.messages}
    session = archive.session
    for what, message_id in (("head", session.head_id), ("fork", session.forked_at)):
        if message_id is not None and message_id not in ids:
            raise InvalidValue(f"the session's {what} is message {message_id!r}, which the archive lacks")
    found = verified(session.head_id, archive.messages, archive.generations, archive.checkpoints)
    for fault in found.faults:
        raise InvalidValue(
            f"{fault.where} is {fault.got}, expected {fault.expected}: the archive was changed"
        )
    if found.digest != archive.digest:
        raise InvalidValue(
            f"the archive says that the session's digest is {archive.digest!r}, but it is {found.digest!r}"
        )


def _add_new(number: int, seen: set[int], what: str) -> None:
    if number in seen:
        raise InvalidValue(f"{what} is in the archive twice: expected once")
    seen.add(number)

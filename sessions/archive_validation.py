"""Whether an archive from elsewhere may enter the store; checked whole before a transaction begins.

Nothing about an archive is trusted: types, ranges, roles, the tree, what belongs to what, and every digest.
What passes is stored as it stands. Pure functions over records.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import get_args

from sessions.errors import InvalidValue
from sessions.integrity import verified
from sessions.records import (
    Checkpoint,
    Generation,
    GenerationStatus,
    Message,
    NewGeneration,
    ReplyStatus,
    Role,
    SessionArchive,
)
from sessions.validation import (
    checked_generation,
    checked_int,
    checked_json,
    checked_label,
    checked_text,
    checked_token_ids,
)

_DIGEST = re.compile("[0-9a-f]{64}")


def admit(archive: SessionArchive) -> None:
    """Return if the archive may be stored; raise InvalidValue for the first thing that speaks against it."""
    checked_int(archive.session.seed, "the seed")
    checked_json(archive.session.settings, "the settings")
    _moment(archive.session.created, "the session")
    _messages(archive.messages)
    _checkpoints(archive.checkpoints)
    _generations(archive)
    ids = {message.id for message in archive.messages}
    for what, message_id in (("head", archive.session.head_id), ("fork", archive.session.forked_at)):
        if message_id is not None and message_id not in ids:
            raise InvalidValue(f"the session's {what} is message {message_id!r}, which the archive lacks")
    found = verified(archive.session.head_id, archive.messages, archive.generations, archive.checkpoints)
    for fault in found.faults:
        raise InvalidValue(
            f"{fault.where} is {fault.got}, expected {fault.expected}: the archive was changed"
        )
    if found.digest != archive.digest:
        raise InvalidValue(
            f"the archive says that the session's digest is {archive.digest!r}, but it is {found.digest!r}"
        )


def _messages(messages: Iterable[Message]) -> None:
    seen: set[int] = set()
    for message in messages:
        what = f"message {checked_int(message.id, 'a message id')}"
        _new(message.id, seen, what)
        # Parents first, so there can be no circle.
        if message.parent_id is not None and message.parent_id not in seen - {message.id}:
            raise InvalidValue(
                f"the parent of {what} is {message.parent_id!r}, which does not come before it"
            )
        checked_int(message.position, f"the position of {what}", least=0)
        _one_of(message.role, Role, f"the role of {what}")
        _one_of(message.status, ReplyStatus, f"the status of {what}")
        checked_text(message.content, what)
        _digest(message.digest, what)
        if message.token_ids is not None:
            checked_token_ids(message.token_ids)
        _moment(message.created, what)


def _checkpoints(checkpoints: Iterable[Checkpoint]) -> None:
    seen: set[int] = set()
    fingerprints: set[str] = set()
    for checkpoint in checkpoints:
        what = f"checkpoint {checked_int(checkpoint.id, 'a checkpoint id')}"
        _new(checkpoint.id, seen, what)
        checked_label(checkpoint.fingerprint, f"the fingerprint of {what}")
        if checkpoint.fingerprint in fingerprints:
            raise InvalidValue(f"{what} has the fingerprint of another one, {checkpoint.fingerprint!r}")
        fingerprints.add(checkpoint.fingerprint)
        checked_json(dict(checkpoint.parts), f"the parts of {what}")
        checked_json(checkpoint.config, f"the config of {what}")
        if checkpoint.step is not None:
            checked_int(checkpoint.step, f"the step of {what}")
        checked_text(checkpoint.path, f"the path of {what}")
        _moment(checkpoint.created, what)


def _generations(archive: SessionArchive) -> None:
    seen: set[int] = set()
    replies: set[int] = set()
    pending = 0
    checkpoints = {checkpoint.id for checkpoint in archive.checkpoints}
    statuses = {message.id: message.status for message in archive.messages}
    for generation in archive.generations:
        what = f"generation {checked_int(generation.id, 'a generation id')}"
        _new(generation.id, seen, what)
        if generation.checkpoint_id not in checkpoints:
            raise InvalidValue(
                f"{what} names checkpoint {generation.checkpoint_id!r}, which the archive lacks"
            )
        _generation_values(generation, what)
        pending += generation.status == "pending"
        if generation.reply_id is not None:
            _new(generation.reply_id, replies, f"the reply of {what}")
        outcome = None if generation.reply_id is None else statuses.get(generation.reply_id)
        expected = outcome or ("pending" if generation.status == "pending" else "failed")
        if generation.status != expected:
            raise InvalidValue(f"{what} is {generation.status!r}: expected {expected!r}, as its reply is")
    if pending > 1:
        raise InvalidValue(f"the session waits for {pending} replies: expected one at most")


def _generation_values(generation: Generation, what: str) -> None:
    _one_of(generation.status, GenerationStatus, f"the status of {what}")
    checked_generation(
        NewGeneration(
            checkpoint_id=generation.checkpoint_id,
            seed=generation.seed,
            attempt=generation.attempt,
            sampling=generation.sampling,
            max_new_tokens=generation.max_new_tokens,
            prompt_hash=generation.prompt_hash,
            trimmed_turns=generation.trimmed_turns,
            environment=generation.environment,
            forced_ids=generation.forced_ids,
        )
    )
    if generation.finish_reason is not None:
        checked_label(generation.finish_reason, f"the finish reason of {what}")
    for value, name in ((generation.receipt, "receipt"), (generation.timings, "timings")):
        if value is not None:
            checked_json(value, f"the {name} of {what}")
    if generation.error is not None:
        checked_text(generation.error, f"the error of {what}")
    _moment(generation.created, what)
    if generation.finished is not None:
        _moment(generation.finished, what)


def _new(number: int, seen: set[int], what: str) -> None:
    if number in seen:
        raise InvalidValue(f"{what} is in the archive twice: expected once")
    seen.add(number)


def _one_of(value: str, allowed: object, what: str) -> None:
    choices = get_args(allowed)
    if value not in choices:
        raise InvalidValue(f"{what} is {value!r}: expected one of {', '.join(map(repr, choices))}")


def _digest(digest: str, what: str) -> None:
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValue(f"the digest of {what} is {digest!r}: expected 64 hexadecimal digits")


def _moment(moment: datetime, what: str) -> None:
    if not isinstance(moment, datetime) or moment.tzinfo is None:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValue(f"the time of {what} is {moment!r}: expected a moment with its zone")

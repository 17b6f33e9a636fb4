"""Compute digests, chained so that one line identifies a whole conversation and how it was generated.

Each is the hex SHA-256 of fields in a fixed order, each field as its length in bytes (8 bytes, big endian)
followed by its bytes, so that no two different values give the same stream. Digests go in as their 32 raw
bytes (empty where there is none), text in UTF-8, numbers as 8 bytes, big endian, in two's complement, JSON
with sorted keys and without blanks. The first field is the name of the scheme.

- A message: its parent's digest, role, status, content, token ids. Those are empty if none are recorded, else
  one byte 1 and each id, so that a recorded empty reply differs from an unrecorded one.
- A generation: the digests of the user's message and of the reply, the checkpoint's fingerprint, seed,
  attempt, sampling (JSON), max_new_tokens, prompt hash, trimmed turns, forced ids, finish reason, and the
  receipt's logits hash.
- A session: for each message of its path the message's digest and that of the generation that made it.

Ids, names and times stay outside: two people who hold the same conversation hold the same digest.

A checkpoint's fingerprint is the hex SHA-256 of the digests of its four parts, joined by line ends.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sessions.records import Generation, Message

_MESSAGE = b"niels-gpt message 1"
_GENERATION = b"niels-gpt generation 1"
_SESSION = b"niels-gpt session 1"


def message_digest(
    *, parent: str | None, role: str, content: str, status: str, token_ids: Sequence[int] | None
) -> str:
    """Return the digest (64 hex digits) of a message below the message whose digest is ``parent``."""
    ids = b"" if token_ids is None else b"\x01" + _numbers(*token_ids)
    return _chained(_MESSAGE, _raw(parent), role.encode(), status.encode(), content.encode(), ids)


def digest_of_message(message: Message, parent: str | None) -> str:
    """Return the digest that a message below the one with digest ``parent`` should have."""
    return message_digest(
        parent=parent,
        role=message.role,
        content=message.content,
        status=message.status,
        token_ids=message.token_ids,
    )


def generation_digest(
    *,
    user: str,
    reply: str,
    fingerprint: str,
    seed: int,
    attempt: int,
    sampling: Mapping[str, object],
    max_new_tokens: int,
    prompt_hash: str,
    trimmed_turns: int,
    forced_ids: Sequence[int],
    finish_reason: str,
    logits_hash: object,
) -> str:
    """Return the digest of how the reply with digest ``reply`` was made (``logits_hash`` None: unknown)."""
    return _chained(
        _GENERATION,
        _raw(user),
        _raw(reply),
        fingerprint.encode(),
        _numbers(seed),
        _numbers(attempt),
        _json(sampling),
        _numbers(max_new_tokens),
        prompt_hash.encode(),
        _numbers(trimmed_turns),
        _numbers(*forced_ids),
        finish_reason.encode(),
        b"" if logits_hash is None else _json(logits_hash),
    )


def digest_of_generation(generation: Generation, *, user: str, reply: str, fingerprint: str) -> str:
    """Return the digest that a generation with a reply should have, over those that it is chained to."""
    return generation_digest(
        user=user,
        reply=reply,
        fingerprint=fingerprint,
        seed=generation.seed,
        attempt=generation.attempt,
        sampling=generation.sampling,
        max_new_tokens=generation.max_new_tokens,
        prompt_hash=generation.prompt_hash,
        trimmed_turns=generation.trimmed_turns,
        forced_ids=generation.forced_ids,
        finish_reason=generation.finish_reason or "",
        logits_hash=(generation.receipt or {}).get("logits_hash"),
    )


def session_digest(path: Iterable[tuple[str, str | None]]) -> str:
    """Return the digest of a path: each message's digest, and its generation's (None: it has none)."""
    fields = [_raw(digest) for pair in path for digest in pair]
    return _chained(_SESSION, *fields)


PARTS = ("weights", "config", "tokenizer", "template")
"""The parts of a checkpoint's fingerprint, in their order."""


def fingerprint_of(parts: Mapping[str, str]) -> str | None:
    """Return the fingerprint of a checkpoint with these parts; None if they are not exactly the four."""
    if set(parts) != set(PARTS) or not all(isinstance(part, str) for part in parts.values()):  # pyright: ignore[reportUnnecessaryIsInstance]
        return None
    return hashlib.sha256("\n".join(parts[name] for name in PARTS).encode()).hexdigest()


def _chained(*fields: bytes) -> str:
    chain = hashlib.sha256()
    for field in fields:
        chain.update(len(field).to_bytes(8, "big"))
        chain.update(field)
    return chain.hexdigest()


def _raw(digest: str | None) -> bytes:
    return b"" if digest is None else bytes.fromhex(digest)


def _numbers(*numbers: int) -> bytes:
    return b"".join(each.to_bytes(8, "big", signed=True) for each in numbers)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

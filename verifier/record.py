"""An exported archive: its digests, its prompts and its replies, as docs/spec/record.md defines them."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from verifier.model import NotVerifiable

Row = dict[str, Any]
ROLES = ("system", "user", "assistant")


@dataclass
class Archive:
    """The rows of an exported file, by kind and id."""

    sessions: list[Row] = field(default_factory=list)
    checkpoints: dict[int, Row] = field(default_factory=dict)
    messages: dict[int, Row] = field(default_factory=dict)
    generations: list[Row] = field(default_factory=list)


def read_archives(path: str | Path) -> Iterator[Archive]:
    """Yield the sessions of a file of JSON lines, compressed with gzip if its name ends in .gz."""
    opened = gzip.open if str(path).endswith(".gz") else open
    archive: Archive | None = None
    with opened(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            kind = row.get("type")
            if kind == "session":
                if archive is not None:
                    yield archive
                archive = Archive(sessions=[row])
            elif archive is None:
                if row.get("format") != "niels-gpt sessions" or row.get("version") != 1:
                    raise NotVerifiable(f"{str(path)!r} does not begin as an export of sessions")
            elif kind == "checkpoint":
                archive.checkpoints[row["id"]] = row
            elif kind == "message":
                archive.messages[row["id"]] = row
            else:
                archive.generations.append(row)
    if archive is not None:
        yield archive


def faults(archive: Archive) -> Iterator[str]:
    """Yield every digest of the archive that does not follow from what it covers."""
    for row in archive.messages.values():
        if row["digest"] != message_digest(row, archive):
            yield f"message {row['id']} at position {row['position']} was changed after it was recorded"
    made: dict[int, str] = {}
    for row in archive.generations:
        if row["reply_id"] is None:
            continue
        if row["digest"] != generation_digest(row, archive):
            yield f"the record of reply {row['reply_id']} was changed after it was recorded"
        made[row["reply_id"]] = row["digest"]
    for row in archive.checkpoints.values():
        parts = row["parts"]
        text = "\n".join(parts[name] for name in ("weights", "config", "tokenizer", "template"))
        if hashlib.sha256(text.encode()).hexdigest() != row["fingerprint"]:
            yield f"the fingerprint of checkpoint {row['id']} does not follow from its parts"
    for session in archive.sessions:
        path = path_to(archive, session["head_id"])
        fields = [_raw(d) for row in path for d in (row["digest"], made.get(row["id"]))]
        if session["digest"] != _chained("niels-gpt session 1", *fields):
            yield f"the digest of session {session['name']!r} does not follow from its messages"


def path_to(archive: Archive, message_id: int | None) -> list[Row]:
    """Return the messages from the root to one, oldest first."""
    path: list[Row] = []
    while message_id is not None:
        path.append(archive.messages[message_id])
        message_id = path[-1]["parent_id"]
    return path[::-1]


def message_digest(row: Row, archive: Archive) -> str:
    """Return the digest of a message below its parent."""
    parent = None if row["parent_id"] is None else archive.messages[row["parent_id"]]["digest"]
    ids = b"" if row["token_ids"] is None else b"\x01" + _numbers(row["token_ids"])
    texts = (row[name].encode() for name in ("role", "status", "content"))
    return _chained("niels-gpt message 1", _raw(parent), *texts, ids)


def generation_digest(row: Row, archive: Archive) -> str:
    """Return the digest of how a reply was made."""
    logits = row["receipt"].get("logits_hash")
    return _chained(
        "niels-gpt generation 1",
        _raw(archive.messages[row["user_message_id"]]["digest"]),
        _raw(archive.messages[row["reply_id"]]["digest"]),
        archive.checkpoints[row["checkpoint_id"]]["fingerprint"].encode(),
        _numbers([row["seed"]]),
        _numbers([row["attempt"]]),
        _json(row["sampling"]),
        _numbers([row["max_new_tokens"]]),
        row["prompt_hash"].encode(),
        _numbers([row["trimmed_turns"]]),
        _numbers(row["forced_ids"]),
        row["finish_reason"].encode(),
        b"" if logits is None else _json(logits),
    )


def prompt_hash(ids: Sequence[int]) -> str:
    """Return the hash that stands for a prompt."""
    return hashlib.sha256(
        b"niels-gpt prompt 1\0" + b"".join(i.to_bytes(4, "little") for i in ids)
    ).hexdigest()


Turn = tuple[str, str]  # (role, content)


def prompt_ids(archive: Archive, generation: Row, template: Any, T: int) -> list[int]:
    """Return the prompt of a reply for a window of T tokens, under the context rule of its record."""
    rule = generation["environment"].get("context_rule", 1)
    if rule not in {1, 2, 3}:
        raise NotVerifiable(f"its prompt follows context rule {rule!r}, expected 1 to 3")
    *before, user = path_to(archive, generation["user_message_id"])
    keep_stopped = generation["sampling"].get("keep_stopped", True)
    exchanges, waiting = _exchanges(before, rule, keep_stopped=keep_stopped)
    system = ["", *(row["content"] for row in before if row["role"] == "system")][-1]
    head = [("system", system)] if system else []
    tail = [("user", "\n\n".join([*waiting, user["content"]]))]
    kept = [turn for exchange in exchanges[generation["trimmed_turns"] :] for turn in exchange]
    ids = template.prompt_ids([*head, *kept, *tail])
    most = generation["max_new_tokens"]
    limit, room = T - min(most, max(1, T // 16)), T - min(most, T // 4)
    if rule == 1 or len(ids) <= limit:
        return ids
    return ids[-(room if len(template.prompt_ids(tail)) <= room else limit) :]


def _exchanges(before: Sequence[Row], rule: int, *, keep_stopped: bool) -> tuple[list[list[Turn]], list[str]]:
    """Return the answered turns, and the questions that wait for an answer."""
    found: list[list[Turn]] = []
    questions: list[str] = []
    replies: list[str] = []
    answered = False
    for row in [*before, {"role": "user", "content": ""}]:
        if row["role"] == "user":
            if answered or rule == 1:
                if questions and replies:
                    found.append([("user", "\n\n".join(questions)), ("assistant", "\n\n".join(replies))])
                questions, replies, answered = [], [], False
            questions.append(row["content"])
        elif row["role"] == "assistant" and not (rule == 1 and answered):
            answered = True
            if row["content"].strip() and (keep_stopped or row["status"] != "cancelled"):
                replies.append(row["content"])
    return found, questions[:-1]


class Template:
    """Turns messages into prompt ids, and ids into text."""

    stop_sequences: tuple[bytes, ...] = ()

    def __init__(self, tokenizer_json: str | None) -> None:
        if tokenizer_json is None:
            self.stop_ids: frozenset[int] = frozenset()
            self.banned: frozenset[int] = frozenset()
            self.stop_sequences = tuple(f"\n{role}: ".encode() for role in ROLES)
            self._pieces = [bytes([byte]) for byte in range(256)]
            return
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.encode_special_tokens = True
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        if not {"<|sys|>", "<|usr|>", "<|asst|>", "<|eot|>"} <= vocab.keys():
            raise NotVerifiable("the tokenizer has no role tokens")
        self._role = {"system": vocab["<|sys|>"], "user": vocab["<|usr|>"], "assistant": vocab["<|asst|>"]}
        self._eot = vocab["<|eot|>"]
        self.stop_ids, self.banned = frozenset({self._eot}), frozenset(self._role.values())
        letters = byte_of_letter()
        control = {self._eot, *self._role.values()}
        self._pieces = [b""] * len(vocab)
        for piece, token_id in vocab.items():
            if token_id not in control:
                self._pieces[token_id] = bytes(letters[letter] for letter in piece)

    def prompt_ids(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Return the ids of the messages up to where the reply begins."""
        if self.stop_sequences:
            forged = re.compile(rf"\n(?=(?:{'|'.join(ROLES)}): )")
            text = "".join(f"{role}: " + forged.sub("\n ", content) + "\n" for role, content in messages)
            return list((text + "assistant: ").encode())
        ids: list[int] = []
        for role, content in messages:
            ids += [self._role[role], *self.encoded(content), self._eot]
        return [*ids, self._role["assistant"]]

    def encoded(self, text: str) -> list[int]:
        """Return the ids of a plain text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def text(self, ids: Sequence[int]) -> tuple[str, bool]:
        """Return the text of a reply up to its first stop sequence, and whether there was one."""
        whole = b"".join(self._pieces[token_id] for token_id in ids)
        ends = [at for stop in self.stop_sequences if (at := whole.find(stop)) >= 0]
        return whole[: min(ends, default=None)].decode("utf-8", errors="replace"), bool(ends)


def byte_of_letter() -> dict[str, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = enumerate(sorted(set(range(256)) - set(printable)))
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in others}


def _chained(scheme: str, *fields: bytes) -> str:
    chain = hashlib.sha256()
    for each in (scheme.encode(), *fields):
        chain.update(len(each).to_bytes(8, "big") + each)
    return chain.hexdigest()


def _raw(digest: str | None) -> bytes:
    return bytes.fromhex(digest or "")


def _numbers(numbers: Sequence[int]) -> bytes:
    return b"".join(each.to_bytes(8, "big", signed=True) for each in numbers)


def _json(value: Mapping[str, Any] | str) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

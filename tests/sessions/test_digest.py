"""The digest that stands for a conversation: chained, unambiguous, the same on every machine."""

from __future__ import annotations

import hashlib
import struct

import pytest

from sessions.digest import message_digest

BASE = {"parent": None, "role": "user", "content": "hi", "status": "complete", "token_ids": None}


def test_the_digest_is_the_documented_one():
    parent = "ab" * 32
    stream = b"".join(
        struct.pack(">Q", len(field)) + field
        for field in (
            b"niels-gpt message 1",
            bytes.fromhex(parent),
            b"assistant",
            b"cancelled",
            "é\0".encode(),
            b"\x01" + struct.pack(">QQ", 5, 2**63 - 1),
        )
    )
    found = message_digest(
        parent=parent, role="assistant", status="cancelled", content="é\0", token_ids=[5, 2**63 - 1]
    )
    assert found == hashlib.sha256(stream).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"parent": "00" * 32},
        {"role": "system"},
        {"content": "hi "},
        {"status": "cancelled"},
        {"token_ids": []},
        {"token_ids": [0]},
        {"role": "use", "content": "rhi"},
    ],
)
def test_any_change_changes_the_digest(change):
    assert message_digest(**{**BASE, **change}) != message_digest(**BASE)


def test_messages_with_the_same_words_in_two_sessions_have_the_same_digest(store, exchange):
    digests = []
    for name in ("one", "two"):
        session = store.create_session(name, seed=len(name), system="be brief", settings={})
        exchange(store, session, "hi", "hello")
        path = store.path(session.id)
        digests.append([message.digest for message in path])
        assert path[2].digest == message_digest(
            parent=path[1].digest,
            role="assistant",
            status="complete",
            content="hello",
            token_ids=list(b"hello"),
        )
    assert digests[0] == digests[1]

"""Read the `conversations.json` of a ChatGPT data export, branches included.

Each conversation is a tree of nodes (`mapping`) with a current node (`current_node`). Nodes without text for
a person (tools and calls of them, hidden messages, thoughts, pictures) are left out and counted, and their
children move up to their parents.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import cast

from sessions.formats.builder import (
    Draft,
    clean_name,
    one_for_each_record,
    room_for_message,
    session_of,
)
from sessions.formats.errors import quoted
from sessions.formats.field_validation import Fields
from sessions.formats.json_reader import Source
from sessions.records import Role, SessionArchive

_ROLES: dict[str, Role | None] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": None,
}
_TEXTS = ("text", "multimodal_text")
_SOUNDS = ("audio_asset_pointer", "real_time_user_audio_video_asset_pointer")
"""Recordings; their text is a separate part next to them."""
_TITLE_BYTES = 1 << 16
_ID_BYTES = 1 << 10


def is_chatgpt(first: Fields) -> bool:
    """Return whether the first record of a file is a conversation of a ChatGPT export."""
    return isinstance(first.values.get("mapping"), dict)


def read(source: Source) -> Iterator[SessionArchive]:
    """Return the conversations. Raises ImportRefused for the first unexpected field."""
    return one_for_each_record(source, partial(_session, source))


def _session(source: Source, conversation: Fields, fallback: str) -> SessionArchive | None:
    created = conversation.seconds_or_none("create_time") or source.now
    mapping = conversation.inner("mapping")
    # The message of each node in our tree: its own, or for a node that is left out its parent's.
    stands: dict[str, str | None] = {}
    drafts: list[Draft] = []
    for key, parent, node in _parents_first(mapping):
        above = None if parent is None else stands[parent]
        said = _said(node, source)
        if said is None:
            stands[key] = above
            continue
        room_for_message(node, len(drafts))
        role, content, message = said
        moment = message.seconds_or_none("create_time") or created
        drafts.append(Draft(key=key, parent=above, role=role, content=content, created=moment))
        stands[key] = key
    head = _head(conversation, stands, drafts)
    name = clean_name(conversation.text_or_none("title", most=_TITLE_BYTES), fallback)
    if not drafts:
        source.leave_out("sessions without messages", where=conversation.where)
        return None
    return session_of(name, drafts, head=head, created=created)


def _parents_first(mapping: Fields) -> Iterator[tuple[str, str | None, Fields]]:
    """Yield each node's id, its parent's and the node; refuse nodes that are not a tree."""
    children: dict[str | None, list[str]] = {}
    nodes: dict[str, Fields] = {}
    for key in mapping.values:
        node = mapping.inner(key)
        parent = node.text_or_none("parent", most=_ID_BYTES)
        if parent is not None and parent not in mapping.values:
            node.refuse("parent", f"{quoted(parent)} is not a node of this conversation")
        nodes[key] = node
        children.setdefault(parent, []).append(key)
    reached = 0
    waiting = [(key, None) for key in reversed(children.get(None, []))]
    while waiting:
        key, parent = waiting.pop()
        reached += 1
        yield key, parent, nodes[key]
        waiting += [(child, key) for child in reversed(_in_order(nodes[key], children.get(key, [])))]
    if reached < len(nodes):
        mapping.refuse("", f"{len(nodes) - reached} nodes are their own ancestors: a circle of parents")


def _in_order(node: Fields, children: list[str]) -> list[str]:
    """Return the children in the order given by the node, followed by those that it does not list."""
    listed = node.items("children") if node.has("children") else []
    order = {key: number for number, key in enumerate(listed) if isinstance(key, str)}
    return sorted(children, key=lambda key: order.get(key, len(order)))


def _said(node: Fields, source: Source) -> tuple[Role, str, Fields] | None:
    """Return role and text of a node's message, and the message; None, and count it, if it is left out."""
    if not node.has("message"):
        return None  # the root of every conversation
    message = node.inner("message")
    role = _ROLES[message.inner("author").one_of("role", _ROLES)]
    kind = _kind_left_out(message, role)
    if kind is None:
        content = message.inner("content")
        text = _text(content, source) if content.has("parts") else ""
        if text.strip():
            return cast("Role", role), text, message
        # Each conversation begins with an empty, generated system message.
        kind = "" if role == "system" else "messages without text"
    if kind:
        source.leave_out(kind, where=f"{message.where}, {message.path.rstrip('.')}")
    return None


def _kind_left_out(message: Fields, role: Role | None) -> str | None:
    """Return the plural name of a message's kind if it is to be left out; None if it is imported."""
    if role is None:
        return "messages of tools"
    if message.has("recipient") and message.values["recipient"] != "all":
        return "calls of tools"
    if _is_hidden(message):
        return "hidden messages"
    if not message.has("content"):
        return "messages without text"
    kind = message.inner("content").value("content_type")
    if kind in _TEXTS:
        return None
    return "thoughts" if kind in {"thoughts", "reasoning_recap"} else "messages of other kinds"


def _is_hidden(message: Fields) -> bool:
    metadata = message.values.get("metadata")
    if not isinstance(metadata, dict):
        return False
    return bool(cast("dict[str, object]", metadata).get("is_visually_hidden_from_conversation"))


def _text(content: Fields, source: Source) -> str:
    """Return the text of a message's parts, transcripts included; count the other parts."""
    texts: list[str] = []
    for number, part in enumerate(content.items("parts")):
        place = f"parts[{number}]"
        if not isinstance(part, dict):
            texts.append(content.checked(place, part))
            continue
        values = content.inner_of(place, cast("object", part))
        kind = values.values.get("content_type")
        if kind == "audio_transcription":
            texts.append(values.text("text"))
        elif kind not in _SOUNDS:
            what = "pictures" if kind == "image_asset_pointer" else "parts of messages that are not text"
            source.leave_out(what, where=f"{content.where}, {content.path}{place}")
    return content.checked("parts", "\n".join(texts))


def _head(conversation: Fields, stands: dict[str, str | None], drafts: list[Draft]) -> str | None:
    key = conversation.text_or_none("current_node", most=_ID_BYTES)
    if key is not None and key not in stands:
        conversation.refuse("current_node", f"{quoted(key)} is not a node of this conversation")
    if key is not None:
        return stands[key]
    return str(drafts[-1].key) if drafts else None

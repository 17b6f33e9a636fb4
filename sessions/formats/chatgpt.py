"""Read the `conversations.json` of a ChatGPT data export, branches included.

Each conversation is a tree of nodes (`mapping`) and names the node that it stood at (`current_node`). What
has no text that a person would read (tools, their calls, hidden nodes, thoughts) is left out, and what stood
below it moves up. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator

from sessions.formats.builder import Draft, clean_name, room_for_message, session_of
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
_TITLE_BYTES = 1 << 16
_ID_BYTES = 1 << 10


def is_chatgpt(first: Fields) -> bool:
    """Return whether the first record of a file is a conversation of such an export."""
    return isinstance(first.values.get("mapping"), dict)


def read(source: Source) -> Iterator[SessionArchive]:
    """Yield the conversations. Raises ImportRefused for the first field that is not as expected."""
    for number, conversation in enumerate(source.records(), start=1):
        if number > source.limits.sessions:
            conversation.refuse("", f"is one too many: expected at most {source.limits.sessions:,} sessions")
        yield _session(conversation, source, f"{source.path.stem}-{number}")


def _session(conversation: Fields, source: Source, fallback: str) -> SessionArchive:
    created = conversation.seconds_or_none("create_time") or source.now
    mapping = conversation.inner("mapping")
    # Where each node's message stands in our tree: its own, or for what is left out its parent's.
    stands: dict[str, str | None] = {}
    drafts: list[Draft] = []
    for key, parent, node in _parents_first(mapping):
        above = None if parent is None else stands[parent]
        said = _said(node)
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
    return session_of(name, drafts, head=head, created=created)


def _parents_first(mapping: Fields) -> Iterator[tuple[str, str | None, Fields]]:
    """Yield each node's id, its parent's and the node; refuse what is no tree."""
    children: dict[str | None, list[str]] = {}
    nodes: dict[str, Fields] = {}
    for key in mapping.values:
        node = mapping.inner(key)
        parent = node.text_or_none("parent", most=_ID_BYTES)
        if parent is not None and parent not in mapping.values:
            node.refuse("parent", f"{quoted(parent)} is no node of this conversation")
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
        mapping.refuse("", f"{len(nodes) - reached} nodes stand above themselves: a circle of parents")


def _in_order(node: Fields, children: list[str]) -> list[str]:
    """Return the children in the order that the node tells, those that it does not name after them."""
    told = node.items("children") if node.has("children") else []
    order = {key: number for number, key in enumerate(told) if isinstance(key, str)}
    return sorted(children, key=lambda key: order.get(key, len(order)))


def _said(node: Fields) -> tuple[Role, str, Fields] | None:
    """Return role and text of a node's message, and the message; None for what a person does not read."""
    if not node.has("message"):
        return None
    message = node.inner("message")
    author = message.inner("author")
    role = _ROLES[author.one_of("role", _ROLES)]
    if role is None or not message.has("content") or _hidden(message):
        return None
    content = message.inner("content")
    if content.value("content_type") not in _TEXTS or not content.has("parts"):
        return None
    parts = [
        content.checked(f"parts[{number}]", part)
        for number, part in enumerate(content.items("parts"))
        # Pictures and sounds are objects; they lie in other files of the export.
        if not isinstance(part, dict)
    ]
    text = content.checked("parts", "\n".join(parts))
    return (role, text, message) if text.strip() else None


def _hidden(message: Fields) -> bool:
    if message.has("recipient") and message.values["recipient"] != "all":
        return True
    metadata = message.values.get("metadata")
    return isinstance(metadata, dict) and "is_visually_hidden_from_conversation" in metadata


def _head(conversation: Fields, stands: dict[str, str | None], drafts: list[Draft]) -> str | None:
    key = conversation.text_or_none("current_node", most=_ID_BYTES)
    if key is not None and key not in stands:
        conversation.refuse("current_node", f"{quoted(key)} is no node of this conversation")
    if key is not None:
        return stands[key]
    return str(drafts[-1].key) if drafts else None

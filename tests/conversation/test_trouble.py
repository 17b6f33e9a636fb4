"""Turns while another program holds the store, or has left it in an odd state."""

from __future__ import annotations

import itertools
from typing import Any

import anyio
import pytest

from niels_gpt.conversation import branching
from niels_gpt.conversation.conversation import Conversation, converse
from niels_gpt.conversation.errors import ChatError, NotStoredYet, SessionTrouble
from niels_gpt.conversation.session import ConversationSession
from sessions import Store, StoreLocked
from tests.conversation.conftest import interrupt

pytestmark = pytest.mark.anyio


class Lock:
    """Refuses one method of a store while it is held."""

    def __init__(self, store: Store, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = False
        real = getattr(store, method)

        def call(*arguments: Any, **values: Any) -> Any:
            if self.held:
                raise StoreLocked("the store is locked by another program")
            return real(*arguments, **values)

        monkeypatch.setattr(store, method, call)


async def test_a_reply_that_ends_while_the_store_is_locked_is_kept_and_stored_later(
    store: Store, scripted: Any, ear: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Lock(store, "finish_reply", monkeypatch)
    session = ConversationSession(store, name="a")
    async with converse(session, scripted(["hel", "lo"], ["refused"], ["again"])) as conversation:
        lock.held = True
        result = await conversation.send("hi", ear())
        assert not result.stored
        assert session.unsaved == "the store is locked by another program"
        # What was shown is on the path, and nothing else is stored before it.
        assert [message.content for message in session.messages[1:]] == ["hi", "hello"]
        with pytest.raises(NotStoredYet, match="the last reply is not stored yet"):
            await conversation.send("more", ear())
        lock.held = False
        await conversation.send("more", ear())
    assert session.unsaved is None
    texts = [message.content for message in store.path(store.session("a").id)]
    assert texts[1:] == ["hi", "hello", "more", "again"]
    assert session.messages == store.path(store.session("a").id)


async def test_a_failure_while_the_store_is_locked_is_stored_later_too(
    store: Store, scripted: Any, ear: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Lock(store, "fail_generation", monkeypatch)
    session = ConversationSession(store, name="a")
    async with converse(session, scripted(["!burnt"], ["fine"])) as conversation:
        lock.held = True
        with pytest.raises(ChatError, match="burnt"):
            await conversation.send("hi", ear())
        lock.held = False
        await conversation.send("more", ear())
    assert [each.status for each in store.generations(store.session("a").id)] == ["failed", "complete"]


async def test_a_cancelled_reply_shows_all_that_is_stored(store: Store, scripted: Any, ear: Any) -> None:
    heard = ear()
    session = ConversationSession(store, name="a")
    async with converse(session, scripted(itertools.repeat("la "))) as conversation:
        with anyio.CancelScope() as scope:
            heard._on_text = lambda _: scope.cancel()
            await conversation.send("sing", heard)
    assert scope.cancelled_caught
    assert "".join(heard.heard) == store.path(store.session("a").id)[-1].content


async def test_an_edit_that_the_store_refuses_leaves_the_question(
    store: Store, scripted: Any, ear: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = ConversationSession(store, name="a")
    async with converse(session, scripted()) as conversation:
        await conversation.send("hi", ear())
        head = store.session("a").head_id
        Lock(store, "begin_edit", monkeypatch).held = True
        with pytest.raises(SessionTrouble, match="locked"):
            await branching.edit(conversation, "other", ear())
    assert store.session("a").head_id == head
    assert session.messages[1].content == "hi"


async def test_an_interrupted_reply_with_damaged_settings_is_one_line_and_the_session_stays_usable(
    store: Store, scripted: Any, ear: Any
) -> None:
    session = ConversationSession(store, name="a")
    async with converse(session, scripted(["x"], ["y"])) as conversation:
        await conversation.send("hi", ear())
        interrupt(store, settings={"temperature": {"not": "a number"}})
        again = ConversationSession(store, name="a")
        await again.open()
        talk = Conversation(session=again, model=conversation.model, engine=conversation._engine)
        turn = await again.pending()
        assert turn is not None
        with pytest.raises(ChatError, match="settings of the reply are damaged"):
            await talk.finish_pending(turn, ear())
        assert await again.pending() is None
        await talk.send("next", ear())
    assert store.path(store.session("a").id)[-1].content == "y"


async def test_a_session_renamed_and_continued_elsewhere_is_found_by_its_id(
    store: Store, scripted: Any, ear: Any
) -> None:
    mine, other = (ConversationSession(store, name="a") for _ in range(2))
    async with converse(mine, scripted()) as talk, converse(other, scripted()) as elsewhere:
        await talk.send("hi", ear())
        await other.open()
        await elsewhere.send("there", ear())
        store.rename(store.session("a").id, "b")
        # A new session takes the old name: nothing may go into that one.
        store.create_session("a", seed=1, system=None, settings={})
        with pytest.raises(
            SessionTrouble, match=r"'a' is in use by another program \(it is called 'b' now\)"
        ):
            await talk.send("mine", ear())
        await talk.send("mine", ear())
    assert store.session("a").head_id is None
    assert [each.content for each in store.path(store.session("b").id) if each.role == "user"][-1] == "mine"


async def test_a_session_deleted_elsewhere_is_one_line(store: Store, scripted: Any, ear: Any) -> None:
    session = ConversationSession(store, name="a")
    async with converse(session, scripted()) as conversation:
        await conversation.send("hi", ear())
        store.archive(store.session("a").id)
        store.purge(store.session("a").id)
        with pytest.raises(SessionTrouble, match="'a' was deleted by another program"):
            await conversation.send("more", ear())


async def test_an_archived_session_is_refused_with_the_command_that_restores_it(store: Store) -> None:
    store.create_session("a", seed=1, system=None, settings={})
    store.archive(store.session("a").id)
    with pytest.raises(SessionTrouble, match="'a' is archived: run niels-chat restore a, or choose"):
        await ConversationSession(store, name="a").open()


async def test_what_undo_left_comes_back_and_any_message_can_be_continued(
    store: Store, scripted: Any, ear: Any
) -> None:
    session = ConversationSession(store, name="a")
    async with converse(session, scripted(["1"], ["2"])) as conversation:
        await conversation.send("one", ear())
        await conversation.send("two", ear())
        whole = list(session.messages)
        await branching.undo(session)
        await branching.undo(session)
        await branching.redo(session)
        assert session.messages == whole[:3]
        await branching.redo(session)
        assert session.messages == whole
        await session.reset()
        await branching.redo(session)
        assert session.messages == whole
        assert (await branching.goto(session, whole[2].id)).content == "1"
        with pytest.raises(SessionTrouble, match="no message 999"):
            await branching.goto(session, 999)
        with pytest.raises(SessionTrouble, match="nothing to redo"):
            await branching.redo(ConversationSession(store))

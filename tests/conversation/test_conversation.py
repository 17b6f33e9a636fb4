"""Whole turns on a real store with a scripted model, on asyncio and on trio."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from niels_gpt.conversation import branching
from niels_gpt.conversation.conversation import Conversation, converse
from niels_gpt.conversation.errors import MessageTooLong, ReplyFailed, SessionTrouble
from niels_gpt.conversation.session import ConversationSession
from niels_gpt.conversation.settings import Settings
from niels_gpt.rng import reply_seed
from niels_gpt.text.system_prompt import DEFAULT_SYSTEM_PROMPT
from sessions import SessionNotFound, Store
from tests.conversation.conftest import interrupt

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def talking(
    store: Store, model: Any, **values: Any
) -> AsyncIterator[tuple[ConversationSession, Conversation]]:
    with anyio.fail_after(20):
        session = ConversationSession(store, **values)
        await session.open()
        await session.adopt()
        async with converse(session, model) as conversation:
            yield session, conversation


def texts(store: Store, name: str) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in store.path(store.session(name).id)]


async def test_a_turn_is_heard_piece_by_piece_and_then_stored(store: Store, scripted: Any, ear: Any) -> None:
    listener = ear()
    async with talking(store, scripted(["hel", "lo"]), name="a") as (session, conversation):
        reply = await conversation.send("hi", listener)
        assert listener.heard == ["hel", "lo"]
        assert (reply.message.content, reply.reason) == ("hello", "stop")
        assert texts(store, "a") == [
            ("system", DEFAULT_SYSTEM_PROMPT),
            ("user", "hi"),
            ("assistant", "hello"),
        ]
        assert session.messages == store.path(store.session("a").id)


async def test_the_message_is_durable_before_the_first_piece(store: Store, scripted: Any, ear: Any) -> None:
    seen: list[Any] = []

    def look(delta: str) -> None:
        pending = store.pending(store.session("a").id)
        assert pending is not None
        seen.append((pending.user.content, pending.generation.status))

    async with talking(store, scripted(["x"]), name="a") as (_, conversation):
        await conversation.send("hi", ear(look))
    assert seen == [("hi", "pending")]


async def test_what_decides_the_reply_is_stored_with_it(store: Store, scripted: Any, ear: Any) -> None:
    model = scripted(["x"], ["y"])
    async with talking(store, model, name="a", settings={"seed": 7, "top_p": 0.5}) as (_, conversation):
        await conversation.send("one", ear())
        await conversation.send("two", ear())
    first, second = store.generations(store.session("a").id)
    # The replies stand at positions 2 and 4 of the path.
    assert (
        [first.seed, second.seed]
        == [reply_seed(7, 2, 0), reply_seed(7, 4, 0)]
        == [request.seed for request in model.requests]
    )
    decided = Settings(top_p=0.5).stored()
    assert decided.pop("max_new_tokens") == first.max_new_tokens == 256
    assert first.sampling == decided
    assert (first.attempt, first.status) == (0, "complete")
    assert first.receipt == {"path": "script"}
    assert first.timings is not None
    assert set(first.timings) == {"queued", "first_token", "total"}
    assert first.prompt_hash != second.prompt_hash


async def test_without_a_message_no_session_is_made(store: Store, scripted: Any) -> None:
    async with talking(store, scripted(), name="a") as (session, _):
        await session.change("temperature", 0.0)
        await session.set_system("other")
        await session.reset()
    with pytest.raises(SessionNotFound):
        store.session("a")


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("What is RoPE, and why?", "what-is-rope-and-why"),
        ("hi\nsecond line", "hi"),
        ("Über_straße: 日本語で", "über-straße-日本語で"),
        ("word " * 20, "word-word-word-word-word-word-word-word"),
        ("w" * 50, "w" * 40),
        ("?!", "chat-2026-11-21"),
    ],
)
async def test_a_session_without_a_name_is_called_by_its_first_words(
    message: str, title: str, store: Store, scripted: Any, ear: Any
) -> None:
    names = []
    for _ in range(3):
        async with talking(store, scripted(), now=lambda: datetime(2026, 11, 21, tzinfo=UTC)) as (
            session,
            conversation,
        ):
            await conversation.send(message, ear())
            names.append(session.name)
    assert names == [title, f"{title}-2", f"{title}-3"]


async def test_a_cancelled_reply_keeps_what_was_said(store: Store, scripted: Any, ear: Any) -> None:
    with anyio.CancelScope() as scope:
        stop = itertools.count(1)
        listener = ear(lambda delta: scope.cancel() if next(stop) == 3 else None)
        async with talking(store, scripted(itertools.repeat("la ")), name="a") as (_, conversation):
            await conversation.send("sing", listener)
    assert scope.cancelled_caught
    reply = store.path(store.session("a").id)[-1]
    assert (reply.role, reply.status) == ("assistant", "cancelled")
    assert reply.content.startswith("la la la ")
    assert len(reply.token_ids or ()) * 3 == len(reply.content)
    assert store.pending(store.session("a").id) is None


async def test_after_a_cancelled_reply_the_conversation_goes_on_with_it(
    store: Store, scripted: Any, ear: Any
) -> None:
    async with talking(store, scripted(itertools.repeat("la "), ["ok"]), name="a") as (session, conversation):
        with anyio.CancelScope() as scope:
            await conversation.send("sing", ear(lambda delta: scope.cancel()))
        reply = await conversation.send("thanks", ear())
        assert reply.message.content == "ok"
        assert [message.status for message in session.messages] == [
            "complete",
            "complete",
            "cancelled",
            "complete",
            "complete",
        ]
        assert session.messages == store.path(store.session("a").id)


async def test_a_listener_that_breaks_ends_the_reply_as_cancelled(
    store: Store, scripted: Any, ear: Any
) -> None:
    def gone(delta: str) -> None:
        raise BrokenPipeError

    async with talking(store, scripted(itertools.repeat("la ")), name="a") as (_, conversation):
        with pytest.raises(BrokenPipeError):
            await conversation.send("sing", ear(gone))
    assert store.path(store.session("a").id)[-1].status == "cancelled"


async def test_a_failed_reply_keeps_the_message_and_the_next_turn_works(
    store: Store, scripted: Any, ear: Any
) -> None:
    model = scripted(["a", "!burnt"], ["fine"])
    async with talking(store, model, name="a") as (_, conversation):
        with pytest.raises(ReplyFailed, match="RuntimeError: !burnt"):
            await conversation.send("one", ear())
        await conversation.send("two", ear())
    assert texts(store, "a")[1:] == [("user", "one"), ("user", "two"), ("assistant", "fine")]
    assert [generation.status for generation in store.generations(store.session("a").id)] == [
        "failed",
        "complete",
    ]
    # The unanswered message stands before the second one, in the same turn.
    words = len(DEFAULT_SYSTEM_PROMPT.split())
    assert len(model.requests[1].prompt_ids) == 1 + words + 1 + 2


async def test_a_message_that_is_too_long_stores_nothing(store: Store, scripted: Any, ear: Any) -> None:
    async with talking(store, scripted(context_length=64), name="a") as (_, conversation):
        with pytest.raises(MessageTooLong):
            await conversation.send("word " * 64, ear())
    with pytest.raises(SessionNotFound):
        store.session("a")


async def test_dropped_turns_are_announced_once_for_each_number(
    store: Store, scripted: Any, ear: Any
) -> None:
    model = scripted(*[["word " * 8]] * 6, context_length=64)
    listener = ear()
    async with talking(store, model, name="a", system="s", settings={"max_new_tokens": 8}) as (
        _,
        conversation,
    ):
        for _ in range(6):
            await conversation.send("question", listener)
    assert listener.dropped == [3]  # 11 ids a turn: five fit into 56, and a step is 24
    assert [each.trimmed_turns for each in store.generations(store.session("a").id)] == [0, 0, 0, 0, 0, 3]


async def test_a_resumed_session_brings_its_settings_unless_a_flag_overrides_them(
    store: Store, scripted: Any, ear: Any
) -> None:
    flags = {"temperature": 0.3, "seed": 5, "top_k": None}
    async with talking(store, scripted(), name="a", settings=flags, system="first") as (_, conversation):
        await conversation.send("hi", ear())
    model = scripted(["again"])
    async with talking(store, model, name="a", settings={"top_k": 9}, system="second") as (
        session,
        conversation,
    ):
        assert (session.settings.temperature, session.settings.seed, session.settings.top_k) == (0.3, 5, 9)
        assert session.system == "second"
        await conversation.send("more", ear())
    assert [role for role, _ in texts(store, "a")] == [
        "system",
        "user",
        "assistant",
        "system",
        "user",
        "assistant",
    ]
    # The last system prompt stands first, the earlier one nowhere.
    assert model.requests[0].prompt_ids[:3] == (len("system"), len("second"), len("user"))


async def test_commands_of_a_resumed_session_are_stored_at_once(
    store: Store, scripted: Any, ear: Any
) -> None:
    async with talking(store, scripted(), name="a") as (session, conversation):
        await conversation.send("hi", ear())
        await session.change("seed", 99)
        await session.change("top_p", 0.5)
        await session.reset()
        assert [message.role for message in session.messages] == ["system"]
    session = store.session("a")
    assert (session.seed, session.settings["top_p"]) == (99, 0.5)
    assert texts(store, "a") == [("system", DEFAULT_SYSTEM_PROMPT)]


async def test_an_empty_system_prompt_is_none_at_all(store: Store, scripted: Any, ear: Any) -> None:
    async with talking(store, scripted(), name="a", system="") as (session, conversation):
        await conversation.send("hi", ear())
        assert session.system is None
    assert texts(store, "a") == [("user", "hi"), ("assistant", "ok")]
    assert store.generations(store.session("a").id)[0].seed == reply_seed(42, 1, 0)


async def begun(store: Store, scripted: Any, ear: Any) -> str:
    """Hold a first turn, and return the hash that the prompt of "two" has."""
    async with talking(store, scripted(["x"], ["y"]), name="probe") as (_, conversation):
        await conversation.send("one", ear())
        await conversation.send("two", ear())
    async with talking(store, scripted(["x"]), name="a") as (_, conversation):
        await conversation.send("one", ear())
    return store.generations(store.session("probe").id)[1].prompt_hash


async def test_an_interrupted_reply_is_finished_as_it_would_have_been(
    store: Store, scripted: Any, ear: Any
) -> None:
    recorded = {"seed": 1234, "max_new_tokens": 77, "prompt_hash": await begun(store, scripted, ear)}
    interrupt(store, settings={"temperature": 0.125}, **recorded)
    model = scripted(["late"])
    async with talking(store, model, name="a") as (session, conversation):
        turn = await session.pending()
        assert turn is not None
        reply = await conversation.finish_pending(turn, ear())
        assert await session.pending() is None
        assert session.messages == store.path(store.session("a").id)
    assert reply.message.content == "late"
    (request,) = model.requests
    assert (request.seed, request.sampling.temperature, request.max_new_tokens) == (1234, 0.125, 77)
    assert [generation.status for generation in store.generations(store.session("a").id)] == ["complete"] * 2


async def test_under_another_checkpoint_the_interrupted_reply_is_the_next_attempt(
    store: Store, scripted: Any, ear: Any
) -> None:
    recorded = {"seed": 1234, "max_new_tokens": 77, "prompt_hash": await begun(store, scripted, ear)}
    interrupt(store, settings={"temperature": 0.125}, **recorded)
    model = scripted(["late"], fingerprint="f2")
    async with talking(store, model, name="a") as (session, conversation):
        turn = await session.pending()
        assert turn is not None
        await conversation.finish_pending(turn, ear())
    _, given_up, redone = store.generations(store.session("a").id)
    assert (given_up.status, redone.status, redone.attempt) == ("failed", "complete", 1)
    assert redone.seed == model.requests[0].seed == reply_seed(42, 4, 1)
    assert texts(store, "a")[-1] == ("assistant", "late")


async def test_two_programs_in_one_session_do_not_interleave(store: Store, scripted: Any, ear: Any) -> None:
    async with talking(store, scripted(), name="a") as (_, first):
        await first.send("hi", ear())
        async with talking(store, scripted(), name="a") as (_, second):
            await second.send("mine", ear())
        with pytest.raises(SessionTrouble, match="in use by another program"):
            await first.send("late", ear())
        await first.send("again", ear())
    assert [content for role, content in texts(store, "a") if role == "user"] == ["hi", "mine", "again"]


async def test_what_the_store_refuses_is_one_line(store: Store, scripted: Any, ear: Any) -> None:
    async with talking(store, scripted(), name="a") as (_, conversation):
        with pytest.raises(SessionTrouble, match="lone surrogate"):
            await conversation.send("half a \ud800", ear())


async def test_earlier_replies_in_the_same_place_are_examples_for_a_retry_and_an_edit(
    store: Store, scripted: Any, ear: Any
) -> None:
    model = scripted(["one"], ["two"], ["three"], ["four"], drafts=True)
    async with talking(store, model, name="a") as (_, conversation):
        await conversation.send("hi", ear())
        await branching.retry(conversation, ear())
        await branching.edit(conversation, "hello", ear())
        await conversation.send("and then?", ear())
    drawn = (1, 0)  # a piece, and the end
    assert [request.examples for request in model.requests] == [(), (drawn,), (drawn, drawn), ()]


async def test_a_model_that_reads_no_drafts_gets_no_examples(store: Store, scripted: Any, ear: Any) -> None:
    model = scripted(["one"], ["two"])
    async with talking(store, model, name="a") as (_, conversation):
        await conversation.send("hi", ear())
        await branching.retry(conversation, ear())
    assert [request.examples for request in model.requests] == [(), ()]

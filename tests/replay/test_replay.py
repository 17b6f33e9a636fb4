"""Replays of what was recorded as it should be: every kind of reply comes out again, to the bit."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from niels_gpt.chat_cli import run_chat_cli
from niels_gpt.cli.exit_codes import STATUS_OF_VERDICT
from niels_gpt.conversation import branching
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.decoding.backend import Backend
from niels_gpt.replay.compare import compare_session
from niels_gpt.replay.playback import play
from niels_gpt.replay.replay import Replay, replay
from niels_gpt.text.detokenizer import Detokenizer
from sessions import Message, open_store
from tests.replay.recordings import Ear, loaded, talking

Replayed = Callable[..., Replay]


def kinds(found: Replay) -> list[str]:
    return [verdict.kind for verdict in found.verdicts]


def test_every_turn_of_a_path_comes_out_again_to_the_bit(replayed: Replayed) -> None:
    found = replayed()
    assert kinds(found) == ["exact"] * 6
    assert (found.kind, found.faults, STATUS_OF_VERDICT[found.kind]) == ("exact", (), 0)


def test_the_recording_has_what_makes_a_replay_hard(replayed: Replayed) -> None:
    questions = replayed().questions
    assert any(question.was_cancelled and question.tokens for question in questions)
    assert any(question.recorded.generation.trimmed_turns for question in questions)
    assert any(question.recorded.generation.finish_reason == "length" for question in questions)
    assert {question.recorded.generation.attempt for question in questions} == {0, 1}


def test_replies_off_the_path_are_replayed_if_asked_for(replayed: Replayed) -> None:
    assert kinds(replayed(every_branch=True)) == ["exact"] * 7


def test_a_fork_replays_with_the_turns_that_it_shares(replayed: Replayed) -> None:
    found = replayed("talk at 7")
    assert kinds(found) == ["exact"] * 6
    forced = found.questions[-1].recorded.generation.forced_ids
    assert forced == replayed().questions[-1].recorded.reply.token_ids[:7]  # type: ignore[index]


def test_the_event_loop_stays_free_while_a_checkpoint_loads(store_path: Path, checkpoint: Path) -> None:
    is_free = threading.Event()

    def load(options: ChatOptions) -> Backend:
        assert is_free.wait(20)
        return loaded(options.checkpoint)

    async def both() -> Replay:
        asyncio.get_running_loop().call_soon(is_free.set)
        options = ChatOptions(checkpoint=checkpoint, checkpoint_given=True)
        return await replay(store, "talk", options, load, turn=1)

    with open_store(store_path) as store:
        assert anyio.run(both).kind == "exact"


def test_one_turn_can_be_replayed_alone(replayed: Replayed) -> None:
    found = replayed(turn=3)
    assert [(verdict.turn, verdict.kind) for verdict in found.verdicts] == [(3, "exact")]


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_the_batch_changes_nothing(replayed: Replayed, batch: int) -> None:
    assert kinds(replayed(batch=batch)) == ["exact"] * 6


def test_torch_gives_the_tokens_and_does_not_claim_the_bits(replayed: Replayed, checkpoint: Path) -> None:
    from niels_gpt.conversation.opening import open_model  # noqa: PLC0415
    from niels_gpt.decoding.torch_decoder import TorchDecoder  # noqa: PLC0415
    from tests.replay.recordings import integer_model  # noqa: PLC0415

    def load(options: Any) -> Backend:
        model = open_model(options)
        model.decoder = TorchDecoder(integer_model(T=320), model.tokenizer)
        return model

    found = replayed(load=load)
    assert set(kinds(found)) == {"tokens_only"}
    assert STATUS_OF_VERDICT[found.kind] == 0


def test_an_interrupted_reply_is_finished_to_the_bit(
    store_path: Path, damage: Callable[..., None], model: Backend
) -> None:
    """As if the program had been killed between the message and its reply, which are two transactions."""
    with open_store(store_path) as store:
        whole = store.recorded_turns(store.session("talk").id)[-1]
    damage("UPDATE session SET head_id = ? WHERE head_id = ?", whole.user.id, whole.reply.id)
    damage(
        "UPDATE generation SET status = 'pending', reply_id = NULL, finish_reason = NULL, receipt = NULL,"
        " timings = NULL, digest = NULL, finished = NULL WHERE id = ?",
        whole.generation.id,
    )
    damage("DELETE FROM message WHERE id = ?", whole.reply.id)

    async def resume() -> Message:
        with open_store(store_path) as store:
            async with talking(store, model, "talk") as conversation:
                return conversation.session.messages[-1]

    reply = anyio.run(resume)
    with open_store(store_path) as store:
        finished = store.recorded_turns(store.session("talk").id)[-1]
    assert (reply.token_ids, reply.digest) == (whole.reply.token_ids, whole.reply.digest)
    assert finished.generation.digest == whole.generation.digest
    for account in ("logits_hash", "smallest_margin", "reply_tokens"):
        assert (finished.generation.receipt or {})[account] == (whole.generation.receipt or {})[account]


def test_an_interrupted_fork_keeps_its_forced_tokens(
    store_path: Path, damage: Callable[..., None], model: Backend
) -> None:
    with open_store(store_path) as store:
        whole = store.recorded_turns(store.session("talk at 7").id)[-1]
    damage("UPDATE session SET head_id = ? WHERE head_id = ?", whole.user.id, whole.reply.id)
    damage("UPDATE generation SET status = 'pending', reply_id = NULL WHERE id = ?", whole.generation.id)
    damage("DELETE FROM message WHERE id = ?", whole.reply.id)

    async def resume() -> Message:
        with open_store(store_path) as store:
            async with talking(store, model, "talk at 7") as conversation:
                return conversation.session.messages[-1]

    assert anyio.run(resume).digest == whole.reply.digest


def test_a_fork_under_the_same_seed_goes_on_as_the_original_at_every_token(
    store_path: Path, model: Backend
) -> None:
    async def forks() -> list[Message]:
        replies = []
        with open_store(store_path) as store:
            turn = store.recorded_turns(store.session("talk").id)[-1]
            for kept in (0, 1, 11, 23):
                async with talking(store, model, "talk") as conversation:
                    prepared = await conversation.prepare(
                        turn.user,
                        session_seed=conversation.session.settings.seed,
                        attempt=turn.generation.attempt,
                        forced_ids=(turn.reply.token_ids or ())[:kept],
                    )
                    await conversation.session.fork(f"kept {kept}", at=turn.user.id)
                    replies.append((await conversation.again(prepared, Ear())).message)
            return [turn.reply, *replies]

    original, *forked = anyio.run(forks)
    assert [each.token_ids for each in forked] == [original.token_ids] * 4


def test_the_command_prints_a_verdict_a_turn_and_one_in_all(
    store_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--store", str(store_path), "--ckpt", str(checkpoint)]
    assert run_chat_cli(["replay", "talk", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:6]] == [["turn", str(n), "exact"] for n in range(1, 7)]
    assert lines[6].startswith("exact: 6 turns, ")
    assert run_chat_cli(["verify", "talk", "--store", str(store_path)]) == 0
    assert lines[7] == "digest " + capsys.readouterr().out.strip()


def test_programs_get_a_json_object_a_turn(
    store_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_chat_cli(["replay", "talk", "--json", "--store", str(store_path), "--ckpt", str(checkpoint)])
    *turns, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(turn["turn"], turn["verdict"]) for turn in turns] == [(n, "exact") for n in range(1, 7)]
    assert (summary["verdict"], summary["turns"], summary["faults"]) == ("exact", 6, [])


def test_without_its_checkpoint_a_session_is_unverifiable_and_says_why(
    store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[..., None]
) -> None:
    damage("UPDATE checkpoint SET path = ?, checksum = NULL", str(tmp_path / "gone.pt"))
    assert run_chat_cli(["replay", "talk", "--turn", "1", "--store", str(store_path)]) == 4
    out = capsys.readouterr().out
    assert "unverifiable" in out
    assert "gone.pt' does not exist" in out


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["replay", "nobody"], 1, "there is no session named 'nobody'"),
        (["replay", "talk", "--turn", "9"], 1, "there is no turn 9: the session has 6 answered turns"),
        (["replay", "talk", "--speed", "0"], 2, "a number above 0"),
        (["replay", "talk", "--batch", "none"], 2, "--batch"),
        (["why", "talk", "--turn", "1", "--token", "99"], 1, "there is no token 99"),
        (
            ["why", "talk", "--layer", "1"],
            2,
            "--layer 1 is shown only in a picture: add --html FILE or --svg",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(
    store_path: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    words: list[str],
    status: int,
    message: str,
) -> None:
    words = [*words, "--store", str(store_path), "--ckpt", str(checkpoint)]
    assert run_chat_cli(words) == status
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_watching_waits_as_long_as_it_took(replayed: Replayed) -> None:
    turn = replayed(turn=2).questions[0].recorded
    shown: list[str] = []
    waited: list[float] = []
    play(turn, speed=2.0, show=shown.append, wait=waited.append)
    assert "".join(shown) == turn.reply.content
    timings: Any = turn.generation.timings
    assert sum(waited) == pytest.approx(timings["total"] / 2)
    assert waited[0] == timings["first_token"] / 2


@pytest.mark.parametrize(
    ("timings", "waited"),
    [
        ({"first_token": 1.0, "total": 3.0}, [0.5, 0.25, 0.25, 0.25, 0.25]),
        ({"first_token": float("nan"), "total": 1e9}, [0.0, 75.0, 75.0, 75.0, 75.0]),
        (None, [0.0] * 5),
    ],
)
def test_playback_waits_for_the_first_word_and_shares_the_rest_among_the_words(
    replayed: Replayed, timings: dict[str, float] | None, waited: list[float]
) -> None:
    turn = replayed().questions[0].recorded
    turn = replace(
        turn,
        reply=replace(turn.reply, content="one two three four"),
        generation=replace(turn.generation, timings=timings),
    )
    shown: list[str] = []
    waits: list[float] = []
    play(turn, speed=2.0, show=shown.append, wait=waits.append)
    assert (shown, waits) == (["one ", "two ", "three ", "four"], waited)


def test_other_ways_lie_beside_the_ones_before(store_path: Path, model: Backend) -> None:
    async def branch() -> list[str]:
        with open_store(store_path) as store:
            async with talking(store, model, "talk") as conversation:
                record = conversation.session
                before = [message.id for message in record.messages]
                undone = await branching.undo(record)
                said = [undone.content, record.messages[-1].role]
                await branching.edit(conversation, "no, wait", Ear())
                found = await branching.variants(record)
                said += [each.user.content for each in found]
                await branching.choose(record, 1)
                said.append(str([message.id for message in record.messages] == before[:-2]))
                return said

    assert anyio.run(branch) == [
        "thank you", "assistant", "and then?", "and then?", "no, wait", "False",
    ]  # fmt: skip


def test_a_model_compared_with_its_own_replies_says_the_same(
    store_path: Path, model: Backend, damage: Callable[..., None], replayed: Replayed
) -> None:
    *_, stopped, last = (question.recorded for question in replayed().questions)
    damage(
        "UPDATE generation SET sampling = json_set(sampling, '$.temperature', -1) WHERE id = ?",
        last.generation.id,
    )
    with open_store(store_path) as store:
        cut = _held_back(model, stopped.reply.token_ids or ())
        damage(
            "UPDATE message SET content = ?, token_ids = ?, status = 'cancelled' WHERE id = ?",
            cut[0].replace("\x1a", "\x1a\x1a").replace("\0", "\x1a0"),  # as the store escapes NUL
            json.dumps(cut[1]),
            stopped.reply.id,
        )
        damage(
            "UPDATE generation SET status = 'cancelled', finish_reason = 'cancelled' WHERE id = ?",
            stopped.generation.id,
        )
        found = anyio.run(lambda: compare_session(store, "talk", model))
        one = anyio.run(lambda: compare_session(store, "talk", model, turn=2))
    assert [each.turn for each in found] == [1, 2, 3, 4, 5, 6]
    assert [each.same for each in found] == [True] * 5 + [False]
    assert [each.now for each in found[:5]] == [each.recorded for each in found[:5]]
    assert (found[5].now, found[5].pieces) == ("", ())
    assert "the settings of the reply are damaged" in found[5].failure
    assert found[1:2] == one


def _held_back(model: Backend, ids: Sequence[int]) -> tuple[str, list[int]]:
    """Cut a reply where its last bytes do not make a character yet; return its text and tokens."""
    for count in range(len(ids) - 1, 0, -1):
        text = Detokenizer(model.tokenizer.token_bytes, model.template.stop_sequences)
        said = "".join([text.push(token_id) for token_id in ids[:count]])
        if text.finish():
            return said, list(ids[:count])
    raise AssertionError("no token of this reply is held back")

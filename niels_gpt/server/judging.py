"""Replays and explanations over HTTP: the same functions as the commands', on this server's checkpoint.

A replay reads the store and decodes on a thread of its own, with a decoder of its own over the same weights,
so that running replies are not held up. No checkpoint is loaded because a session names it: replies of
another checkpoint are unverifiable here.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from niels_gpt.conversation.errors import ChatError, LoadFailed
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.decoding.torch_decoder import TorchDecoder
from niels_gpt.decoding.torch_recurrent_decoder import TorchStateDecoder
from niels_gpt.replay.explain import explain
from niels_gpt.replay.find_checkpoint import missing_parts
from niels_gpt.replay.reconstruct import ask, questions
from niels_gpt.replay.replay import Replay, replay
from niels_gpt.replay.report import turn_value
from niels_gpt.server.errors import ApiError, as_api_error
from niels_gpt.server.event_stream import Frames
from niels_gpt.server.forms import dumps
from sessions import Session, StoreError

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import Backend
    from niels_gpt.server.state import ServerState


def _second_decoder(model: Backend) -> Any:
    decoder = model.decoder
    if isinstance(decoder, TorchDecoder | TorchStateDecoder):
        return type(decoder)(decoder.model, model.tokenizer)  # pyright: ignore[reportArgumentType]
    from niels_gpt.decoding.kernel_decoder import KernelDecoder  # noqa: PLC0415 - Numba, which torch's users may lack

    return KernelDecoder(decoder.model, model.tokenizer, threads=1)


async def judge(state: ServerState, session: Session, frames: Frames, *, every_branch: bool) -> None:
    """Replay a session into frames: progress, a verdict for each turn, and a summary.

    A client that leaves waits out the replay, so that no more than one runs at a time.
    """
    loop = asyncio.get_running_loop()

    def on_progress(done: int, total: int) -> None:
        loop.call_soon_threadsafe(frames.append, dumps({"done": done, "of": total}), "progress")

    def load(options: ChatOptions) -> Any:
        if options.weights != state.options.chat.weights:
            raise LoadFailed(f"it was made with {options.weights} weights; this server has others")
        return replace(state.model, decoder=_second_decoder(state.model))

    async def work() -> Replay:
        return await replay(
            state.store,
            session.name,
            replace(state.options.chat, checkpoint_given=True),
            load,
            every_branch=every_branch,
            on_progress=on_progress,
        )

    try:
        async with state.judging:
            found = await anyio.to_thread.run_sync(partial(anyio.run, work))
    except (StoreError, ChatError) as error:
        frames.append(dumps(as_api_error(error).body()), "failed")
    else:
        for question, verdict in zip(found.questions, found.verdicts, strict=True):
            value = turn_value(verdict)
            reply = str(question.recorded.generation.id)
            frames.append(dumps({**value, "reply": reply, "message": question.recorded.reply.id}), "verdict")
        summary = {"kind": found.kind, "digest": found.digest, "faults": len(found.faults)}
        frames.append(dumps(summary), "summary")
    frames.close()


async def explained(state: ServerState, session: Session, reply_id: int) -> dict[str, Any]:
    """Return the tokens of a reply with their alternatives. Raises ApiError, ChatError."""
    model = state.model

    def work() -> dict[str, Any]:
        found = [
            each
            for each in questions(state.store, session, every_branch=True)
            if each.recorded.generation.id == reply_id
        ]
        if not found:
            raise ApiError(404, "the session's tree has no such reply", param="reply")
        made = state.store.checkpoint(found[0].recorded.generation.checkpoint_id)
        if missing_parts(made.parts, model):
            raise ApiError(409, "another checkpoint made this reply", code="fingerprint_mismatch")
        result = explain(model, ask(model, found[0]))
        return {
            "reply": str(reply_id),
            "same_bits": result.same_bits,
            "tokens": [
                {**asdict(step), "candidates": [asdict(each) for each in step.candidates]}
                for step in result.steps
            ],
        }

    return await anyio.to_thread.run_sync(work)

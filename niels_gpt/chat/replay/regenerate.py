"""Many replies side by side through the engine: no batch changes a bit, so a replay need not go in order.

A decoder that reads drafts gets a reply after the one whose beginning it shares, out of which it then copies;
once a draft turned out wrong, nothing waits any more. Knows no store and no verdicts: requests in, results
out. Runs on asyncio and trio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio

from engine import Engine, GenerationFailed, Result
from niels_gpt.chat.replay.order import forerunners

BATCH = 32
"""Replies generated together: beyond that the keys and values outgrow the cache of a common processor."""


async def regenerate(
    decoder: Any,
    requests: Sequence[Any],
    *,
    batch: int = BATCH,
    on_done: Callable[[int], None] = lambda _: None,
) -> list[Result | GenerationFailed]:
    """Return for each request what came of it, in order; `on_done` hears how many are done."""
    results: dict[int, Result | GenerationFailed] = {}
    done = [anyio.Event() for _ in requests]
    waits_for = forerunners(requests) if getattr(decoder, "reads_drafts", False) else [None] * len(requests)

    async def follow(index: int, request: Any) -> None:
        first = waits_for[index]
        if first is not None:
            await done[first].wait()
        try:
            results[index] = await engine.submit(request).result()
        except GenerationFailed as error:
            results[index] = error
        on_done(len(results))
        for each in done if not _as_drafted(results[index], request) else [done[index]]:
            each.set()

    # All of a session at once: the queue has to hold it.
    engine = Engine(decoder, max_batch=batch, max_queue=max(1, len(requests)))
    async with engine, anyio.create_task_group() as tasks:
        for index, request in enumerate(requests):
            tasks.start_soon(follow, index, request)
    return [results[index] for index in range(len(requests))]


def _as_drafted(result: Result | GenerationFailed, request: Any) -> bool:
    drafted = (*request.forced_ids, *request.draft_ids)
    return isinstance(result, Result) and tuple(result.token_ids[: len(drafted)]) == drafted

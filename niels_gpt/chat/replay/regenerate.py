"""Many replies side by side through the engine: no batch changes a bit, so a replay need not go in order.

Knows no store and no verdicts: requests in, results out. Runs on asyncio and trio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio

from engine import Engine, GenerationFailed, Result

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

    async def follow(index: int, request: Any) -> None:
        try:
            results[index] = await engine.submit(request).result()
        except GenerationFailed as error:
            results[index] = error
        on_done(len(results))

    # All of a session at once: the queue has to hold it.
    engine = Engine(decoder, max_batch=batch, max_queue=max(1, len(requests)))
    async with engine, anyio.create_task_group() as tasks:
        for index, request in enumerate(requests):
            tasks.start_soon(follow, index, request)
    return [results[index] for index in range(len(requests))]

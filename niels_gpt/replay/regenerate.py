"""Generate many replies side by side through the engine: no batch changes a bit, so any order will do.

A decoder that reads drafts gets a reply after the one whose beginning it shares, and copies out of that.
Once a draft turned out wrong, nothing waits any longer. Runs on asyncio and trio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio

from engine import Engine, GenerationFailed, Result
from niels_gpt.replay.schedule import forerunners

BATCH = 32
"""Replies generated together: beyond that the keys and values outgrow the cache of a common processor."""


async def regenerate(
    decoder: Any,
    requests: Sequence[Any],
    *,
    batch: int = BATCH,
    on_done: Callable[[int], None] = lambda _: None,
) -> list[Result | GenerationFailed]:
    """Return the result of each request, in order; `on_done` is called with how many are done."""
    results: dict[int, Result | GenerationFailed] = {}
    followers = _followers(requests) if getattr(decoder, "reads_drafts", False) else {}
    left = set(range(len(requests)))
    in_turn = set[int]().union(*followers.values())
    places = anyio.CapacityLimiter(batch)

    async def tell(begin: int) -> None:
        """Make a reply, and all that follow it while what they share is still held."""
        async with places:
            next_ones = [begin]
            while next_ones:
                index = next_ones.pop()
                if index not in left:
                    continue
                left.remove(index)
                try:
                    results[index] = await engine.submit(requests[index]).result()
                except GenerationFailed as error:
                    results[index] = error
                on_done(len(results))
                next_ones += reversed(followers.get(index, []))
                if in_turn and not _as_drafted(results[index], requests[index]):
                    in_turn.clear()
                    for each in sorted(left):
                        tasks.start_soon(tell, each)

    async with Engine(decoder, max_batch=batch) as engine, anyio.create_task_group() as tasks:
        for index in range(len(requests)):
            if index not in in_turn:
                tasks.start_soon(tell, index)
    return [results[index] for index in range(len(requests))]


def _followers(requests: Sequence[Any]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for index, first in enumerate(forerunners(requests)):
        if first is not None:
            found.setdefault(first, []).append(index)
    return found


def _as_drafted(result: Result | GenerationFailed, request: Any) -> bool:
    drafted = (*request.forced_ids, *request.draft_ids)
    return isinstance(result, Result) and tuple(result.token_ids[: len(drafted)]) == drafted

"""Generate many replies side by side through the engine: no batch changes a bit, so any order will do.

A decoder that reads drafts reads a whole reply in one pass. So it gets a reply after the one whose beginning
it shares, and copies out of that. Once a draft turned out wrong, nothing waits any longer. Runs on asyncio
and trio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from engine import Engine, GenerationFailed, Result

if TYPE_CHECKING:
    from niels_gpt.decoding.request import GenerationRequest

BATCH = 32
"""Replies generated together: beyond that the keys and values outgrow the cache of a common processor."""
_BLOCK = 16
_WORTH_WAITING = 2  # half of the prompt is known: less is read sooner than waited for


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


def forerunners(requests: Sequence[GenerationRequest]) -> list[int | None]:
    """Return for each request the earlier one that shares most of its prompt, or None if that is not much.

    Turns of one conversation share nearly all of their prompts, so side by side they would read the same
    tokens many times over.
    """
    seen: dict[int, int] = {}
    found: list[int | None] = []
    for index, request in enumerate(requests):
        beginnings = list(_beginnings((*request.prompt_ids, *request.forced_ids, *request.draft_ids)))
        length = len(request.prompt_ids)
        shared = next((n for n in range(length // _BLOCK, 0, -1) if beginnings[n - 1] in seen), 0)
        worth = shared and shared * _BLOCK * _WORTH_WAITING >= length
        found.append(seen[beginnings[shared - 1]] if worth else None)
        for beginning in beginnings:
            seen.setdefault(beginning, index)
    return found


def _beginnings(ids: Sequence[int]) -> Iterator[int]:
    """Yield hashes of the first block, the first two, and so on; equal ones by chance cost only speed."""
    beginning = 0
    for end in range(_BLOCK, len(ids) + 1, _BLOCK):
        beginning = hash((beginning, *ids[end - _BLOCK : end]))
        yield beginning

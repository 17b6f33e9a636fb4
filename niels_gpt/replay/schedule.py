"""Order the replies of a replay: one whose prompt begins with what another has read is made after it.

Turns of one conversation share nearly all of their prompts, so side by side they would read the same tokens
many times over. Only a decoder that reads drafts gains by waiting: for it a whole reply is one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from niels_gpt.decoding.request import GenerationRequest

_BLOCK = 16
_WORTH_WAITING = 2  # half of the prompt is known: less is read sooner than waited for


def forerunners(requests: Sequence[GenerationRequest]) -> list[int | None]:
    """Return for each request the earlier one that shares most of its prompt, or None if that is not much."""
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

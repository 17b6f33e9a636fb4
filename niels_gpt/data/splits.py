"""Split items into a training and a held-out part, deterministically."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def split_items(items: Sequence[Item], *, val_frac: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Return (train, val), each in the order given; the same arguments give the same split.

    From two items on, val has at least one unless `val_frac` is 0; train always keeps one.

    Raises:
        ValueError: The fraction is outside [0, 1).

    """
    if not 0.0 <= val_frac < 1.0:
        raise ValueError(f"val_frac is {val_frac!r}, expected a share in [0, 1)")
    order = list(range(len(items)))
    random.Random(f"split {seed}").shuffle(order)  # noqa: S311 - a reproducible split, nothing secret
    count = round(len(items) * val_frac)
    if val_frac > 0.0:
        count = max(1, count)
    held_out = set(order[: max(0, min(count, len(items) - 1))])
    train = [item for index, item in enumerate(items) if index not in held_out]
    val = [item for index, item in enumerate(items) if index in held_out]
    return train, val


def split_unique(
    items: Sequence[Item], *, key: Callable[[Item], Hashable], val_frac: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """Split like `split_items`, with items of equal `key` on the same side: nothing held out is learned.

    Where all items are equal, they are split as if they differed, so that val still has at least one.
    """
    different = list(dict.fromkeys(map(key, items)))
    if len(different) == 1:
        return split_items(items, val_frac=val_frac, seed=seed)
    held_out = set(split_items(different, val_frac=val_frac, seed=seed)[1])
    train = [item for item in items if key(item) not in held_out]
    val = [item for item in items if key(item) in held_out]
    return train, val

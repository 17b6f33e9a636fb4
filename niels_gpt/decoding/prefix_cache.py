"""The prefix cache: keys and values of prompts, reused by prompts that begin alike.

A position's keys and values depend on the tokens up to it and on nothing else, bit for bit, so a copy of them
equals reading the tokens again. States of ended replies are kept, and the least recently used are dropped
first once their bytes exceed the bound. States of running replies are pinned while they run, at no cost.

n tokens, L layers, H heads, D head width, E = D in whole vectors, S room of a state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from niels_gpt.kernels.gpt_layout import Shape
from niels_gpt.kernels.gpt_packing import new_state
from niels_gpt.kernels.processor import LANES, padded

NO_ID = -1  # after a row's tokens; not the id of any token

Ids = Sequence[int] | np.ndarray  # (n,)


@dataclass(frozen=True, eq=False)
class State:
    """Keys and values of a sequence, with room for `room` positions."""

    floats: np.ndarray
    room: int

    def copy_from(self, other: State, shape: Shape, first: int, last: int) -> None:
        """Take over positions `first` to `last` - 1 of another sequence with the same tokens."""
        (keys, values), (their_keys, their_values) = self._views(shape), other._views(shape)
        # Keys are in blocks of LANES positions; positions from `last` on are written before they are read.
        blocks = slice(first // LANES, -(-last // LANES))
        keys[:, :, blocks] = their_keys[:, :, blocks]
        values[:, :, :, first:last] = their_values[:, :, :, first:last]

    def _views(self, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
        """Keys (L, H, S / 16, D, 16) and values (L, H, E / 16, S, 16)."""
        L, KV, D, S = shape.L, shape.KV, shape.D, self.room
        layers = self.floats.reshape(L, -1)
        split = KV * S * D
        keys = layers[:, :split].reshape(L, KV, S // LANES, D, LANES)
        return keys, layers[:, split:].reshape(L, KV, padded(D) // LANES, S, LANES)


class PrefixCache:
    """States by the tokens that they hold, at most `most_bytes` of those that no reply is using."""

    def __init__(self, shape: Shape, *, most_bytes: int) -> None:
        self._shape = shape
        self._most_bytes = most_bytes
        self._ids = np.full((8, 64), NO_ID, np.int32)  # a row of tokens for each state
        self._free = list(range(8))
        self._states: dict[int, tuple[State, int]] = {}  # by row, with the number of its tokens
        self._kept: OrderedDict[int, int] = OrderedDict()  # bytes by row, least recently used first
        self.bytes = 0
        """Bytes of all kept states."""

    def __len__(self) -> int:
        return len(self._states)

    def longest(self, ids: np.ndarray) -> tuple[State | None, int]:
        """Find the state with the longest common beginning with ids (n,), and that beginning's length."""
        if not self._states:
            return None, 0
        lengths = self._common(ids)
        row = int(lengths.argmax())
        if row in self._kept:
            self._kept.move_to_end(row)
        return self._states.get(row, (None, 0))[0], int(lengths[row])

    def pin(self, ids: Ids, state: State) -> int:
        """Offer the positions of a running reply, which must not change; return the argument of `unpin`."""
        return self._add(ids, state)

    def unpin(self, row: int) -> None:
        """Withdraw a pinned state."""
        self._drop(row)

    def keep(self, ids: Ids, state: State) -> None:
        """Keep the state of an ended reply; ids (n,) are all tokens that it has read.

        A state that an existing entry already covers is skipped; entries that it covers are evicted. Mostly
        empty states are cut down first.
        """
        n = len(ids)
        if n == 0:
            return
        lengths = self._common(np.asarray(ids, np.int32))
        covering = [row for row in self._kept if lengths[row] == n]
        if covering:
            self._kept.move_to_end(covering[0])
            return
        for row in [row for row in self._kept if self._states[row][1] == lengths[row]]:
            self._drop(row)
        state = self._cut(state, n)
        if state.floats.nbytes > self._most_bytes:
            return
        while self.bytes + state.floats.nbytes > self._most_bytes:
            self._drop(next(iter(self._kept)))
        self._kept[self._add(ids, state)] = state.floats.nbytes
        self.bytes += state.floats.nbytes

    def _cut(self, state: State, n: int) -> State:
        if 2 * padded(n) > state.room:
            return state
        floats, room = new_state(self._shape, n)
        small = State(floats, room)
        small.copy_from(state, self._shape, 0, n)
        return small

    def _common(self, ids: np.ndarray) -> np.ndarray:
        """Return the length of the common prefix of each row (states,) with ids (n,)."""
        n = min(len(ids), self._ids.shape[1])
        same = self._ids[:, :n] == ids[:n]
        return np.where(same.all(1), n, same.argmin(1))

    def _add(self, ids: Ids, state: State) -> int:
        rows, width = self._ids.shape
        if not self._free or len(ids) > width:
            larger = np.full(
                (rows if self._free else 2 * rows, max(width, padded(len(ids)))), NO_ID, np.int32
            )
            larger[:rows, :width] = self._ids
            self._free += range(rows, len(larger))
            self._ids = larger
        row = self._free.pop()
        self._ids[row, : len(ids)] = ids
        self._states[row] = state, len(ids)
        return row

    def _drop(self, row: int) -> None:
        del self._states[row]
        self.bytes -= self._kept.pop(row, 0)
        self._ids[row] = NO_ID
        self._free.append(row)

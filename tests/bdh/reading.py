"""Token ids through the kernels in portions."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from niels_gpt.kernels.bdh import forward
from niels_gpt.kernels.bdh_packing import PackedBDH
from niels_gpt.kernels.gpt_layout import Rows


def step(packed: PackedBDH, memory, rows: Rows, parts: int = 1) -> np.ndarray:
    count = len(rows.ids)
    logits = np.full((count, packed.shape.head_row), np.nan, np.float32)

    def run(part: int) -> None:
        forward(
            packed.shape, packed.weights, memory.work, rows, np.arange(count), logits.ctypes.data, part, parts
        )

    if parts == 1:
        run(0)
    else:
        with ThreadPoolExecutor(parts) as threads:
            list(threads.map(run, range(parts)))
    return logits[:, : packed.shape.V]


def rows_of(ids: Sequence[int], at: int, state: np.ndarray) -> Rows:
    count = len(ids)
    return Rows(
        np.array(ids, np.int64),
        np.arange(at, at + count),
        np.full(count, state.ctypes.data),
        np.zeros(count, np.int64),
    )


def read(
    packed: PackedBDH, ids: list[int], portions: Sequence[int], *, parts: int = 1, dirt: float = 0.0
) -> np.ndarray:
    """Logits (t, V) of all tokens; the state begins filled with `dirt`."""
    assert sum(portions) == len(ids)
    state, _ = packed.new_state(len(ids))
    state[:] = dirt
    memory = packed.new_memory(rows=max(portions), room=0, parts=parts)
    at, out = 0, []
    for count in portions:
        out.append(step(packed, memory, rows_of(ids[at : at + count], at, state), parts))
        at += count
    return np.concatenate(out)

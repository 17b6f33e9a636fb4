"""The slab of keys and values: a row keeps its contents wherever it is moved, and leaves nothing behind."""

from __future__ import annotations

import random

import pytest
import torch

from niels_gpt.decoding.torch_kv_slab import KVSlab, Row


@pytest.fixture
def slab() -> KVSlab:
    return KVSlab(L=2, H=1, T=6, D=2, device=torch.device("cpu"), dtype=torch.float32)


def write(slab: KVSlab, rows: list[Row], values: list[float]) -> None:
    """Append one position to each of the rows, which lie side by side; v is the negative of k."""
    k, v, start = slab.extend(rows, 1)
    for i, value in enumerate(values):
        k[:, i, :, start[i]] = value
        v[:, i, :, start[i]] = -value


def contents(slab: KVSlab, row: Row) -> list[float]:
    k, v = slab._k[:, row.index], slab._v[:, row.index]
    assert torch.equal(k, -v)
    assert not k[:, :, row.length :].any()
    assert torch.equal(k, k[:1, :, :, :1].expand_as(k))
    return k[0, 0, : row.length, 0].tolist()


@pytest.mark.parametrize("seed", range(10))
def test_rows_keep_their_contents_through_any_life(slab: KVSlab, seed: int) -> None:
    chance = random.Random(seed)
    held: dict[Row, list[float]] = {}
    for step in range(1, 80):
        if len(held) < 6 and chance.random() < 0.4:
            held[slab.take()] = []
        if held and chance.random() < 0.2:
            gone = chance.choice(list(held))
            slab.free(gone)
            del held[gone]
        stepping = [row for row in held if row.length < 6 and chance.random() < 0.7]
        if stepping:
            slab.pack(stepping)
            stepping.sort(key=lambda row: row.index)
            assert [row.index for row in stepping] == list(range(len(stepping)))
            values = [float(100 * step + i) for i in range(len(stepping))]
            write(slab, stepping, values)
            for row, value in zip(stepping, values, strict=True):
                held[row].append(value)
        assert {row: contents(slab, row) for row in held} == held


def test_rows_that_lie_in_front_are_not_moved(slab: KVSlab) -> None:
    rows = [slab.take() for _ in range(4)]
    before = slab._k._version
    slab.pack([rows[2], rows[0], rows[1]])
    assert slab._k._version == before
    assert [row.index for row in rows] == [0, 1, 2, 3]


def test_one_gap_moves_one_row(slab: KVSlab) -> None:
    rows = [slab.take() for _ in range(4)]
    slab.free(rows[1])
    slab.pack([rows[0], rows[2], rows[3]])
    assert [rows[0].index, rows[2].index, rows[3].index] == [0, 2, 1]


def test_a_freed_row_is_zero(slab: KVSlab) -> None:
    row = slab.take()
    write(slab, [row], [float("nan")])
    slab.free(row)
    assert not slab._k.any()
    assert not slab._v.any()


def test_the_slab_doubles_when_all_rows_are_taken(slab: KVSlab) -> None:
    for _ in range(5):
        slab.take()
    assert slab._k.shape[1] == slab._v.shape[1] == 8

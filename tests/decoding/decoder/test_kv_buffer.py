"""The buffer of keys and values: a row keeps its contents wherever it is moved, and leaves nothing behind."""

from __future__ import annotations

import random

import pytest
import torch

from niels_gpt.decoding.torch_kv_buffer import KVBuffer, Row


@pytest.fixture
def buffer() -> KVBuffer:
    return KVBuffer(L=2, H=1, T=6, D=2, device=torch.device("cpu"), dtype=torch.float32)


def write(buffer: KVBuffer, rows: list[Row], values: list[float]) -> None:
    """Append one position to each of the rows, which lie side by side; v is the negative of k."""
    k, v, start = buffer.extend(rows, 1)
    for i, value in enumerate(values):
        k[:, i, :, start[i]] = value
        v[:, i, :, start[i]] = -value


def contents(buffer: KVBuffer, row: Row) -> list[float]:
    k, v = buffer._k[:, row.index], buffer._v[:, row.index]
    assert torch.equal(k, -v)
    assert not k[:, :, row.length :].any()
    assert torch.equal(k, k[:1, :, :, :1].expand_as(k))
    return k[0, 0, : row.length, 0].tolist()


@pytest.mark.parametrize("seed", range(10))
def test_rows_keep_their_contents_through_any_life(buffer: KVBuffer, seed: int) -> None:
    chance = random.Random(seed)
    held: dict[Row, list[float]] = {}
    for step in range(1, 80):
        if len(held) < 6 and chance.random() < 0.4:
            held[buffer.take()] = []
        if held and chance.random() < 0.2:
            gone = chance.choice(list(held))
            buffer.free(gone)
            del held[gone]
        stepping = [row for row in held if row.length < 6 and chance.random() < 0.7]
        if stepping:
            buffer.pack(stepping)
            stepping.sort(key=lambda row: row.index)
            assert [row.index for row in stepping] == list(range(len(stepping)))
            values = [float(100 * step + i) for i in range(len(stepping))]
            write(buffer, stepping, values)
            for row, value in zip(stepping, values, strict=True):
                held[row].append(value)
        assert {row: contents(buffer, row) for row in held} == held


def test_rows_that_lie_in_front_are_not_moved(buffer: KVBuffer) -> None:
    rows = [buffer.take() for _ in range(4)]
    before = buffer._k._version
    buffer.pack([rows[2], rows[0], rows[1]])
    assert buffer._k._version == before
    assert [row.index for row in rows] == [0, 1, 2, 3]


def test_one_gap_moves_one_row(buffer: KVBuffer) -> None:
    rows = [buffer.take() for _ in range(4)]
    buffer.free(rows[1])
    buffer.pack([rows[0], rows[2], rows[3]])
    assert [rows[0].index, rows[2].index, rows[3].index] == [0, 2, 1]


def test_a_freed_row_is_zero(buffer: KVBuffer) -> None:
    row = buffer.take()
    write(buffer, [row], [float("nan")])
    buffer.free(row)
    assert not buffer._k.any()
    assert not buffer._v.any()


def test_the_buffer_doubles_when_all_rows_are_taken(buffer: KVBuffer) -> None:
    for _ in range(5):
        buffer.take()
    assert buffer._k.shape[1] == buffer._v.shape[1] == 8

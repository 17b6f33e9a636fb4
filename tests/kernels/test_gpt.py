from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from niels_gpt.kernels.gpt import forward
from niels_gpt.kernels.gpt_layout import Rows
from niels_gpt.kernels.gpt_packing import StepMemory
from tests.kernels.models import SHAPES, Reader, build, read_in, step


def portions(total: int, size: int) -> list[int]:
    return [size] * (total // size) + ([total % size] if total % size else [])


def test_the_logits_are_those_of_the_torch_twin_in_float64(built, ids):
    found = read_in(built.packed, ids, [len(ids)])
    with torch.inference_mode():
        expected = copy.deepcopy(built.torch).double()(torch.tensor([ids]))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 31])
def test_a_prompt_in_chunks_gives_the_bits_of_the_whole(built, ids, size):
    whole = read_in(built.packed, ids, [len(ids)])
    assert read_in(built.packed, ids, portions(len(ids), size)).tobytes() == whole.tobytes()


def test_the_torch_twin_in_the_same_test_differs(plain):
    ids = np.random.default_rng(3).integers(0, plain.cfg.V, plain.cfg.T).tolist()
    with torch.inference_mode():
        whole = plain.torch(torch.tensor([ids]))[0].numpy()
        alone = np.stack([plain.torch(torch.tensor([ids[: n + 1]]))[0, -1].numpy() for n in range(len(ids))])
    different = (whole != alone).any(axis=1).sum()
    assert different > len(ids) // 2


def test_neighbours_do_not_change_a_bit(built):
    cfg, rng = built.cfg, np.random.default_rng(5)
    texts = [rng.integers(0, cfg.V, rng.integers(1, cfg.T)).tolist() for _ in range(9)]
    alone = [read_in(built.packed, text, [len(text)]) for text in texts]
    readers = [Reader(built.packed, positions=len(text)) for text in texts]
    memory = StepMemory(built.packed.shape, rows=9 * cfg.T, room=cfg.T, parts=1)
    found: list[list[np.ndarray]] = [[] for _ in texts]
    while any(reader.at < len(text) for reader, text in zip(readers, texts, strict=True)):
        chosen = [
            (i, int(rng.integers(1, 6))) for i in rng.permutation(len(texts)) if readers[i].at < len(texts[i])
        ]
        chosen = [(i, texts[i][readers[i].at : readers[i].at + n]) for i, n in chosen]
        parts = [readers[i].rows(ids) for i, ids in chosen]
        rows = Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        logits = np.empty((len(rows.ids), built.packed.shape.head_row), np.float32)
        step(built.packed, memory, rows, logits)
        at = 0
        for i, ids in chosen:
            found[i].append(logits[at : at + len(ids), : cfg.V].copy())
            readers[i].at += len(ids)
            at += len(ids)
    for together, expected in zip(found, alone, strict=True):
        assert np.concatenate(together).tobytes() == expected.tobytes()


@pytest.mark.parametrize("parts", [2, 3])
def test_threads_do_not_change_a_bit(parts, form):
    built = build(SHAPES["default form"] if parts == 2 else SHAPES["rmsnorm, swiglu"], form=form)
    assert built.packed.may_split
    ids = np.random.default_rng(6).integers(0, built.cfg.V, 20).tolist()
    expected = read_in(built.packed, ids, [20])
    reader = Reader(built.packed, positions=20, parts=parts)
    logits = np.empty((20, built.packed.shape.head_row), np.float32)
    rows = reader.rows(ids)

    def part(number: int) -> None:
        forward(
            built.packed.shape, built.packed.weights, reader.memory.work, rows, np.arange(20),
            logits.ctypes.data, number, parts,
        )  # fmt: skip

    with ThreadPoolExecutor(parts) as threads:
        list(threads.map(part, range(parts)))
    assert logits[:, : built.cfg.V].tobytes() == expected.tobytes()


def test_what_an_earlier_sequence_left_in_memory_does_not_matter(built, ids):
    expected = read_in(built.packed, ids, [len(ids)])
    reader = Reader(built.packed, positions=len(ids))
    reader.state[:] = 1e30
    reader.read(ids[::-1])
    reader.at = 0
    assert reader.read(ids).tobytes() == expected.tobytes()


def test_a_future_token_does_not_reach_back(built, ids):
    other = [*ids[:-1], (ids[-1] + 1) % built.cfg.V]
    first, second = read_in(built.packed, ids, [len(ids)]), read_in(built.packed, other, [len(ids)])
    assert first[:-1].tobytes() == second[:-1].tobytes()
    assert first[-1].tobytes() != second[-1].tobytes()

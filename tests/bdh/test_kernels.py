"""The exact path of a BDH: the same bits in any portions, beside any neighbours, on any number of threads."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from niels_gpt.kernels.bdh_packing import PackedBDH
from niels_gpt.kernels.gpt_layout import Rows
from niels_gpt.kernels.rope_angles import phase_tables
from niels_gpt.model.bdh import BDH
from tests.bdh.conftest import random_ids
from tests.bdh.golden import golden
from tests.bdh.reading import read, rows_of, step

REPO = Path(__file__).resolve().parents[2]
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def whole(packed: PackedBDH) -> np.ndarray:
    return read(packed, random_ids(60), [60])


@pytest.mark.parametrize("portions", [[1] * 60, [7, 1, 20, 32], [59, 1]], ids=["singly", "mixed", "two"])
def test_portions_do_not_matter(packed: PackedBDH, whole: np.ndarray, portions: list[int]):
    assert np.array_equal(read(packed, random_ids(60), portions), whole)


def test_torch_in_the_same_portions_differs(model: BDH, whole: np.ndarray):
    ids = torch.tensor([random_ids(60)])
    state = model.new_state(1, 60)
    stepped = torch.cat([model.forward_from(ids[:, at : at + 1], state)[0] for at in range(60)])
    assert not torch.equal(stepped, model(ids)[0])


@pytest.mark.parametrize("parts", [2, 3])
def test_threads_do_not_matter(packed: PackedBDH, whole: np.ndarray, parts: int):
    assert np.array_equal(read(packed, random_ids(60), [20, 40], parts=parts), whole)


def test_what_lay_in_a_state_before_does_not_matter(packed: PackedBDH, whole: np.ndarray):
    assert np.array_equal(read(packed, random_ids(60), [30, 30], dirt=7.0), whole)


def test_neighbours_do_not_matter(packed: PackedBDH, whole: np.ndarray):
    ids, others = random_ids(60), random_ids(60, seed=9)
    mine, theirs = packed.new_state(0)[0], packed.new_state(0)[0]
    memory = packed.new_memory(rows=30, room=0, parts=1)
    out = []
    for at in range(0, 60, 10):
        a, b = rows_of(others[at : at + 20], at, theirs), rows_of(ids[at : at + 10], at, mine)
        both = Rows(*(np.concatenate(pair) for pair in zip(a, b, strict=True)))
        out.append(step(packed, memory, both)[len(a.ids) :])
    assert np.array_equal(np.concatenate(out), whole)


def test_phases_are_within_a_rounding_of_the_exact_ones():
    frequencies = np.float32([1 / (2 * np.pi), 0.3, 1e-3, 2.4e-6]).astype(np.float64)
    for position in (0, 1, 7, 12345, 2**29 - 1):
        cosine, sine = np.zeros(4, np.float32), np.zeros(4, np.float32)
        phase_tables(frequencies, position, cosine, sine)
        turns = [float(Fraction(f) * position % 1) for f in frequencies]
        angles = 2 * np.pi * np.array(turns)
        assert np.abs(cosine - np.cos(angles)).max() < 1e-7
        assert np.abs(sine * [-1, 1, -1, 1] - np.sin(angles)).max() < 1e-7


def test_this_processor_makes_the_golden_bits():
    assert golden() == GOLDEN


def test_another_token_makes_other_bits(packed: PackedBDH, whole: np.ndarray):
    ids = random_ids(60)
    ids[0] = (ids[0] + 1) % 61
    other = read(packed, ids, [60])
    assert hashlib.sha256(other[-1]).hexdigest() != hashlib.sha256(whole[-1]).hexdigest()

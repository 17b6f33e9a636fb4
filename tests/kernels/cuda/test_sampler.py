"""The GPU's sampler, compiled for the CPU, draws what the CPU's draws, with its margins and sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from niels_gpt.decoding.sequence import row_multipliers, row_sums
from niels_gpt.kernels.cuda.slots import DeviceSlots, Draws
from niels_gpt.kernels.processor import padded
from niels_gpt.kernels.sampler import sample
from niels_gpt.kernels.slots import (
    NON_FINITE,
    NOTHING_LEFT,
    OVERFLOW,
    UNDRAWN,
    UNIFORMS,
    new_scratch,
    new_settings,
    set_slot,
)
from niels_gpt.sampling import Sampling
from tests.kernels.cuda.shim import HostDriver, needs_compiler

pytestmark = needs_compiler

PLAIN = Sampling(temperature=1.0, top_k=None)
SAMPLINGS = {
    "plain": PLAIN,
    "greedy": replace(PLAIN, temperature=0.0),
    "top k": replace(PLAIN, temperature=0.7, top_k=20),
    "top 1": replace(PLAIN, top_k=1),
    "more than there are": replace(PLAIN, top_k=100_000),
    "nucleus": replace(PLAIN, top_p=0.9),
    "small nucleus": replace(PLAIN, temperature=0.3, top_p=0.01),
    "nucleus of the top": replace(PLAIN, temperature=1.3, top_k=50, top_p=0.95),
    "min p": replace(PLAIN, min_p=0.2),
    "typical": replace(PLAIN, typical_p=0.6),
    "typical and nucleus": replace(PLAIN, typical_p=0.9, top_p=0.8, top_k=60),
    "repetition": replace(PLAIN, top_k=50, repetition_penalty=1.4),
    "frequency, presence": replace(PLAIN, frequency_penalty=0.3, presence_penalty=-0.2, top_p=0.97),
    "biases": replace(PLAIN, top_k=30, logit_bias=((3, 2.5), (5, -4.0), (7, 100.0))),
    "penalised greedy": replace(PLAIN, temperature=0.0, repetition_penalty=1.1, presence_penalty=0.5),
    "cold": replace(PLAIN, temperature=1e-30),
}


class Bench:
    """Draws from rows of logits on the GPU's sampler, one sequence a row, and on the CPU's."""

    def __init__(self, V: int, sampling: Sampling, rows: int, driver: HostDriver | None = None) -> None:
        self.V, self.row, self.driver = V, padded(V), driver or HostDriver()
        rng = np.random.default_rng(V)
        self.counts = np.where(rng.random(V) < 0.1, rng.integers(1, 4, V), 0).astype(np.int32)
        self.banned = [2, 11, V - 1]
        self.uniforms = rng.random((rows, UNIFORMS))
        self.sampling = sampling

    def uploaded(self, array: np.ndarray) -> int:
        address = self.driver.allocate(array.nbytes)
        self.driver.upload(address, array)
        return address

    def gpu(self, logits: np.ndarray, first: list[int] | None = None, ids: list[int] | None = None):
        rows, i32 = len(logits), np.int32
        first = list(range(rows + 1)) if first is None else first
        slots = DeviceSlots(self.driver, V=self.V, row=self.row, count=2)
        slots = slots.grown(len(first) - 1) if len(first) > 3 else slots
        for slot in range(len(first) - 1):
            slots.set(slot, self.sampling, self.counts, self.banned)
            slots.refill(slot, self.uniforms[slot])
        wide = np.full((rows, self.row), np.nan, np.float32)
        wide[:, : self.V] = logits
        out = [self.uploaded(np.zeros(rows, kind)) for kind in (np.int64, np.float64, np.uint64)]
        draws = Draws(
            self.uploaded(np.arange(len(first) - 1, dtype=i32)), self.uploaded(np.array(first, i32)),
            self.uploaded(np.arange(rows, dtype=i32)), self.uploaded(np.zeros(rows, i32)), *out,
            sequences=len(first) - 1, rows=rows,
        )  # fmt: skip
        slots.draw(
            draws, self.uploaded(wide), self.uploaded(row_multipliers(self.V)),
            self.uploaded(np.array(ids if ids is not None else [0] * rows, i32)),
            self.uploaded(np.zeros(rows, i32)), feed=False,
        )  # fmt: skip
        results = [np.zeros(rows, kind) for kind in (np.int64, np.float64, np.uint64)]
        for address, array in zip(out, results, strict=True):
            self.driver.download(address, array)
        return results

    def cpu(self, logits: np.ndarray):
        settings, scratch = new_settings(1), new_scratch(self.V, self.row)
        set_slot(settings, 0, self.sampling)
        banned = np.isin(np.arange(self.V), self.banned)
        wide = np.zeros(self.row, np.float32)
        drawn = []
        for row, uniforms in zip(logits, self.uniforms, strict=False):
            wide[: self.V] = row
            drawn.append(sample(wide, self.V, self.counts, banned, settings, 0, uniforms[0], scratch))
        ids, margins = zip(*drawn, strict=True)
        return np.array(ids), np.array(margins)


def rows_of(V: int, rows: int = 6) -> np.ndarray:
    """Peaked, flat, with many equal values, with signed zeros, far apart."""
    rng = np.random.default_rng(5)
    logits = rng.standard_normal((6, V)).astype(np.float32) * np.array([[4], [0.1], [2], [1], [30], [8]])
    logits[2] = np.round(logits[2])
    logits[3] = np.where(rng.random(V) < 0.5, 0.0, -0.0)
    return logits[:rows].astype(np.float32)


@pytest.mark.parametrize("V", [70, 3000])
@pytest.mark.parametrize("name", SAMPLINGS)
def test_draws_margins_and_sums_are_those_of_the_cpu(name: str, V: int) -> None:
    logits = rows_of(V)
    bench = Bench(V, SAMPLINGS[name], len(logits))
    ids, margins, sums = bench.gpu(logits)
    expected_ids, expected_margins = bench.cpu(logits)
    assert ids.tolist() == expected_ids.tolist()
    assert margins.tolist() == expected_margins.tolist()
    assert sums.tolist() == row_sums(logits).tolist()


def test_a_draft_is_drawn_until_a_token_differs() -> None:
    logits = rows_of(70)[[0, 1, 2, 0, 1, 2]]
    bench = Bench(70, replace(PLAIN, repetition_penalty=1.2), 6)
    alone: list[int] = []
    for n in range(3):  # one draw after another, each counting the ones before
        ids, _, _ = bench.gpu(logits[n : n + 1])
        alone.append(int(ids[0]))
        bench.counts[ids[0]] += 1
        bench.uniforms = np.roll(bench.uniforms, -1, axis=1)
    fresh = Bench(70, bench.sampling, 6)
    fresh.uniforms[1] = fresh.uniforms[0]
    right = [0, alone[0], alone[1]]
    wrong = [0, alone[0], (alone[1] + 1) % 70]
    ids, _, _ = fresh.gpu(logits, first=[0, 3, 6], ids=right + wrong)
    assert ids.tolist() == [*alone, *alone[:2], UNDRAWN]


def test_unusable_logits_have_the_codes_of_the_cpu() -> None:
    logits = rows_of(70, 4) * np.float32(1e12)
    logits[1, 40], logits[1, 50] = np.nan, np.inf
    bench = Bench(70, replace(PLAIN, repetition_penalty=1e-30), 4)
    ids, _, sums = bench.gpu(logits)
    assert ids.tolist() == bench.cpu(logits)[0].tolist()
    assert ids[:3].tolist() == [OVERFLOW, NON_FINITE, OVERFLOW]
    assert int(sums[1]) >> 32 == 40, "the first bad logit is named"
    assert np.isnan(np.array([int(sums[1]) & 0xFFFFFFFF], np.uint32).view(np.float32)[0])
    bench.banned, bench.sampling = list(range(70)), PLAIN
    assert bench.gpu(logits[:1])[0].tolist() == bench.cpu(logits[:1])[0].tolist() == [NOTHING_LEFT]


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("nucleus", ("s.keys[i] > last_key ||", "s.keys[i] >= last_key ||")),
        ("typical", ("keep_first(room, s, count, 64, mul(p, total))", "keep_first(room, s, count, 64, p)")),
        ("plain", ("if (s.sums[i] > target) own = i;", "if (s.sums[i] > target * 1.0001) own = i;")),
    ],
)
def test_a_changed_rule_is_noticed(name: str, edit: tuple[str, str]) -> None:
    logits = np.tile(rows_of(3000), (8, 1))
    bench = Bench(3000, SAMPLINGS[name], len(logits), HostDriver(edit=("sampler.cu", *edit)))
    ids, margins, _ = bench.gpu(logits)
    expected_ids, expected_margins = bench.cpu(logits)
    assert ids.tolist() != expected_ids.tolist() or margins.tolist() != expected_margins.tolist()

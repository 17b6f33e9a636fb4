"""Each test runs on a thread of its own: what it sets there ends with it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pytest
import torch

from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.kernels.fp_env import ieee_arithmetic
from niels_gpt.kernels.gpt_packing import pack_gpt
from niels_gpt.sampling import Sampling
from niels_gpt.text.tokenizer import ByteTokenizer
from tests.kernels.models import SHAPES as KERNEL_SHAPES
from tests.kernels.models import Built, build, read_in

ResultT = TypeVar("ResultT")
IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module")
def subnormal() -> Built:
    """A model whose logits are too small for normal numbers."""
    built = build(KERNEL_SHAPES["untied head"])
    with torch.no_grad():
        built.torch.lm_head.weight.mul_(1e-39)
    return Built(built.cfg, built.torch, pack_gpt(built.torch))


def flushing(work: Callable[[], ResultT]) -> ResultT:
    """What `work` gives on a thread that takes subnormal numbers for zero."""

    def run() -> ResultT:
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor cannot be told to flush")
        return work()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def half_of_a_subnormal() -> float:
    return float((np.array([1e-39], np.float32) * np.float32(0.5))[0])


def rows_of(built: Built, *, threads: int) -> bytes:
    class Letters(ByteTokenizer):
        @property
        def vocab_size(self) -> int:
            return built.cfg.V

    decoder = KernelDecoder(built.packed, Letters(), threads=threads)
    wanted = GenerationRequest(
        prompt_ids=tuple(IDS), max_new_tokens=9, sampling=Sampling(top_k=None), seed=1,
        stop_ids=frozenset(), stop_sequences=(), banned_ids=frozenset(),
    )  # fmt: skip
    sequence, rows = decoder.admit(wanted), []
    sequence.reply.watch = lambda row: rows.append(row.tobytes())
    while decoder.advance([sequence])[0].finish is None:
        pass
    decoder.close()
    return b"".join(rows)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_thread_that_flushes_subnormals_gives_the_same_reply(subnormal: Built, threads: int) -> None:
    expected = rows_of(subnormal, threads=1)
    assert np.frombuffer(expected, np.float32).any()
    assert flushing(lambda: rows_of(subnormal, threads=threads)) == expected


def test_without_the_guard_it_does_not(subnormal: Built) -> None:
    def unguarded() -> bytes:
        return read_in(subnormal.packed, IDS, [8]).tobytes()

    def guarded() -> bytes:
        with ieee_arithmetic():
            return unguarded()

    expected = unguarded()
    assert flushing(unguarded) != expected
    assert flushing(guarded) == expected


def test_the_thread_gets_its_own_modes_back(subnormal: Built) -> None:
    def after() -> float:
        rows_of(subnormal, threads=1)
        return half_of_a_subnormal()

    assert half_of_a_subnormal() > 0.0
    assert flushing(after) == 0.0

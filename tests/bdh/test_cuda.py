"""The GPU's kernels of a BDH, compiled for the CPU, give the bits of the CPU's kernels."""

from __future__ import annotations

from contextlib import closing

import pytest

from niels_gpt.decoding.cuda_decoder import CudaDecoder
from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.kernels.bdh_packing import PackedBDH, pack_bdh
from niels_gpt.model.bdh import BDH
from niels_gpt.sampling import Sampling
from niels_gpt.text.tokenizer import ByteTokenizer
from tests.decoding.decoder.conftest import make_request, run_together
from tests.kernels.cuda.shim import HostDriver, needs_compiler

pytestmark = needs_compiler
REQUESTS = [
    make_request(max_new_tokens=8),
    make_request(tuple(b"abcdefghij" * 3), max_new_tokens=5, sampling=Sampling(temperature=0)),
    make_request(tuple(b"a" * 9), max_new_tokens=6, use_cache=False),
]


@pytest.fixture
def packed(byte_model: BDH) -> PackedBDH:
    return pack_bdh(byte_model)


def results(decoder: KernelDecoder | CudaDecoder) -> list[tuple[list[int], object]]:
    with closing(decoder):
        return [(each.ids, each.receipt["logits_hash"]) for each in run_together(decoder, REQUESTS)]


def test_replies_are_those_of_the_cpu(packed: PackedBDH) -> None:
    words = ByteTokenizer()
    expected = results(KernelDecoder(packed, words, prefill_chunk=7, threads=1))
    driver = HostDriver(descending=True)
    assert results(CudaDecoder(packed, words, driver, prefill_chunk=4)) == expected
    # One page each, and only two of them: the third waits.
    memory = 2 * packed.state_bytes
    assert results(CudaDecoder(packed, words, HostDriver(), memory_bytes=memory)) == expected


def test_a_changed_order_is_noticed(packed: PackedBDH) -> None:
    edit = ("bdh.cu", "chain = fused(turned, known, chain);", "chain = add(mul(turned, known), chain);")
    words = ByteTokenizer()
    expected = results(KernelDecoder(packed, words, threads=1))
    assert results(CudaDecoder(packed, words, HostDriver(edit=edit))) != expected

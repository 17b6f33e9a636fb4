"""The engine over a real model: what a decoder's own tests cannot show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
import torch

from engine import Engine, GenerationFailed, JobFailed
from engine.testing import check_history
from niels_gpt.decoding.cuda_decoder import CudaDecoder
from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.pages import PAGE
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.kernels.gpt_packing import pack_gpt
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.sampling import LogitsError, Sampling
from niels_gpt.text.tokenizer import ByteTokenizer
from tests.kernels.cuda.shim import HostDriver, needs_compiler

pytestmark = pytest.mark.anyio
POISON = 0  # its embedding is NaN
PROMPT = tuple(b"who are you, and why? ")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["CPU", pytest.param("GPU", marks=needs_compiler)])
def decoder(
    new_model: Callable[..., GPT], request: pytest.FixtureRequest
) -> Iterator[KernelDecoder | CudaDecoder]:
    model = new_model(ModelConfig(V=256, T=96, C=24, L=2, H=3, d_ff=40, tie_embeddings=False))
    with torch.no_grad():
        model.tok_emb.weight[POISON] = float("nan")
    packed, words = pack_gpt(model), ByteTokenizer()
    decoder: KernelDecoder | CudaDecoder
    if request.param == "GPU":
        decoder = CudaDecoder(packed, words, HostDriver(), prefill_chunk=8)
    else:
        decoder = KernelDecoder(packed, words, prefill_chunk=8, threads=1)
    yield decoder
    decoder.close()


def asked(prompt: tuple[int, ...] = PROMPT, **changes: Any) -> GenerationRequest:
    fields: dict[str, Any] = {
        "prompt_ids": prompt,
        "max_new_tokens": 12,
        "sampling": Sampling(),
        "seed": 3,
        "stop_ids": frozenset(),
        "stop_sequences": (),
        "banned_ids": frozenset({POISON}),
    }
    return GenerationRequest(**(fields | changes))


async def test_logits_that_are_no_numbers_fail_their_job_alone_and_the_next_is_served(
    decoder: KernelDecoder | CudaDecoder,
) -> None:
    async with Engine(decoder) as engine:
        with anyio.fail_after(20):
            alone = await engine.submit(asked()).result()
            bad, good = engine.submit(asked((9, POISON, 9))), engine.submit(asked())
            with pytest.raises(GenerationFailed) as caught:
                await bad.result()
            events = [event async for event in bad.events()]
            check_history(events)
            assert (await good.result()).token_ids == alone.token_ids
            assert (await engine.submit(asked()).result()).token_ids == alone.token_ids
    assert isinstance(caught.value.__cause__, LogitsError)
    assert isinstance(events[-1], JobFailed)
    assert (events[-1].kind, events[-1].scope, len(events)) == ("LogitsError", "job", 3)


async def test_a_request_that_the_model_cannot_serve_fails_with_the_decoders_own_error(
    decoder: KernelDecoder,
) -> None:
    async with Engine(decoder) as engine:
        with anyio.fail_after(20), pytest.raises(GenerationFailed) as caught:
            await engine.submit(asked((5,) * 96)).result()
    assert caught.value.kind == "RequestError"
    assert "context window" in str(caught.value)


async def test_a_follow_up_turn_is_counted_as_reused_and_is_what_it_would_have_been(
    decoder: KernelDecoder,
) -> None:
    async with Engine(decoder) as engine:
        with anyio.fail_after(20):
            first = await engine.submit(asked()).result()
            follow_up = (*PROMPT, *first.token_ids, *b" really?")
            job = engine.submit(asked(follow_up))
            warm = await job.result()
            cold = await engine.submit(asked(follow_up, use_cache=False)).result()
    reused = len(PROMPT) + len(first.token_ids) - 1
    if isinstance(decoder, CudaDecoder):  # whole pages
        reused = reused // PAGE * PAGE
    assert warm.receipt["logits_hash"] == cold.receipt["logits_hash"]
    assert job.statistics().reused_tokens == reused
    numbers = engine.statistics()
    assert (numbers.reused_tokens, numbers.prefix_hits) == (reused, 1)
    assert numbers.prompt_tokens == len(PROMPT) + 2 * len(follow_up)


async def test_jobs_cancelled_while_their_prompts_are_read_leave_every_place_free(
    decoder: KernelDecoder,
) -> None:
    async with Engine(decoder) as engine:
        with anyio.fail_after(20):
            jobs = [engine.submit(asked((n + 1,) * 90)) for n in range(8)]
            await anext(jobs[0].events(1))
            for job in jobs:
                job.cancel()
            await engine.drain()
    if isinstance(decoder, CudaDecoder):
        assert sorted(decoder._free) == list(range(decoder._slots.count))
        assert decoder._pool.available == decoder._pool.count
        return
    assert sorted(decoder._free) == list(range(len(decoder._slots.position)))
    assert decoder._prefix_cache is not None
    assert len(decoder._prefix_cache) == len(decoder._prefix_cache._kept)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from niels_gpt.decoding.backend import torch_decoder
from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.request import GenerationRequest, RequestError
from niels_gpt.decoding.rescoring import attention_row, logits_rows
from niels_gpt.decoding.sequence import logits_hash, row_sums
from niels_gpt.kernels.packing import pack_model
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.model.registry import build_model
from niels_gpt.sampling import Sampling
from niels_gpt.text.tokenizer import ByteTokenizer

CONFIGS = {
    "gpt": ModelConfig(T=160, C=32, L=2, H=2, d_ff=48),
    "bdh": ModelConfig(arch="bdh", C=16, L=2, H=2, d_ff=64),
}


@pytest.fixture
def gpt(new_model: Callable[..., GPT]) -> GPT:
    return new_model(CONFIGS["gpt"])


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Any:
    return build_model(CONFIGS[request.param]).eval()


def reply_of(decoder: Any, prompt: Sequence[int], tokens: int) -> tuple[list[int], np.ndarray, str]:
    """Ids, the rows that they were drawn from, and the receipt's hash of those."""
    wanted = GenerationRequest(
        prompt_ids=tuple(prompt), max_new_tokens=tokens, sampling=Sampling(temperature=1.5), seed=4,
        stop_ids=frozenset(), stop_sequences=(), banned_ids=frozenset(),
    )  # fmt: skip
    sequence, rows = decoder.admit(wanted), []
    sequence.reply.watch = lambda row: rows.append(row.copy())
    finish = None
    while finish is None:
        (step,) = decoder.advance([sequence])
        assert step.error is None
        finish = step.finish
    ids = sequence.reply.ids[len(prompt) :]
    return ids, np.stack(rows), str(decoder.release(sequence)["logits_hash"])


@pytest.mark.parametrize("prompt_length", [1, 63, 64, 65, 120])
def test_the_rows_are_those_that_the_reply_was_drawn_from_bit_for_bit(model: Any, prompt_length: int) -> None:
    decoder = KernelDecoder(pack_model(model), ByteTokenizer(), prefill_chunk=7)
    prompt = [(7 * i) % 256 for i in range(prompt_length)]
    ids, rows, receipt = reply_of(decoder, prompt, 40)
    again = logits_rows(decoder, prompt, ids)
    assert again.tobytes() == rows.tobytes()
    assert logits_hash(row_sums(again).tolist()) == receipt


def test_one_other_token_gives_other_rows_after_it(gpt: GPT) -> None:
    decoder = KernelDecoder(pack_model(gpt), ByteTokenizer())
    ids, rows, _ = reply_of(decoder, [1, 2, 3], 20)
    ids[4] = (ids[4] + 1) % 256
    again = logits_rows(decoder, [1, 2, 3], ids)
    assert again[:5].tobytes() == rows[:5].tobytes()
    assert (again[5:] != rows[5:]).any(axis=1).all()


def test_torch_gives_the_same_rows_but_for_their_last_bits(model: Any) -> None:
    kernels = KernelDecoder(pack_model(model), ByteTokenizer())
    ids, rows, _ = reply_of(kernels, [9, 8, 7], 30)
    found = logits_rows(torch_decoder(model, ByteTokenizer()), [9, 8, 7], ids)
    np.testing.assert_allclose(found, rows, atol=1e-4)
    assert found.tobytes() != rows.tobytes()


def test_a_reply_that_fills_the_window_has_its_rows(gpt: GPT) -> None:
    decoder = KernelDecoder(pack_model(gpt), ByteTokenizer())
    ids, rows, _ = reply_of(decoder, [5] * 100, 60)
    assert len(ids) == 60
    assert logits_rows(decoder, [5] * 100, ids).tobytes() == rows.tobytes()


@pytest.mark.parametrize(
    ("prompt", "reply", "complaint"),
    [
        ([], [1], "0 and 1 tokens"),
        ([1], [], "1 and 0 tokens"),
        ([1], [256], "id 256"),
        ([-1], [2], "id -1"),
        ([1] * 100, [1] * 61, "window of 160"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(
    gpt: GPT, prompt: list[int], reply: list[int], complaint: str
) -> None:
    for decoder in (KernelDecoder(pack_model(gpt), ByteTokenizer()), torch_decoder(gpt, ByteTokenizer())):
        with pytest.raises(RequestError, match=complaint):
            logits_rows(decoder, prompt, reply)


def test_an_attention_row_says_what_the_last_token_looked_at(gpt: GPT) -> None:
    row = attention_row(gpt.eval(), [1, 2, 3, 4, 5], 1)
    assert row.shape == (2, 5)
    np.testing.assert_allclose(row.sum(axis=1), 1.0, atol=1e-6)
    assert attention_row(gpt, [1], 0).tolist() == [[1.0], [1.0]]


def test_a_layer_that_does_not_exist_is_refused(gpt: GPT) -> None:
    with pytest.raises(ValueError, match="2"):
        attention_row(gpt, [1, 2], 2)

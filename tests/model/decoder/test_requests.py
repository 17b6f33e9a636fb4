"""What a decoder takes in, and what it refuses before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from niels_gpt.decoding.request import DecoderError, GenerationRequest, RequestError
from niels_gpt.decoding.torch_decoder import TorchDecoder
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.text.tokenizer import ByteTokenizer

RequestFor = Callable[..., GenerationRequest]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt_ids": ()}, "prompt_ids"),
        ({"prompt_ids": (1, -1)}, "-1"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"stop_sequences": (b"a", b"")}, "stop_sequences"),
        ({"banned_ids": frozenset({-2})}, "-2"),
    ],
)
def test_a_request_out_of_range_is_refused_by_field(
    request_for: RequestFor, changes: dict[str, object], field: str
) -> None:
    with pytest.raises(RequestError, match=field):
        request_for(**changes)


@pytest.mark.parametrize("field", ["prompt_ids", "stop_ids", "banned_ids"])
def test_an_id_outside_the_vocabulary_is_refused(
    decoder: TorchDecoder, request_for: RequestFor, field: str
) -> None:
    ids = (256,) if field == "prompt_ids" else frozenset({256})
    with pytest.raises(RequestError, match="256"):
        decoder.admit(request_for(**{field: ids}))


def test_a_prompt_that_fills_the_window_is_refused(decoder: TorchDecoder, request_for: RequestFor) -> None:
    with pytest.raises(RequestError, match="48 tokens"):
        decoder.admit(request_for(tuple(range(48))))


def test_a_refused_request_holds_no_place(model: GPT, request_for: RequestFor) -> None:
    decoder = TorchDecoder(model, ByteTokenizer(), max_batch=1)
    with pytest.raises(RequestError):
        decoder.admit(request_for(tuple(range(48))))
    decoder.admit(request_for())


def test_a_full_decoder_takes_the_next_one_after_a_release(model: GPT, request_for: RequestFor) -> None:
    decoder = TorchDecoder(model, ByteTokenizer(), max_batch=2)
    first, _ = decoder.admit(request_for()), decoder.admit(request_for(use_cache=False))
    with pytest.raises(DecoderError, match="all 2 places"):
        decoder.admit(request_for())
    decoder.release(first)
    decoder.admit(request_for())


def test_a_tokenizer_of_another_vocabulary_is_refused(new_model: Callable[..., GPT]) -> None:
    with pytest.raises(DecoderError, match="256 ids"):
        TorchDecoder(new_model(ModelConfig(V=61, T=8, C=8, L=1, H=1, d_ff=8)), ByteTokenizer())


@pytest.mark.parametrize("bound", [{"prefill_chunk": 0}, {"max_batch": 0}])
def test_a_bound_below_one_is_refused(model: GPT, bound: dict[str, Any]) -> None:
    with pytest.raises(DecoderError, match=f"{next(iter(bound))}=0"):
        TorchDecoder(model, ByteTokenizer(), **bound)

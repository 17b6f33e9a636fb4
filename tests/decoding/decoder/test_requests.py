"""What a decoder takes in, and what it refuses before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.request import DecoderError, GenerationRequest, RequestError
from niels_gpt.decoding.torch_decoder import TorchDecoder
from niels_gpt.decoding.torch_recurrent_decoder import TorchStateDecoder
from niels_gpt.kernels.packing import pack_model
from niels_gpt.model.bdh import BDH
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


@pytest.fixture(params=["torch", "float32", "int8", "bdh", "torch bdh"])
def any_decoder(request: pytest.FixtureRequest, model: GPT) -> Any:
    """Each kind of decoder that there is."""
    if request.param == "torch":
        return TorchDecoder(model, ByteTokenizer(), prefill_chunk=5)
    if request.param in ("float32", "int8"):
        return KernelDecoder(pack_model(model, request.param), ByteTokenizer(), prefill_chunk=5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bdh = BDH(ModelConfig(V=256, T=48, C=16, L=1, H=2, d_ff=16, arch="bdh"))
    if request.param == "bdh":
        return KernelDecoder(pack_model(bdh), ByteTokenizer(), threads=1)
    return TorchStateDecoder(bdh, ByteTokenizer())


OUTSIDE = [-1, -100, -(2**62), -(2**63), 256, 2**31, 2**62, 2**70, 10**5000, 1.0, "a", None, True]


@pytest.mark.parametrize("wrong", OUTSIDE, ids=range(len(OUTSIDE)))
def test_an_id_outside_the_vocabulary_is_refused_wherever_it_stands(
    any_decoder: Any, request_for: RequestFor, wrong: Any
) -> None:
    for field, ids in (
        ("prompt_ids", (1, wrong, 3)),
        ("forced_ids", (1, wrong, 3)),
        ("stop_ids", frozenset({2, wrong})),
        ("banned_ids", frozenset({2, wrong})),
    ):
        with pytest.raises(RequestError, match=f"{field} has the token id .*, expected"):
            any_decoder.admit(request_for(**{field: ids}))


@pytest.mark.parametrize("wrong", OUTSIDE, ids=range(len(OUTSIDE)))
def test_a_draft_with_an_id_outside_the_vocabulary_changes_no_bit(
    any_decoder: Any, request_for: RequestFor, run: Callable[..., Any], wrong: Any
) -> None:
    plain = run(any_decoder, request_for())
    for draft in ((wrong,), (*plain.ids[:5], wrong, *plain.ids[6:]), (*plain.ids[:5], wrong) * 40):
        drafted = run(any_decoder, request_for(draft_ids=draft))
        assert (drafted.ids, drafted.receipt["logits_hash"]) == (plain.ids, plain.receipt["logits_hash"])


def test_drafts_from_an_example_change_no_bit(
    any_decoder: Any, request_for: RequestFor, run: Callable[..., Any]
) -> None:
    plain = run(any_decoder, request_for())
    example = (*plain.ids[:7], *plain.ids[6:])
    drafted = run(any_decoder, request_for(speculate=True, examples=(example,)))
    assert (drafted.ids, drafted.receipt["logits_hash"]) == (plain.ids, plain.receipt["logits_hash"])


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

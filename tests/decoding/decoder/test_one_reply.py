"""The torch decoder with one sequence: the same tokens as a plain loop, and an end for every reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.decoding.sequence import logits_hash, row_sums
from niels_gpt.decoding.torch_decoder import TorchDecoder
from niels_gpt.generation.reference import generate_ids_greedy_cached
from niels_gpt.model.gpt import GPT
from niels_gpt.rng import make_generator
from niels_gpt.sampling import LogitsError, Sampling, draw
from niels_gpt.text.tokenizer import ByteTokenizer

GREEDY = Sampling(temperature=0.0)
SAMPLINGS = [GREEDY, Sampling(), Sampling(1.3, top_k=None, top_p=0.9, repetition_penalty=1.3)]

RequestFor = Callable[..., GenerationRequest]
Run = Callable[..., Any]  # decoder and request in, the conftest's Outcome out

cached_and_not = pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "recomputed"])


def plain_loop(model: GPT, wanted: GenerationRequest) -> tuple[list[int], str]:
    """Reply ids and the hash of their logits, one full forward a token."""
    ids, generator, sums = list(wanted.prompt_ids), make_generator(wanted.seed), []
    with torch.no_grad():
        for _ in range(wanted.max_new_tokens):
            logits = model(torch.tensor([ids]))[0, -1]
            sums.append(int(row_sums(logits.numpy())))
            ids.append(draw(logits, wanted.sampling, ids, wanted.banned_ids, generator))
    return ids[len(wanted.prompt_ids) :], logits_hash(sums)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "default", "everything"])
@cached_and_not
def test_a_reply_is_what_a_plain_loop_draws(
    twin: GPT,
    decoder: TorchDecoder,
    request_for: RequestFor,
    run: Run,
    *,
    sampling: Sampling,
    use_cache: bool,
) -> None:
    wanted = request_for(sampling=sampling, use_cache=use_cache)
    assert run(decoder, wanted).ids == plain_loop(twin, wanted)[0]


def test_another_seed_gives_another_reply(decoder: TorchDecoder, request_for: RequestFor, run: Run) -> None:
    assert run(decoder, request_for(seed=1)).ids != run(decoder, request_for(seed=2)).ids


def test_the_receipt_hashes_every_row_that_was_drawn_from(
    model: GPT, torch_decoder: TorchDecoder, request_for: RequestFor, run: Run
) -> None:
    wanted = request_for(use_cache=False)
    receipt = run(torch_decoder, wanted).receipt
    assert receipt == {
        "prompt_tokens": 13,
        "reply_tokens": 20,
        "logits_hash": plain_loop(model, wanted)[1],
        "smallest_margin": None,
        "path": "torch",
    }
    json.dumps(receipt)


def test_a_greedy_reply_is_that_of_the_cached_function(
    model: GPT, decoder: TorchDecoder, request_for: RequestFor, run: Run
) -> None:
    wanted = request_for(sampling=GREEDY)
    ids = generate_ids_greedy_cached(model, list(wanted.prompt_ids), max_new_tokens=20, eot_token_id=None)
    assert run(decoder, wanted).ids == ids[13:]


@pytest.mark.parametrize("prefill_chunk", [1, 4, 12, 13, 100])
def test_how_a_prompt_is_cut_does_not_change_the_reply(
    model: GPT, request_for: RequestFor, run: Run, prefill_chunk: int
) -> None:
    decoder = TorchDecoder(model, ByteTokenizer(), prefill_chunk=prefill_chunk)
    assert run(decoder, request_for()).ids == plain_loop(model, request_for())[0]


def test_a_step_reads_one_chunk_and_the_last_one_brings_the_first_token(
    decoder: TorchDecoder, request_for: RequestFor, run: Run
) -> None:
    steps = run(decoder, request_for(max_new_tokens=1)).steps
    assert [len(step.tokens) for step in steps] == [0, 0, 1]  # 13 tokens in chunks of 5


def test_the_deltas_concatenate_to_the_text_of_the_ids(
    decoder: TorchDecoder, request_for: RequestFor, run: Run
) -> None:
    outcome = run(decoder, request_for(sampling=Sampling(temperature=3.0)))
    assert outcome.text == ByteTokenizer().decode(outcome.ids)


@pytest.mark.parametrize("max_new_tokens", [1, 2, 20])
def test_a_reply_of_the_longest_length_ends_with_length(
    decoder: TorchDecoder, request_for: RequestFor, run: Run, max_new_tokens: int
) -> None:
    outcome = run(decoder, request_for(max_new_tokens=max_new_tokens))
    assert outcome.finish == "length"
    assert len(outcome.ids) == outcome.receipt["reply_tokens"] == max_new_tokens


@cached_and_not
def test_a_reply_that_fills_the_window_ends_with_context(
    decoder: TorchDecoder, request_for: RequestFor, run: Run, use_cache: bool
) -> None:
    outcome = run(decoder, request_for(max_new_tokens=1000, use_cache=use_cache))
    assert outcome.finish == "context"
    assert 13 + len(outcome.ids) == 48


def test_a_prompt_one_short_of_the_window_gets_one_token(
    decoder: TorchDecoder, request_for: RequestFor, run: Run
) -> None:
    outcome = run(decoder, request_for(tuple(range(47)), max_new_tokens=9))
    assert (len(outcome.ids), outcome.finish) == (1, "context")


def test_a_stop_id_is_the_last_token_and_ends_the_reply(
    decoder: TorchDecoder, request_for: RequestFor, run: Run
) -> None:
    free = run(decoder, request_for()).ids
    outcome = run(decoder, request_for(stop_ids=frozenset({free[9]})))
    assert outcome.ids == free[: free.index(free[9]) + 1]
    assert outcome.finish == "stop"


def test_a_stop_sequence_ends_the_reply_and_stays_out_of_its_text(
    decoder: TorchDecoder, request_for: RequestFor, run: Run
) -> None:
    free = bytes(run(decoder, request_for()).ids)
    stop = free[7:10]
    outcome = run(decoder, request_for(stop_sequences=(stop,)))
    assert bytes(outcome.ids) == free[: free.index(stop) + 3]
    assert outcome.text == free[: free.index(stop)].decode(errors="replace")
    assert outcome.finish == "stop"


def test_a_banned_id_is_never_drawn(decoder: TorchDecoder, request_for: RequestFor, run: Run) -> None:
    free = run(decoder, request_for()).ids
    assert not set(run(decoder, request_for(banned_ids=frozenset(free))).ids) & set(free)


def test_a_reply_released_while_its_prompt_is_read_has_an_honest_receipt(
    decoder: TorchDecoder, request_for: RequestFor
) -> None:
    sequence = decoder.admit(request_for())
    decoder.advance([sequence])
    receipt = decoder.release(sequence)
    assert receipt["reply_tokens"] == 0
    assert receipt["logits_hash"] == logits_hash([])


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
@cached_and_not
def test_logits_that_are_no_numbers_are_an_error_and_never_a_token(
    model: GPT, new_decoder: Run, request_for: RequestFor, run: Run, *, broken: float, use_cache: bool
) -> None:
    with torch.no_grad():
        model.lm_head.weight[5] = broken
    outcome = run(new_decoder(model), request_for(use_cache=use_cache))
    assert isinstance(outcome.error, LogitsError)
    assert outcome.ids == []
    assert outcome.receipt["reply_tokens"] == 0


def test_decoding_leaves_the_global_generator_alone(
    decoder: TorchDecoder, request_for: RequestFor, run: Run
) -> None:
    before = torch.get_rng_state()
    run(decoder, request_for())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_in_training_mode_is_set_to_evaluation(model: GPT, request_for: RequestFor, run: Run) -> None:
    expected = plain_loop(model, request_for())[0]
    assert run(TorchDecoder(model.train(), ByteTokenizer()), request_for()).ids == expected

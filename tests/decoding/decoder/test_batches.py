"""Many replies at once: each is what it is alone, whoever joins, leaves or fails beside it."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import torch

from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.decoding.torch_decoder import CachedSequence, TorchDecoder, TorchSequence
from niels_gpt.kernels.barrier import wait
from niels_gpt.kernels.gpt_packing import pack_gpt
from niels_gpt.model.gpt import GPT
from niels_gpt.sampling import LogitsError, Sampling
from niels_gpt.text.tokenizer import ByteTokenizer

GREEDY = Sampling(temperature=0.0)
POISON = 0  # a token whose embedding is NaN in some tests; no prompt holds it by chance

RequestFor = Callable[..., GenerationRequest]
Run = Callable[..., Any]  # the conftest's loops


@pytest.fixture
def requests(request_for: RequestFor) -> list[GenerationRequest]:
    """Eight prompts of 1 to 30 tokens with replies of 1 to 17, sampled and greedy by turns, POISON banned."""
    chance = random.Random(5)
    return [
        request_for(
            tuple(chance.randrange(1, 256) for _ in range(chance.randint(1, 30))),
            max_new_tokens=chance.randint(1, 17),
            sampling=GREEDY if i % 2 else Sampling(),
            seed=i,
            banned_ids=frozenset({POISON}),
        )
        for i in range(8)
    ]


@pytest.fixture
def poisoned(model: GPT) -> GPT:
    with torch.no_grad():
        model.tok_emb.weight[POISON] = float("nan")
    return model


@pytest.fixture
def alone(decoder: TorchDecoder, run: Run, requests: list[GenerationRequest]) -> list[list[int]]:
    return [run(decoder, wanted).ids for wanted in requests]


def test_eight_replies_together_are_what_each_is_alone(
    decoder: TorchDecoder, requests: list[GenerationRequest], alone: list[list[int]], run_batch: Run
) -> None:
    assert [outcome.ids for outcome in run_batch(decoder, requests)] == alone


def test_cached_and_recomputed_replies_share_a_batch(
    decoder: TorchDecoder, request_for: RequestFor, run_batch: Run
) -> None:
    cached, recomputed = run_batch(decoder, [request_for(), request_for(use_cache=False)])
    assert cached.ids == recomputed.ids


@pytest.mark.parametrize("schedule", range(8))
def test_no_schedule_of_joining_and_leaving_changes_a_reply(
    decoder: TorchDecoder, requests: list[GenerationRequest], alone: list[list[int]], schedule: int
) -> None:
    chance = random.Random(schedule)
    waiting = list(range(8)) * 2
    chance.shuffle(waiting)
    live: list[tuple[int, TorchSequence, list[int]]] = []
    finished = 0
    while waiting or live:
        if waiting and (not live or chance.random() < 0.3):
            i = waiting.pop()
            live.append((i, decoder.admit(requests[i]), []))
        stepping = [entry for entry in live if chance.random() < 0.8]  # not everybody steps every time
        for entry, step in zip(stepping, decoder.advance([entry[1] for entry in stepping]), strict=True):
            i, sequence, ids = entry
            ids += [token_id for token_id, _ in step.tokens]
            assert step.error is None
            if step.finish is not None or chance.random() < 0.02:
                decoder.release(sequence)
                live.remove(entry)
                finished += step.finish is not None
                assert ids == (alone[i] if step.finish else alone[i][: len(ids)])
    assert finished > 4


def test_running_replies_at_different_positions_step_in_one_forward(
    model: GPT, torch_decoder: TorchDecoder, requests: list[GenerationRequest]
) -> None:
    sequences = [torch_decoder.admit(wanted) for wanted in requests if wanted.max_new_tokens > 10]
    assert len(sequences) > 2
    started: set[int] = set()
    while len(started) < len(sequences):
        reading = [i for i in range(len(sequences)) if i not in started]
        steps = torch_decoder.advance([sequences[i] for i in reading])
        started |= {i for i, step in zip(reading, steps, strict=True) if step.tokens}
    shapes: list[tuple[int, ...]] = []
    hook = model.tok_emb.register_forward_hook(
        lambda _module, inputs, _output: shapes.append(inputs[0].shape)
    )
    torch_decoder.advance(sequences)
    hook.remove()
    assert shapes == [(len(sequences), 1)]


def test_a_step_reads_no_more_than_one_chunk_of_all_prompts(
    model: GPT, torch_decoder: TorchDecoder, request_for: RequestFor
) -> None:
    running = torch_decoder.admit(request_for((1, 2)))
    torch_decoder.advance([running])
    lengths = (2, 3, 12, 1, 4)
    sequences = [running, *(torch_decoder.admit(request_for(tuple(range(1, n + 1)))) for n in lengths)]
    read: list[int] = []
    hook = model.tok_emb.register_forward_hook(
        lambda _module, inputs, _output: read.append(inputs[0].numel())
    )
    tokens = [len(step.tokens) for step in torch_decoder.advance(sequences)]
    hook.remove()
    assert tokens == [1, 1, 1, 0, 1, 0]  # the prompt of one token steps with the running reply
    assert read == [2, 3, 2]


def test_where_a_prompt_is_cut_does_not_depend_on_who_else_is_there(
    decoder: TorchDecoder, request_for: RequestFor, run: Run, run_batch: Run
) -> None:
    wanted = [request_for(tuple(range(1, n + 1)), max_new_tokens=1) for n in (13, 2, 9, 4, 18)]
    hashes = [outcome.receipt["logits_hash"] for outcome in run_batch(decoder, wanted)]
    assert hashes == [run(decoder, one).receipt["logits_hash"] for one in wanted]


def test_a_reply_that_fails_takes_nobody_with_it(
    poisoned: GPT,
    decoder: TorchDecoder,
    *,
    request_for: RequestFor,
    requests: list[GenerationRequest],
    alone: list[list[int]],
    run_batch: Run,
) -> None:
    bad = [request_for((9, POISON, 9)), request_for((POISON,))]
    outcomes = run_batch(decoder, [*requests[:4], *bad, *requests[4:]])
    assert [outcome.ids for outcome in outcomes[:4] + outcomes[6:]] == alone
    assert all(isinstance(outcome.error, LogitsError) and not outcome.ids for outcome in outcomes[4:6])


def test_a_row_that_held_nan_is_clean_for_the_next_one(
    poisoned: GPT, decoder: TorchDecoder, request_for: RequestFor, run_batch: Run
) -> None:
    long = request_for(tuple(range(1, 31)), max_new_tokens=15, banned_ids=frozenset({POISON}))
    short = request_for((1, 2), banned_ids=frozenset({POISON}))
    clean = run_batch(decoder, [long, short])[1]
    assert run_batch(decoder, [long, request_for((POISON,) * 30)])[1].error is not None
    assert run_batch(decoder, [long, short])[1].ids == clean.ids


def test_a_row_that_is_not_wiped_poisons_the_next_one(
    poisoned: GPT, torch_decoder: TorchDecoder, request_for: RequestFor, run_batch: Run
) -> None:
    torch_decoder._buffer.free = lambda row: torch_decoder._buffer._rows.__setitem__(row.index, None)
    long = request_for(tuple(range(1, 31)), max_new_tokens=15, banned_ids=frozenset({POISON}))
    short = request_for((1, 2), banned_ids=frozenset({POISON}))
    run_batch(torch_decoder, [long, request_for((POISON,) * 30)])
    assert run_batch(torch_decoder, [long, short])[1].error is not None


def test_a_row_starts_anew_for_each_sequence(
    decoder: TorchDecoder, request_for: RequestFor, run: Run
) -> None:
    first = run(decoder, request_for()).ids
    run(decoder, request_for(tuple(range(40, 70))))
    assert run(decoder, request_for()).ids == first


def test_a_row_that_keeps_its_old_length_gives_another_reply(
    torch_decoder: TorchDecoder, request_for: RequestFor, run: Run
) -> None:
    first = run(torch_decoder, request_for()).ids
    sequence = torch_decoder.admit(request_for())
    assert isinstance(sequence, CachedSequence)
    sequence.row.length = 4
    ids: list[int] = []
    while len(ids) < len(first):
        ids += [token_id for token_id, _ in torch_decoder.advance([sequence])[0].tokens]
    assert ids != first


def test_a_second_release_frees_nobody_elses_row(
    torch_decoder: TorchDecoder, request_for: RequestFor
) -> None:
    first = torch_decoder.admit(request_for())
    torch_decoder.release(first)
    second = torch_decoder.admit(request_for())
    torch_decoder.release(first)
    third = torch_decoder.admit(request_for())
    assert isinstance(second, CachedSequence)
    assert isinstance(third, CachedSequence)
    assert second.row.index != third.row.index


def test_rows_are_used_again(
    torch_decoder: TorchDecoder, request_for: RequestFor, run_batch: Callable
) -> None:
    for _ in range(5):
        run_batch(torch_decoder, [request_for(seed=i, max_new_tokens=2) for i in range(4)])
    assert torch_decoder._buffer._k.shape[1] == 4


def test_nobody_to_advance_is_no_step(decoder: TorchDecoder) -> None:
    assert decoder.advance([]) == []


def test_a_step_that_fails_on_one_thread_ends_on_the_other_and_the_next_one_works(
    model: GPT, request_for: Callable[..., GenerationRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other waits at a barrier, without the GIL, for the one that will not come."""
    with closing(KernelDecoder(pack_gpt(model), ByteTokenizer(), threads=2)) as decoder:
        sequence = decoder.admit(request_for())

        def run(_words: int, _steps: int, part: int, parts: int) -> int:
            if part == 0:
                raise MemoryError
            wait(decoder._memory.work.barrier, parts)
            return 1

        monkeypatch.setattr(decoder, "_loop", run)
        with pytest.raises(MemoryError):
            decoder.advance([sequence])
        monkeypatch.undo()
        decoder.release(sequence)
        again = decoder.admit(request_for())
        assert all(decoder.advance([again])[0].error is None for _ in range(3))

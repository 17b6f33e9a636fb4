"""States that are used again: fewer tokens are read, and not a bit of any reply changes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from niels_gpt.decoding.kernel_decoder import KernelDecoder, KernelSequence
from niels_gpt.decoding.prefix_cache import PrefixCache, State
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.kernels.gpt_packing import PackedModel, new_state, pack_gpt
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.sampling import Sampling
from niels_gpt.text.tokenizer import ByteTokenizer

SYSTEM = tuple(b"you are short and honest. ")  # 26 tokens: a whole block of positions and a part of the next
PLENTY = 2**20


@pytest.fixture(params=["whole heads", "narrow heads"])
def packed(request: pytest.FixtureRequest, new_model: Callable[..., GPT]) -> PackedModel:
    """A window of 96 tokens; heads of one vector, or of half a one."""
    C = 48 if request.param == "whole heads" else 24
    return pack_gpt(new_model(ModelConfig(V=256, T=96, C=C, L=2, H=3, d_ff=40, tie_embeddings=False)))


def decoder_of(packed: PackedModel, prefix_cache_bytes: int = PLENTY, chunk: int = 5) -> KernelDecoder:
    return KernelDecoder(packed, ByteTokenizer(), prefill_chunk=chunk, prefix_cache_bytes=prefix_cache_bytes)


def asked(prompt: Sequence[int], *, new: int = 9, seed: int = 1, use_cache: bool = True) -> GenerationRequest:
    return GenerationRequest(
        prompt_ids=tuple(prompt), max_new_tokens=new, sampling=Sampling(), seed=seed, use_cache=use_cache,
        stop_ids=frozenset(), stop_sequences=(), banned_ids=frozenset(),
    )  # fmt: skip


def run(decoder: KernelDecoder, *wanted: GenerationRequest) -> list[dict[str, object]]:
    """Receipts of replies that are made side by side."""
    live = {i: decoder.admit(request) for i, request in enumerate(wanted)}
    receipts: dict[int, dict[str, object]] = {}
    while live:
        for i, step in zip(list(live), decoder.advance(list(live.values())), strict=True):
            assert step.error is None
            if step.finish is not None:
                receipts[i] = decoder.release(live.pop(i))
    return [receipts[i] for i in range(len(wanted))]


def cold(packed: PackedModel, wanted: GenerationRequest) -> object:
    """The hash of a reply of a decoder that has read nothing before and keeps nothing."""
    return run(decoder_of(packed, prefix_cache_bytes=0), wanted)[0]["logits_hash"]


def replied(decoder: KernelDecoder, prompt: Sequence[int], new: int = 9) -> tuple[int, ...]:
    """The prompt and its reply."""
    sequence = decoder.admit(asked(prompt, new=new))
    while decoder.advance([sequence])[0].finish is None:
        pass
    decoder.release(sequence)
    return tuple(sequence.reply.ids)


def test_a_follow_up_turn_reads_only_what_is_new(packed: PackedModel) -> None:
    decoder = decoder_of(packed)
    history = replied(decoder, SYSTEM)
    follow_up = asked((*history, *b"and then?"))
    (receipt,) = run(decoder, follow_up)
    assert receipt["reused_tokens"] == len(history) - 1  # the last token of a reply is never read
    assert receipt["logits_hash"] == cold(packed, follow_up)


def test_prompts_with_one_system_prompt_share_it(packed: PackedModel) -> None:
    decoder = decoder_of(packed)
    wanted = [asked((*SYSTEM, *question)) for question in (b"who?", b"and what is this?", b"not now?")]
    run(decoder, wanted[0])
    receipts = run(decoder, *wanted[1:])
    assert [receipt["reused_tokens"] for receipt in receipts] == [26, 26]
    assert [receipt["logits_hash"] for receipt in receipts] == [cold(packed, one) for one in wanted[1:]]


def test_prompts_that_come_together_share_what_the_first_of_them_has_read(packed: PackedModel) -> None:
    wanted = [asked((*SYSTEM, *bytes([65 + i])), seed=i) for i in range(6)]
    receipts = run(decoder_of(packed), *wanted)
    assert [receipt["reused_tokens"] for receipt in receipts].count(26) >= 4
    assert [receipt["logits_hash"] for receipt in receipts] == [cold(packed, one) for one in wanted]


@pytest.mark.parametrize(("known", "reused"), [(7, 0), (8, 8), (9, 9)])
def test_fewer_tokens_than_are_worth_a_copy_are_read_again(
    packed: PackedModel, known: int, reused: int
) -> None:
    decoder = decoder_of(packed)
    run(decoder, asked(SYSTEM))
    (receipt,) = run(decoder, asked((*SYSTEM[:known], *b"? and what else do you know?")))
    assert receipt["reused_tokens"] == reused


def test_the_last_token_of_a_prompt_is_read_even_if_it_is_pooled(packed: PackedModel) -> None:
    decoder = decoder_of(packed)
    receipts = [run(decoder, asked(SYSTEM))[0] for _ in range(2)]
    assert [receipt["reused_tokens"] for receipt in receipts] == [0, len(SYSTEM) - 1]
    assert receipts[0]["logits_hash"] == receipts[1]["logits_hash"]


@pytest.mark.parametrize("seed", range(8))
def test_no_schedule_of_conversations_changes_a_reply(packed: PackedModel, seed: int) -> None:
    chance = random.Random(seed)
    decoder = decoder_of(
        packed, prefix_cache_bytes=chance.choice([0, 60_000, PLENTY]), chunk=chance.choice([3, 64])
    )
    conversations = [SYSTEM[: chance.randrange(9, 27)] for _ in range(3)]
    for turn in range(8):
        which = chance.randrange(3)
        prompt = (*conversations[which], *(chance.randrange(256) for _ in range(chance.randrange(1, 9))))
        wanted = asked(prompt, new=6, seed=turn, use_cache=chance.random() < 0.9)
        beside = asked(conversations[chance.randrange(3)], new=3)
        receipt = run(decoder, wanted, beside)[0]
        assert receipt["logits_hash"] == cold(packed, wanted)
        if len(prompt) < 80:
            conversations[which] = prompt


def test_a_pool_that_hands_out_another_prompts_state_is_seen_in_the_hash(packed: PackedModel) -> None:
    class Mistaken(PrefixCache):
        def longest(self, ids: np.ndarray) -> tuple[State | None, int]:
            state, _ = super().longest(np.array(SYSTEM, np.int32))
            return state, len(SYSTEM)

    decoder = decoder_of(packed)
    decoder._prefix_cache = Mistaken(packed.shape, most_bytes=PLENTY)
    run(decoder, asked(SYSTEM))
    other = asked((*reversed(SYSTEM), *b"?"))
    (receipt,) = run(decoder, other)
    assert receipt["reused_tokens"] == len(SYSTEM)
    assert receipt["logits_hash"] != cold(packed, other)


def test_one_wrong_number_in_a_kept_state_is_seen_in_the_hash(packed: PackedModel) -> None:
    decoder = decoder_of(packed)
    run(decoder, asked(SYSTEM))
    assert decoder._prefix_cache is not None
    state, _ = decoder._prefix_cache.longest(np.array(SYSTEM, np.int32))
    assert state is not None
    state.floats[3] += 1.0
    assert run(decoder, asked(SYSTEM))[0]["logits_hash"] != cold(packed, asked(SYSTEM))


def test_the_slow_twin_neither_takes_from_the_pool_nor_gives_to_it(packed: PackedModel) -> None:
    decoder = decoder_of(packed)
    slow = asked(SYSTEM, use_cache=False)
    assert run(decoder, slow)[0]["reused_tokens"] == 0
    assert run(decoder, asked(SYSTEM))[0]["reused_tokens"] == 0
    assert run(decoder, slow)[0]["reused_tokens"] == 0


def test_a_reply_that_still_runs_lends_its_prompt(packed: PackedModel) -> None:
    decoder = decoder_of(packed, chunk=64)
    running = decoder.admit(asked(SYSTEM))
    decoder.advance([running])
    assert decoder.admit(asked((*SYSTEM, 1))).reused == len(SYSTEM)
    decoder.release(running)
    assert decoder.admit(asked((*SYSTEM, 1))).reused == len(SYSTEM)


def test_what_a_failed_step_may_have_spoiled_is_not_kept(packed: PackedModel) -> None:
    class Failing(KernelDecoder):
        def _share(self, rows: int, *arguments: object) -> int:
            raise MemoryError

    decoder = Failing(packed, ByteTokenizer(), prefill_chunk=64, prefix_cache_bytes=PLENTY)
    sequence = decoder.admit(asked(SYSTEM))
    with pytest.raises(MemoryError):
        decoder.advance([sequence])
    decoder.release(sequence)
    assert decoder._prefix_cache is not None
    assert len(decoder._prefix_cache) == 0


def test_a_cancelled_prefill_leaves_what_it_has_read(packed: PackedModel) -> None:
    decoder = decoder_of(packed, chunk=10)
    sequence = decoder.admit(asked(SYSTEM))
    decoder.advance([sequence])
    for _ in range(2):  # a second release changes nothing
        decoder.release(sequence)
    (receipt,) = run(decoder, asked(SYSTEM))
    assert receipt["reused_tokens"] == 10
    assert receipt["logits_hash"] == cold(packed, asked(SYSTEM))


def until_first_token(decoder: KernelDecoder, live: list[KernelSequence], whose: KernelSequence) -> int:
    """How many steps it takes."""
    for step in range(1, 100):
        steps = decoder.advance(live)
        if steps[live.index(whose)].tokens:
            return step
    raise AssertionError("no token in 99 steps")


def test_a_short_prompt_does_not_wait_until_long_ones_have_been_read(packed: PackedModel) -> None:
    decoder = decoder_of(packed, chunk=8, prefix_cache_bytes=0)
    long = [decoder.admit(asked([i] * 80)) for i in range(4)]
    decoder.advance(long)
    short = decoder.admit(asked(b"who?"))
    assert until_first_token(decoder, [*long, short], short) == 1


def test_the_prompt_that_came_first_is_read_however_many_short_ones_come(packed: PackedModel) -> None:
    decoder = decoder_of(packed, chunk=8, prefix_cache_bytes=0)
    long = decoder.admit(asked([7] * 80))
    drawn = []
    while not drawn and long.read < 80:
        short, before = decoder.admit(asked([long.read, *b"hello?!"])), long.read
        drawn = decoder.advance([long, short])[0].tokens
        decoder.release(short)
        assert long.read >= before + 4  # half of a chunk
    assert drawn


# The cache itself.


def state_of(packed: PackedModel, positions: int) -> State:
    return State(*new_state(packed.shape, positions))


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def test_the_pool_stays_within_its_bytes_and_drops_what_was_not_used_for_longest(packed: PackedModel) -> None:
    size = state_of(packed, 16).floats.nbytes
    cache = PrefixCache(packed.shape, most_bytes=3 * size)
    for first in (1, 2, 3):
        cache.keep([first, 0, 0], state_of(packed, 16))
    cache.longest(ids(1, 0, 0))
    cache.keep([4, 0, 0], state_of(packed, 16))
    assert cache.bytes == 3 * size
    assert [cache.longest(ids(first, 0, 0))[1] for first in (1, 2, 3, 4)] == [3, 0, 3, 3]


def test_a_state_larger_than_the_pool_is_not_kept(packed: PackedModel) -> None:
    cache = PrefixCache(packed.shape, most_bytes=1000)
    cache.keep(list(range(40)), state_of(packed, 48))
    assert (len(cache), cache.bytes) == (0, 0)


def test_a_longer_state_takes_the_place_of_what_it_covers(packed: PackedModel) -> None:
    cache = PrefixCache(packed.shape, most_bytes=PLENTY)
    cache.keep([1, 2], state_of(packed, 16))
    cache.keep([1, 2, 3], state_of(packed, 16))
    cache.keep([1, 2], state_of(packed, 16))
    assert len(cache) == 1
    assert cache.longest(ids(1, 2, 3, 4))[1] == 3


def test_a_mostly_empty_state_is_cut_down(packed: PackedModel) -> None:
    cache = PrefixCache(packed.shape, most_bytes=PLENTY)
    cache.keep([1, 2, 3], state_of(packed, 96))
    assert cache.bytes == state_of(packed, 16).floats.nbytes


def test_a_loan_costs_no_bytes_and_ends(packed: PackedModel) -> None:
    cache = PrefixCache(packed.shape, most_bytes=0)
    pinned = cache.pin([1, 2, 3], state_of(packed, 16))
    assert (cache.bytes, cache.longest(ids(1, 2, 9))[1]) == (0, 2)
    cache.unpin(pinned)
    assert cache.longest(ids(1, 2, 9)) == (None, 0)


def test_the_pool_finds_what_a_plain_search_finds(packed: PackedModel) -> None:
    chance = random.Random(3)
    cache, kept = PrefixCache(packed.shape, most_bytes=PLENTY), list[list[int]]()
    for _ in range(60):
        tokens = [chance.randrange(2) for _ in range(chance.randrange(1, 80))]
        cache.keep(tokens, state_of(packed, 16))
        kept.append(tokens)
        wanted = [chance.randrange(2) for _ in range(chance.randrange(1, 80))]
        plain = max(n for one in kept for n in range(len(one) + 1) if one[:n] == wanted[:n])
        assert cache.longest(np.array(wanted, np.int32))[1] == plain

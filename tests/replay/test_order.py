"""A reply waits for the one whose beginning it shares, where that saves prefill, and never waits in vain."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

import anyio
import pytest
import torch

from engine import GenerationFailed, Result
from niels_gpt.decoding.kernel_decoder import KernelDecoder, KernelSequence
from niels_gpt.decoding.request import GenerationRequest, Step
from niels_gpt.kernels.gpt_packing import pack_gpt
from niels_gpt.replay.regenerate import forerunners, regenerate
from niels_gpt.text.tokenizer import ByteTokenizer
from tests.replay.recordings import integer_model
from tests.replay.test_recording import wanted

pytestmark = pytest.mark.anyio
REPLY = 40
DecoderT = TypeVar("DecoderT", bound=KernelDecoder)


def said() -> list[GenerationRequest]:
    """Three turns of one conversation, a retry of the second, and a stranger."""
    chance = random.Random(5)

    def words(count: int) -> tuple[int, ...]:
        return tuple(chance.randrange(97, 123) for _ in range(count))

    decoder = KernelDecoder(pack_gpt(integer_model(T=320)), ByteTokenizer(), threads=1)
    path, requests = words(40), list[GenerationRequest]()
    for turn in range(3):
        path = (*path, *words(12))
        requests.append(wanted(prompt_ids=path, max_new_tokens=REPLY, seed=turn))
        ids = tuple(spoken(decoder, requests[-1]))
        requests[-1] = wanted(prompt_ids=path, max_new_tokens=REPLY, seed=turn, draft_ids=ids)
        if turn == 1:
            requests.append(wanted(prompt_ids=path, max_new_tokens=REPLY, seed=99))
        path = (*path, *ids)
    requests.append(wanted(prompt_ids=words(30), max_new_tokens=REPLY, seed=7))
    return requests


def spoken(decoder: KernelDecoder, request: GenerationRequest) -> list[int]:
    sequence, ids = decoder.admit(request), list[int]()
    while True:
        step = decoder.advance([sequence])[0]
        ids += [token_id for token_id, _ in step.tokens]
        if step.finish is not None:
            decoder.release(sequence)
            return ids


def test_turns_follow_each_other_and_strangers_follow_nobody() -> None:
    assert forerunners(said()) == [None, 0, 1, 1, None]


def test_a_short_beginning_in_common_is_not_worth_waiting() -> None:
    system = tuple(range(32))
    assert forerunners([wanted(prompt_ids=(*system, *(9 - n,) * 60)) for n in range(3)]) == [None] * 3


def test_one_of_thousands_is_found() -> None:
    """By its beginning, not by comparing all with all."""
    chance = random.Random(2)
    prompts = [tuple(chance.randrange(256) for _ in range(200)) for _ in range(2000)]
    assert forerunners([wanted(prompt_ids=ids) for ids in [*prompts, (*prompts[7], 1)]])[-1] == 7


class Hasty(KernelDecoder):
    """Gets all replies at once."""

    @property
    def reads_drafts(self) -> bool:
        """Say what lets nobody wait."""
        return False


def made(kind: type[DecoderT], *, strange: bool = False, **more: Any) -> DecoderT:
    model = integer_model(T=320)
    if strange:
        with torch.no_grad():
            model.lm_head.weight[97:123] = model.lm_head.weight[97:123].flip(0)
    return kind(pack_gpt(model), ByteTokenizer(), threads=1, **more)


async def test_what_turns_share_is_read_once_and_every_bit_is_the_same() -> None:
    requests, patient, hasty = said(), made(KernelDecoder), made(Hasty)
    alone = [(await regenerate(made(Hasty, prefix_cache_bytes=0), [request]))[0] for request in requests]
    shared = {}
    for decoder in (patient, hasty):
        found = await regenerate(decoder, requests)
        assert [bits(each) for each in found] == [bits(each) for each in alone]
        shared[decoder] = [reused(each) for each in found]
    # All that came before but the last token said, whose keys and values nobody needed.
    first, _, retry, third, _ = (len(each.prompt_ids) for each in requests)
    assert shared[patient] == [0, first + REPLY - 1, retry - 1, third - 13, 0]


class Watched(KernelDecoder):
    """Knows how many replies were made side by side at most."""

    most = 0

    def advance(self, sequences: Sequence[KernelSequence]) -> list[Step]:
        """Count."""
        self.most = max(self.most, len(sequences))
        return super().advance(sequences)


class Broken(Watched):
    """Fails every reply."""

    def advance(self, sequences: Sequence[KernelSequence]) -> list[Step]:
        """Fail."""
        super().advance(sequences)
        raise ValueError("out of paper")


async def test_a_wrong_draft_lets_nobody_wait() -> None:
    """Another checkpoint says something else: one by one, nothing would be spared."""
    *requests, _stranger = said()
    same, other, at_once = made(Watched), made(Watched, strange=True), made(Hasty, strange=True)
    await regenerate(same, requests)
    found, right = await regenerate(other, requests), await regenerate(at_once, requests)
    assert [bits(each) for each in found] == [bits(each) for each in right]
    assert same.most == 1
    assert other.most > 1


async def test_a_failure_lets_nobody_wait() -> None:
    *requests, _stranger = said()
    broken = made(Broken)
    with anyio.fail_after(20):
        found = await regenerate(broken, requests)
    assert [type(each) for each in found] == [GenerationFailed] * 4
    assert broken.most > 1


def bits(result: Result | GenerationFailed) -> Any:
    assert isinstance(result, Result)
    return result.token_ids, result.receipt["logits_hash"]


def reused(result: Result | GenerationFailed) -> int:
    assert isinstance(result, Result)
    tokens = result.receipt["reused_tokens"]
    assert isinstance(tokens, int)
    return tokens

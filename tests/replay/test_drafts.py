"""A reply that is read ahead from a draft has the tokens and the bits of one that was drawn one by one."""

from __future__ import annotations

import random
from typing import Any

import pytest

from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.torch_decoder import TorchDecoder
from niels_gpt.kernels.gpt_packing import pack_gpt
from niels_gpt.sampling import Sampling
from niels_gpt.text.tokenizer import ByteTokenizer
from tests.replay.recordings import integer_model
from tests.replay.test_recording import SAMPLINGS, run, wanted

LONG = 150  # more than the draws that are made ahead
EVERYTHING = Sampling(
    1.1, top_k=None, top_p=0.95, repetition_penalty=1.2, frequency_penalty=0.4, presence_penalty=0.2
)


@pytest.fixture
def decoder() -> KernelDecoder:
    """Without a pool, so that every reply is computed again."""
    return KernelDecoder(pack_gpt(integer_model(T=256)), ByteTokenizer(), threads=1, prefix_cache_bytes=0)


def told(outcome: tuple[list[int], dict[str, Any]]) -> tuple[list[int], Any, Any]:
    ids, receipt = outcome
    return ids, receipt["logits_hash"], receipt["smallest_margin"]


@pytest.mark.parametrize("sampling", [*SAMPLINGS.values(), EVERYTHING], ids=[*SAMPLINGS, "penalties"])
def test_a_right_draft_changes_no_bit(decoder: KernelDecoder, sampling: Sampling) -> None:
    [plain] = run(decoder, wanted(sampling=sampling, max_new_tokens=LONG))
    ids = tuple(plain[0])
    for draft in (ids, ids[:-1], ids[:70], ids[:1], (*ids, 1, 2)):
        [drafted] = run(decoder, wanted(sampling=sampling, max_new_tokens=LONG, draft_ids=draft))
        assert told(drafted) == told(plain)


def test_a_draft_takes_far_fewer_steps(decoder: KernelDecoder) -> None:
    [(ids, _)] = run(decoder, wanted(max_new_tokens=LONG))
    sequence = decoder.admit(wanted(max_new_tokens=LONG, draft_ids=tuple(ids)))
    steps = 1
    while decoder.advance([sequence])[0].finish is None:
        steps += 1
    assert steps <= 4


@pytest.mark.parametrize("sampling", [SAMPLINGS["greedy"], EVERYTHING], ids=["greedy", "penalties"])
def test_a_draft_that_is_wrong_anywhere_changes_no_bit(decoder: KernelDecoder, sampling: Sampling) -> None:
    [plain] = run(decoder, wanted(sampling=sampling, max_new_tokens=LONG))
    for place in [0, 1, 2, 31, 62, 63, 64, 65, 100, LONG - 2, LONG - 1]:
        draft = [*plain[0]]
        draft[place] ^= 1
        [drafted] = run(decoder, wanted(sampling=sampling, max_new_tokens=LONG, draft_ids=tuple(draft)))
        assert told(drafted) == told(plain)


def test_a_draft_of_ids_that_do_not_exist_changes_no_bit(decoder: KernelDecoder) -> None:
    [plain] = run(decoder, wanted())
    assert told(run(decoder, wanted(draft_ids=(*plain[0][:5], 999, 3)))[0]) == told(plain)


def test_a_draft_goes_on_from_forced_tokens(decoder: KernelDecoder) -> None:
    [plain] = run(decoder, wanted())
    ids = tuple(plain[0])
    [forced] = run(decoder, wanted(forced_ids=ids[:9]))
    [drafted] = run(decoder, wanted(forced_ids=ids[:9], draft_ids=ids[9:]))
    assert told(drafted) == told(forced)


def test_a_drafted_reply_ends_where_the_reply_ends(decoder: KernelDecoder) -> None:
    [(ids, _)] = run(decoder, wanted())
    stops = frozenset({ids[10]})
    [plain] = run(decoder, wanted(stop_ids=stops))
    [drafted] = run(decoder, wanted(stop_ids=stops, draft_ids=tuple(ids)))
    assert told(drafted) == told(plain)
    assert len(drafted[0]) <= 11


def test_drafts_and_other_replies_share_steps(decoder: KernelDecoder) -> None:
    chance = random.Random(4)
    plain = [wanted(seed=n, max_new_tokens=chance.randrange(1, LONG)) for n in range(12)]
    alone = [told(run(decoder, each)[0]) for each in plain]
    drafted = []
    for number, (ids, _, _) in enumerate(alone):
        draft = list(ids)
        if number % 3 == 1:
            draft[chance.randrange(len(draft))] ^= 1
        given = tuple(draft) if number % 4 else ()
        drafted.append(wanted(seed=number, max_new_tokens=plain[number].max_new_tokens, draft_ids=given))
    assert [told(each) for each in run(decoder, *drafted)] == alone


def test_drafts_go_with_pooled_prompts() -> None:
    decoder = KernelDecoder(pack_gpt(integer_model(T=256)), ByteTokenizer(), threads=1)
    [plain] = run(decoder, wanted(max_new_tokens=LONG))
    for _ in range(2):
        drafted = run(decoder, *[wanted(max_new_tokens=LONG, draft_ids=tuple(plain[0]))] * 3)
        assert [told(each) for each in drafted] == [told(plain)] * 3


def test_without_its_cache_a_reply_has_no_use_for_a_draft(decoder: KernelDecoder) -> None:
    [plain] = run(decoder, wanted())
    [drafted] = run(decoder, wanted(use_cache=False, draft_ids=tuple(plain[0])))
    assert told(drafted) == told(plain)


def test_torch_draws_as_it_does_without_a_draft() -> None:
    decoder = TorchDecoder(integer_model(), ByteTokenizer())
    [plain] = run(decoder, wanted())
    assert told(run(decoder, wanted(draft_ids=tuple(plain[0])))[0]) == told(plain)

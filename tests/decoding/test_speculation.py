"""Replies that are drafted from the conversation have the bits of replies that are drawn one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from bench.exactness import AnyDraftPays
from engine import Engine, Result
from niels_gpt.conversation import branching
from niels_gpt.decoding.kernel_decoder import KernelDecoder, KernelSequence
from niels_gpt.decoding.request import Step
from niels_gpt.decoding.speculation import BREAK, LONGEST_MATCH, PromptLookup, Speculation, StepCosts
from niels_gpt.kernels.gpt_packing import pack_gpt
from niels_gpt.sampling import Sampling
from niels_gpt.text.tokenizer import ByteTokenizer
from sessions import open_store
from tests.replay.recordings import Ear, integer_model, loaded, record_session, say, tiny_checkpoint
from tests.replay.test_drafts import EVERYTHING, told
from tests.replay.test_recording import SAMPLINGS, run, wanted

FORMS = ("float32", "int8", "q8", "q4")
LENGTH = 90


def new_decoder(form: Any = "float32", kind: type[KernelDecoder] = KernelDecoder) -> KernelDecoder:
    """Make a decoder without a prefix cache that reads every draft, whatever it costs."""
    model = pack_gpt(integer_model(T=256), form)
    decoder = kind(model, ByteTokenizer(), threads=1, prefix_cache_bytes=0)
    decoder.step_costs = AnyDraftPays()
    return decoder


def worn(ids: Sequence[int], every: int = 12) -> tuple[int, ...]:
    """Return ids of which some are wrong."""
    return tuple(each ^ 1 if place % every == every - 1 else each for place, each in enumerate(ids))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sampling", [*SAMPLINGS.values(), EVERYTHING], ids=[*SAMPLINGS, "penalties"])
def test_a_reply_that_repeats_an_example_has_the_same_bits(form: str, sampling: Sampling) -> None:
    decoder = new_decoder(form)
    [plain] = run(decoder, wanted(sampling=sampling, max_new_tokens=LENGTH))
    for examples in (plain[0],), (worn(plain[0]),), (plain[0][40:], worn(plain[0], 7)):
        asked = wanted(
            sampling=sampling, max_new_tokens=LENGTH, speculate=True, examples=tuple(map(tuple, examples))
        )
        assert told(run(decoder, asked)[0]) == told(plain)


def test_an_example_saves_most_of_the_steps() -> None:
    decoder = new_decoder()
    [(ids, _)] = run(decoder, wanted(max_new_tokens=LENGTH))
    sequence = decoder.admit(wanted(max_new_tokens=LENGTH, speculate=True, examples=(worn(ids),)))
    steps = 1
    while decoder.advance([sequence])[0].finish is None:
        steps += 1
    assert steps < LENGTH / 3


class Trusting(KernelDecoder):
    """Takes a draft for what was drawn."""

    @staticmethod
    def _take(
        sequence: KernelSequence, ids: list[int], sums: list[int], margins: list[float], rows: np.ndarray
    ) -> Step:
        trusted = [*sequence.draft, *ids[len(sequence.draft) :]][: len(ids)]
        return KernelDecoder._take(sequence, [max(each, 0) for each in trusted], sums, margins, rows)


def test_a_draft_that_is_taken_without_a_draw_is_noticed() -> None:
    [plain] = run(new_decoder(), wanted(max_new_tokens=LENGTH))
    asked = wanted(max_new_tokens=LENGTH, speculate=True, examples=(worn(plain[0]),))
    assert told(run(new_decoder(kind=Trusting), asked)[0]) != told(plain)


def test_stop_ids_and_short_replies_end_a_drafted_reply_as_a_plain_one() -> None:
    decoder = new_decoder()
    [(ids, _)] = run(decoder, wanted(max_new_tokens=LENGTH))
    for changes in ({"stop_ids": frozenset({ids[30]})}, {"max_new_tokens": 17}, {"max_new_tokens": 2}):
        fields: dict[str, Any] = {"max_new_tokens": LENGTH} | changes
        [plain] = run(decoder, wanted(**fields))
        [drafted] = run(decoder, wanted(speculate=True, examples=(tuple(ids),), **fields))
        assert told(drafted) == told(plain)


def test_an_example_with_ids_of_another_model_changes_no_bit() -> None:
    decoder = new_decoder()
    [plain] = run(decoder, wanted())
    example = (*plain[0][:5], 50_000, *plain[0][6:])
    assert told(run(decoder, wanted(speculate=True, examples=(example, (-3,), ())))[0]) == told(plain)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_replies_that_join_and_leave_an_engine_keep_their_bits(anyio_backend: str) -> None:
    decoder = new_decoder()
    requests = [wanted(seed=seed, max_new_tokens=LENGTH) for seed in range(3)]
    plain = [run(decoder, each)[0] for each in requests]
    drafted = [
        wanted(seed=seed, max_new_tokens=LENGTH, speculate=True, examples=(worn(ids),))
        for seed, (ids, _) in enumerate(plain)
    ]
    found: list[Result] = []
    async with Engine(decoder) as engine:
        with anyio.fail_after(60):
            found.append(await engine.submit(drafted[0]).result())
            jobs = [engine.submit(each) for each in drafted]
            jobs[1].cancel()
            found += [await jobs[0].result(), await jobs[2].result()]
    for result, (ids, receipt) in zip(found, (plain[0], plain[0], plain[2]), strict=True):
        assert (list(result.token_ids), result.receipt["logits_hash"]) == (ids, receipt["logits_hash"])


def test_many_drafted_steps_keep_one_prefix_of_a_prompt() -> None:
    decoder = KernelDecoder(pack_gpt(integer_model(T=256)), ByteTokenizer(), threads=1)
    decoder.step_costs = AnyDraftPays()
    [plain] = run(decoder, wanted(max_new_tokens=LENGTH))
    before = len(decoder._prefix_cache or ())
    for request in (
        wanted(max_new_tokens=LENGTH, speculate=True, examples=(worn(plain[0]),)),
        wanted(max_new_tokens=LENGTH, draft_ids=tuple(plain[0])),
    ):
        assert told(run(decoder, request)[0]) == told(plain)
    assert len(decoder._prefix_cache or ()) == before


def test_the_longest_match_is_found_and_of_equal_ones_the_latest() -> None:
    ids = [1, 2, 3, 10, 9, 2, 3, 11, 8, 2, 3, 12, 7, 1, 2, 3]
    assert PromptLookup(ids, []).longest(ids) == ([10, 9, 2, 3, 11, 8, 2, 3, 12, 7, 1, 2, 3], 3)
    assert PromptLookup(ids, []).longest(ids[2:])[0][0] == 12
    assert PromptLookup([1, 2], []).longest([1, 2]) == ([], 0)
    assert PromptLookup([5], []).longest([5]) == ([], 0)


def test_an_example_is_proposed_from_the_end_of_the_prompt_to_its_own_end() -> None:
    prompt = list(range(30))
    lookup = PromptLookup(prompt, [(40, 41), (50, 51, 52)])
    assert lookup.longest(prompt) == ([50, 51, 52], LONGEST_MATCH)
    assert lookup.longest([*prompt, 40]) == ([41], LONGEST_MATCH)
    assert lookup.longest([*prompt, 40, 41]) == ([], 0)
    assert BREAK not in lookup.longest([*prompt, 40, 41, 50, 51])[0]


def test_the_setting_changes_nothing_that_is_recorded(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "a.pt")
    digests, environments = set(), []
    for speculation in (True, False):
        model = loaded(checkpoint, speculation=speculation)
        assert model.drafts == speculation
        path = tmp_path / f"{speculation}.db"
        works = [lambda each: say(each, "go on", "go on"), lambda each: branching.retry(each, Ear())]
        anyio.run(record_session, path, model, "s", works)
        model.close()
        with open_store(path) as store:
            digests.add(store.verify(store.session("s").id).digest)
            environments += [each.environment for each in store.generations(store.session("s").id)]
    assert len(digests) == 1
    assert all("speculation" not in each for each in environments)
    assert environments[:3] == environments[3:]


def drafting(costs: StepCosts) -> Callable[[int], int]:
    """Return a function that repeats two tokens, then draws a given one; it returns the draft's length."""
    ids = [1, 2, 3, 4]
    speculation = Speculation(ids, [], frozenset(), costs)

    def turn(token_id: int) -> int:
        ids.extend((1, 2))
        length = len(speculation.draft(ids, 60))
        speculation.observe([token_id])
        ids.append(token_id)
        return length

    return turn


def test_drafts_end_while_they_are_wrong_and_return_once_they_would_be_right() -> None:
    turn = drafting(StepCosts())
    right = [turn(3) for _ in range(12)]
    assert right[-1] > 0
    wrong = [turn(100 + n) for n in range(40)]
    assert wrong[-10:] == [0] * 10
    again = [turn(3) for _ in range(40)]
    assert again[-1] > 0


def test_where_a_further_row_costs_as_much_as_a_step_nothing_is_drafted() -> None:
    costs = StepCosts()
    for _ in range(60):
        costs.record(1, 1, 0.01)
        costs.record(4, 1, 0.04)
    turn = drafting(costs)
    assert not any(turn(3) for _ in range(60))


def test_one_interruption_hardly_changes_what_a_step_costs() -> None:
    costs = StepCosts()
    for _ in range(40):
        costs.record(1, 1, 0.01)
        costs.record(5, 1, 0.02)
    before = costs.row
    costs.record(5, 1, 9.0)
    costs.record(1, 1, 9.0)
    assert before == pytest.approx(0.25, rel=0.1)
    assert costs.row < 1.3 * before

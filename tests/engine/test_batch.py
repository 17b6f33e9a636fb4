"""One slice of the compute thread's work, driven directly and on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from engine import DecoderContractError, Step
from engine.batch import AT_ONCE, NEVER, Batch, BatchEvent, BatchFailed, Decoded, Ended
from engine.testing import Script, ScriptedDecoder, ScriptedSequence


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class TimedDecoder(ScriptedDecoder):
    """A step takes a second of the test's clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
        self.clock.now += 1.0
        return super().advance(sequences)


def batch_of(decoder: TimedDecoder, *, seconds: float = 100.0) -> Batch[Script, ScriptedSequence]:
    return Batch(decoder, slice_seconds=seconds, clock=decoder.clock)


def run_slice(batch: Batch[Script, ScriptedSequence], **joining: Script) -> list[BatchEvent]:
    """Let jobs join, then run a slice."""
    for job_id, script in joining.items():
        batch.join(job_id, script)
    return batch.run_slice()


def said(facts: Sequence[BatchEvent]) -> str:
    return "".join(text for fact in facts if isinstance(fact, Decoded) for _, text in fact.tokens)


def outcomes(facts: Sequence[BatchEvent]) -> dict[str, object]:
    return {fact.job_id: fact.outcome for fact in facts if isinstance(fact, Ended)}


def test_a_first_token_ends_the_slice() -> None:
    batch = batch_of(TimedDecoder(Clock()))
    assert said(run_slice(batch, a=Script.of("hello"))) == "h"


def test_later_tokens_share_one_slice_up_to_the_end_of_the_reply() -> None:
    batch = batch_of(TimedDecoder(Clock()))
    run_slice(batch, a=Script.of("hello"))
    facts = run_slice(batch)
    assert said(facts) == "ello"
    assert outcomes(facts) == {"a": "stop"}


def test_prefill_without_tokens_goes_on_within_the_slice() -> None:
    decoder = TimedDecoder(Clock())
    facts = run_slice(batch_of(decoder), a=Script(tokens=[(1, "x")], prefill_steps=7))
    assert said(facts) == "x"
    assert len(decoder.batches) == 8


def test_a_finish_ends_the_slice_for_all() -> None:
    batch = batch_of(TimedDecoder(Clock()))
    run_slice(batch, long=Script.of("a" * 20), short=Script.of("bc"))
    facts = run_slice(batch)
    assert outcomes(facts) == {"short": "stop"}
    assert said(facts) == "ac"


def test_a_slice_ends_with_its_time() -> None:
    batch = batch_of(TimedDecoder(Clock()), seconds=3.0)
    run_slice(batch, a=Script.of("0123456789"))
    assert said(run_slice(batch)) == "123"


def test_a_step_that_fails_ends_the_slice_although_a_job_has_joined_meanwhile() -> None:
    class Failing(TimedDecoder):
        def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
            if not self.batches:
                super().advance(sequences)
                batch.join("next", Script.of("hello"))
                raise OSError("no power")
            return super().advance(sequences)

    decoder = Failing(Clock())
    batch = batch_of(decoder)
    facts = run_slice(batch, a=Script.of("hello"))
    assert isinstance(facts[0], BatchFailed)
    assert (said(facts), len(decoder.batches)) == ("", 1)
    assert said(run_slice(batch)) == "h"


def test_a_slice_of_no_time_makes_one_step() -> None:
    batch = batch_of(TimedDecoder(Clock()), seconds=0.0)
    run_slice(batch, a=Script.of("0123"))
    assert said(run_slice(batch)) == "1"


def test_an_alarm_during_the_slice_ends_it_after_the_step() -> None:
    batch = batch_of(TimedDecoder(Clock()))
    run_slice(batch, a=Script.of("0123456789"))
    batch.wake_at = 4.0  # the clock stands at 1
    assert said(run_slice(batch)) == "123"


def test_a_slice_that_begins_after_the_alarm_waits_for_the_event_loop_first() -> None:
    decoder = TimedDecoder(Clock())
    batch = batch_of(decoder)
    run_slice(batch, a=Script.of("0123456789"))
    batch.wake_at = AT_ONCE
    assert run_slice(batch) == []
    batch.wake_at = NEVER
    assert said(run_slice(batch)) == "123456789"


def test_no_flood_of_alarms_stops_the_decoding() -> None:
    batch = batch_of(TimedDecoder(Clock()))
    batch.wake_at = AT_ONCE
    facts = run_slice(batch, a=Script.of("hello"))
    for _ in range(9):
        facts += run_slice(batch)
    assert said(facts) == "hello"


def test_a_newcomer_joins_between_two_steps_of_a_slice() -> None:
    class InvitingDecoder(TimedDecoder):
        def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
            if len(self.batches) == 2:
                batch.join("b", Script.of("b"))
            return super().advance(sequences)

    decoder = InvitingDecoder(Clock())
    batch = batch_of(decoder)
    run_slice(batch, a=Script.of("aaaaaaaa"))
    run_slice(batch)
    assert decoder.batches == [("aaaaaaaa",)] * 3 + [("aaaaaaaa", "b")]


def test_a_slice_waits_for_the_newcomer_that_takes_a_free_place() -> None:
    decoder = TimedDecoder(Clock())
    batch = batch_of(decoder)
    batch.has_waiters = True
    run_slice(batch, a=Script.of("a"), b=Script.of("bbb"))
    assert run_slice(batch) == []
    run_slice(batch, c=Script.of("c"))
    assert decoder.batches == [("a", "bbb"), ("bbb", "c")]


def test_steps_sequences_and_time_are_counted() -> None:
    batch = batch_of(TimedDecoder(Clock()))
    run_slice(batch, a=Script.of("abc"), b=Script.of("x"))
    run_slice(batch)
    assert (batch.steps, batch.advanced, batch.busy_seconds) == (3, 4, 3.0)


def test_after_more_than_an_exception_no_slice_does_anything() -> None:
    class EndingDecoder(TimedDecoder):
        def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
            super().advance(sequences)
            raise KeyboardInterrupt

    decoder = EndingDecoder(Clock())
    batch = batch_of(decoder)
    with pytest.raises(KeyboardInterrupt):
        run_slice(batch, a=Script.of("abc"))
    assert run_slice(batch) == []
    assert len(decoder.batches) == 1


def test_a_leaving_job_is_released_before_another_step() -> None:
    decoder = TimedDecoder(Clock())
    batch = batch_of(decoder)
    run_slice(batch, a=Script.of("hello"))
    batch.leave("a")
    facts = run_slice(batch)
    assert outcomes(facts) == {"a": "cancelled"}
    assert said(facts) == ""
    assert len(decoder.batches) == 1
    assert decoder.live == []


def test_a_job_told_to_leave_before_its_first_slice_began_is_admitted_and_released() -> None:
    decoder = TimedDecoder(Clock())
    batch = batch_of(decoder)
    batch.join("a", Script.of("hello"))
    batch.leave("a")
    assert outcomes(run_slice(batch)) == {"a": "cancelled"}
    assert decoder.live == []
    assert decoder.batches == []


def test_a_leave_during_a_slice_takes_effect_after_the_step_in_flight() -> None:
    class LeavingDecoder(TimedDecoder):
        def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
            if len(self.batches) == 2:
                batch.leave("a")
            return super().advance(sequences)

    batch = batch_of(LeavingDecoder(Clock()))
    run_slice(batch, a=Script.of("hello"))
    facts = run_slice(batch)
    assert said(facts) == "el"
    assert outcomes(facts) == {"a": "cancelled"}


def test_leaving_after_the_end_or_without_having_joined_changes_nothing() -> None:
    batch = batch_of(TimedDecoder(Clock()))
    assert outcomes(run_slice(batch, a=Script.of("x"))) == {"a": "stop"}
    batch.leave("a")
    batch.leave("never")
    assert run_slice(batch) == []


def test_newcomers_join_the_running_batch() -> None:
    decoder = TimedDecoder(Clock())
    batch = batch_of(decoder)
    run_slice(batch, a=Script.of("aaaa"))
    run_slice(batch, b=Script.of("bb"))
    assert decoder.batches == [("aaaa",), ("aaaa", "bb")]


def test_several_tokens_a_step_stay_together_and_in_order() -> None:
    batch = batch_of(TimedDecoder(Clock()))
    facts = run_slice(batch, a=Script(tokens=[(n, str(n)) for n in range(9)], tokens_a_step=4))
    assert facts == [Decoded(job_id="a", at=1.0, tokens=[(n, str(n)) for n in range(4)])]


@pytest.mark.parametrize(
    "steps",
    [[Step(finish="eos")], [object()], [Step(tokens=[(1,)])], [Step(tokens=5)]],  # pyright: ignore
    ids=["unknown finish", "no step", "token of the wrong shape", "tokens of the wrong type"],
)
def test_a_step_of_the_wrong_shape_fails_its_job_with_a_typed_error(steps: list[Step]) -> None:
    class WrongDecoder(TimedDecoder):
        def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
            return [steps[0], *super().advance(sequences)[1:]]

    batch = batch_of(WrongDecoder(Clock()))
    facts = run_slice(batch, bad=Script.of("no"), good=Script.of("x"))
    assert isinstance(outcomes(facts)["bad"], DecoderContractError)
    assert outcomes(facts)["good"] == "stop"


def test_a_wrong_number_of_steps_fails_the_whole_batch() -> None:
    class ShortDecoder(TimedDecoder):
        def advance(self, sequences: Sequence[ScriptedSequence]) -> Sequence[Step]:
            return super().advance(sequences)[:-1]

    decoder = ShortDecoder(Clock())
    facts = run_slice(batch_of(decoder), a=Script.of("x"), b=Script.of("y"))
    assert all(isinstance(outcome, DecoderContractError) for outcome in outcomes(facts).values())
    assert set(outcomes(facts)) == {"a", "b"}
    assert facts[0] == BatchFailed()
    assert [fact.scope for fact in facts if isinstance(fact, Ended)] == ["batch", "batch"]
    assert decoder.live == []


def test_clearing_releases_what_is_left() -> None:
    decoder = TimedDecoder(Clock())
    batch = batch_of(decoder)
    run_slice(batch, a=Script.of("aaaa"), b=Script.of("bbbb"))
    batch.clear()
    assert decoder.live == []

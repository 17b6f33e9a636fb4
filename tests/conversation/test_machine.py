"""A short run of the state machine; `python -m tests.conversation.machine` is the campaign."""

from __future__ import annotations

from hypothesis import Phase

from tests.conversation.machine import run


def test_no_order_of_steps_and_cancellations_loses_or_mixes_anything() -> None:
    run(160, per_example=20, phases=(Phase.generate,))

"""The loop that generates many replies together, over a decoder of a script."""

from __future__ import annotations

from typing import Any

import pytest

from niels_gpt.decoding.request import Step
from niels_gpt.errors import NielsGptError
from niels_gpt.generation.batch import generate_replies


class Scripted:
    """A decoder whose sequences are their requests: lists of steps, or an error that refuses them."""

    def __init__(self) -> None:
        self.admitted: list[Any] = []
        self.released: list[Any] = []

    def admit(self, request: Any) -> Any:
        if isinstance(request, NielsGptError):
            raise request
        self.admitted.append(request)
        return request

    def advance(self, sequences: list[Any]) -> list[Step]:
        steps = [sequence.pop(0) for sequence in sequences]
        for step in steps:
            if isinstance(step, MemoryError):
                raise step
        return steps

    def release(self, sequence: Any) -> None:
        self.released.append(sequence)

    @property
    def held(self) -> int:
        return len(self.admitted) - len(self.released)


def says(*words: str) -> list[Any]:
    return [*(Step(tokens=((0, word),)) for word in words), Step(finish="stop")]


def test_a_step_that_fails_ends_its_reply_alone_and_every_place_is_free_again() -> None:
    decoder, fault = Scripted(), ValueError("not a number")
    requests = [says("one"), [Step(tokens=((0, "tw"),)), Step(error=fault)], says("th", "ree"), None]
    found = list(generate_replies(decoder, requests, batch_size=2))
    assert [(reply.text, reply.finish) for reply in found] == [
        ("one", "stop"), ("tw", "error"), ("three", "stop"), ("", "length"),
    ]  # fmt: skip
    assert found[1].error is fault
    assert decoder.held == 0


def test_a_request_that_is_refused_is_a_reply_with_its_error() -> None:
    decoder, fault = Scripted(), NielsGptError("too long")
    refused, served = generate_replies(decoder, [fault, says("one")])
    assert (refused.finish, refused.error, served.text) == ("error", fault, "one")
    assert decoder.held == 0


def test_whatever_ends_the_loop_every_sequence_is_released() -> None:
    decoder = Scripted()
    with pytest.raises(MemoryError):
        list(generate_replies(decoder, [says("a", "b"), [MemoryError()], says("c")]))
    assert (len(decoder.admitted), decoder.held) == (3, 0)

    decoder = Scripted()
    running = generate_replies(decoder, [says("a"), says("b", "c", "d")])
    assert next(running).text == "a"
    assert decoder.held == 1
    running.close()
    assert decoder.held == 0

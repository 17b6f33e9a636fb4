"""The engine over a fake model that says a request's words back: every event as a JSON line."""

from collections.abc import Sequence

import anyio

from engine import Engine, Step, to_json


class Parrot:
    """A whole decoder: a request is a text, a sequence is the list of its words still to be said."""

    def admit(self, request: str) -> list[str]:
        """Begin with all words."""
        return request.split()

    def advance(self, sequences: Sequence[list[str]]) -> list[Step]:
        """Let each sequence say its next word."""
        return [Step([(0, words.pop(0) + " ")], finish=None if words else "stop") for words in sequences]

    def release(self, sequence: list[str]) -> dict[str, object]:
        """Tell how many words were not said."""
        return {"unsaid": len(sequence)}


async def main() -> None:
    """Follow one job."""
    async with Engine(Parrot()) as engine:
        async for event in engine.submit("tell me about attention").events():
            print(to_json(event))


anyio.run(main)

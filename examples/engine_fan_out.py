"""One reply to three subscribers: one from the start, one that comes late, one that leaves early."""

from collections.abc import Sequence

import anyio

from engine import Engine, Job, Step, TokenGenerated


class Counter:
    """A whole decoder: says the numbers up to the requested one."""

    def admit(self, request: int) -> list[int]:
        """Begin with all numbers."""
        return list(range(1, request + 1))

    def advance(self, sequences: Sequence[list[int]]) -> list[Step]:
        """Let each sequence say its next number."""
        return [Step([(left[0], f"{left.pop(0)} ")], finish=None if left else "stop") for left in sequences]

    def release(self, sequence: list[int]) -> dict[str, object]:
        """Tell how many numbers were not said."""
        return {"unsaid": len(sequence)}


async def listen(name: str, job: Job, start: int = 0, most: int = 100) -> None:
    """Follow a job from event `start` on, for at most so many tokens."""
    heard: list[str] = []
    with job.events(start) as events:
        async for event in events:
            if isinstance(event, TokenGenerated):
                heard.append(event.text)
            if len(heard) == most:
                break
    print(f"{name}: {''.join(heard)}")


async def main() -> None:
    """Let all three listen."""
    async with Engine(Counter()) as engine, anyio.create_task_group() as tasks:
        job = engine.submit(10)
        tasks.start_soon(listen, "from the start", job)
        await job.result()
        tasks.start_soon(listen, "late, from the eighth event", job, 8)
        tasks.start_soon(listen, "leaves after three tokens", job, 0, 3)


anyio.run(main)

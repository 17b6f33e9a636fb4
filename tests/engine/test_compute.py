"""The border to the compute thread: one thread, values and errors come back, no cancellation reaches in."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import anyio
import pytest

from engine.notifier import Wakeup
from engine.worker import ComputeThread

pytestmark = pytest.mark.anyio


@pytest.fixture
def thread() -> Iterator[ComputeThread]:
    thread = ComputeThread("compute-under-test")
    thread.start()
    yield thread
    thread.close(lambda: None)


async def test_every_call_runs_on_the_same_other_thread(thread: ComputeThread) -> None:
    with anyio.fail_after(5):
        seen = {await thread.begin(threading.get_ident).outcome() for _ in range(20)}
    assert len(seen) == 1
    assert threading.get_ident() not in seen


async def test_a_value_comes_back_even_if_it_is_none(thread: ComputeThread) -> None:
    with anyio.fail_after(5):
        assert await thread.begin(lambda: 42).outcome() == 42
        assert await thread.begin(lambda: None).outcome() is None


async def test_an_error_comes_back_and_the_thread_goes_on(thread: ComputeThread) -> None:
    def fail() -> None:
        raise KeyError("over there")

    with anyio.fail_after(5):
        with pytest.raises(KeyError, match="over there"):
            await thread.begin(fail).outcome()
        assert await thread.begin(lambda: "still here").outcome() == "still here"


async def test_a_call_in_a_cancelled_scope_is_still_waited_for(thread: ComputeThread) -> None:
    values: list[str] = []
    with anyio.fail_after(5), anyio.CancelScope() as scope:
        scope.cancel()
        values.append(await thread.begin(lambda: "whole").outcome())
    assert values == ["whole"]


async def test_closing_performs_the_last_call_and_ends_the_thread() -> None:
    calls: list[str] = []
    thread = ComputeThread("compute-to-close")
    thread.start()
    thread.close(lambda: calls.append(threading.current_thread().name))
    assert calls == ["compute-to-close"]
    assert "compute-to-close" not in {running.name for running in threading.enumerate()}


def test_a_call_that_outlives_its_event_loop_does_not_kill_the_thread(thread: ComputeThread) -> None:
    release = threading.Event()

    async def walk_away() -> None:
        await thread.begin(lambda: release.wait(10)).outcome()

    # Driven by hand up to its first wait, then dropped together with the loop.
    async def main() -> None:
        walking = walk_away()
        walking.send(None)
        walking.close()

    try:
        anyio.run(main, backend="asyncio")
    finally:
        release.set()

    async def go_on() -> str:
        return await thread.begin(lambda: "still here").outcome()

    assert anyio.run(go_on, backend="asyncio") == "still here"


async def test_a_ring_wakes_all_who_wait_and_none_who_come_later() -> None:
    wakeup = Wakeup()
    woken: list[int] = []

    async def wait(number: int) -> None:
        await wakeup.wait()
        woken.append(number)

    wakeup.ring()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            assert woken == []
            wakeup.ring()
            await anyio.wait_all_tasks_blocked()
            assert sorted(woken) == [0, 1, 2]
            tasks.start_soon(wait, 3)
            await anyio.wait_all_tasks_blocked()
            assert 3 not in woken
            tasks.cancel_scope.cancel()

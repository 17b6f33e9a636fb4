"""The border to the compute thread: one thread, values and errors come back, no cancellation reaches in."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import anyio
import pytest

from engine.event_log import Notifier
from engine.worker import ComputeThread

pytestmark = pytest.mark.anyio


@pytest.fixture
def thread() -> Iterator[ComputeThread]:
    thread = ComputeThread("compute-under-test")
    thread.start()
    yield thread

    async def close() -> None:
        await thread.close(lambda: None)

    # On a thread of its own: this one may have an event loop that belongs to the test.
    closing = threading.Thread(target=lambda: anyio.run(close))
    closing.start()
    closing.join(10)


async def test_every_call_runs_on_the_same_other_thread(thread: ComputeThread) -> None:
    with anyio.fail_after(5):
        seen = {await thread.submit(threading.get_ident).result() for _ in range(20)}
    assert len(seen) == 1
    assert threading.get_ident() not in seen


async def test_a_value_comes_back_even_if_it_is_none(thread: ComputeThread) -> None:
    with anyio.fail_after(5):
        assert await thread.submit(lambda: 42).result() == 42
        assert await thread.submit(lambda: None).result() is None


async def test_an_error_comes_back_and_the_thread_goes_on(thread: ComputeThread) -> None:
    def fail() -> None:
        raise KeyError("over there")

    with anyio.fail_after(5):
        with pytest.raises(KeyError, match="over there"):
            await thread.submit(fail).result()
        assert await thread.submit(lambda: "still here").result() == "still here"


async def test_a_call_in_a_cancelled_scope_is_still_waited_for(thread: ComputeThread) -> None:
    values: list[str] = []
    with anyio.fail_after(5), anyio.CancelScope() as scope:
        scope.cancel()
        values.append(await thread.submit(lambda: "whole").result())
    assert values == ["whole"]


async def test_a_decoder_that_hangs_while_the_thread_closes_holds_up_nothing_else() -> None:
    release = threading.Event()
    thread = ComputeThread("compute-that-hangs")
    thread.start()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(thread.close, lambda: release.wait(10))
            await anyio.wait_all_tasks_blocked()  # so the event loop runs
            release.set()
    assert "compute-that-hangs" not in {running.name for running in threading.enumerate()}


def test_a_decoder_that_never_returns_does_not_keep_the_interpreter_alive() -> None:
    assert ComputeThread("compute-to-leave")._thread.daemon


async def test_an_error_of_the_last_call_comes_back_and_the_thread_still_ends() -> None:
    thread = ComputeThread("compute-to-fail")
    thread.start()
    with anyio.fail_after(5), pytest.raises(ZeroDivisionError):
        await thread.close(lambda: 1 // 0)
    assert "compute-to-fail" not in {running.name for running in threading.enumerate()}


async def test_closing_performs_the_last_call_and_ends_the_thread() -> None:
    calls: list[str] = []
    thread = ComputeThread("compute-to-close")
    thread.start()
    await thread.close(lambda: calls.append(threading.current_thread().name))
    assert calls == ["compute-to-close"]
    assert "compute-to-close" not in {running.name for running in threading.enumerate()}


def test_a_call_that_outlives_its_event_loop_does_not_kill_the_thread(thread: ComputeThread) -> None:
    release = threading.Event()

    async def walk_away() -> None:
        await thread.submit(lambda: release.wait(10)).result()

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
        return await thread.submit(lambda: "still here").result()

    assert anyio.run(go_on, backend="asyncio") == "still here"


async def test_a_notification_wakes_all_waiters_and_no_later_one() -> None:
    notifier = Notifier()
    woken: list[int] = []

    async def wait(number: int) -> None:
        await notifier.wait()
        woken.append(number)

    notifier.notify_all()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            assert woken == []
            notifier.notify_all()
            await anyio.wait_all_tasks_blocked()
            assert sorted(woken) == [0, 1, 2]
            tasks.start_soon(wait, 3)
            await anyio.wait_all_tasks_blocked()
            assert 3 not in woken
            tasks.cancel_scope.cancel()

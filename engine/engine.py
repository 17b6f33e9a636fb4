"""The engine: accepts requests, keeps the batch full, publishes events.

One owner task on the event loop hands the compute thread one slice of work after the other, always one
ahead, and publishes the batch events that come back: one thread hop a slice, whatever number of tokens, while
the next slice is being decoded. Between slices it applies what was requested meanwhile: jobs join in the
order of their submission; cancelled, late and abandoned jobs leave.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import Generic, Self, TypeVar

import anyio
from anyio.abc import TaskGroup

from engine.batch import AT_ONCE, Batch, BatchEvent, BatchFailed, Decoded
from engine.deadlines import Deadlines, check_seconds
from engine.decoder import Decoder
from engine.errors import EngineClosed, EngineFull, readable
from engine.event_log import Cursor, EventLog, Notifier
from engine.events import CancelCause
from engine.job import Job
from engine.job_state import JobRecord, JobState
from engine.statistics import Counters, Statistics
from engine.worker import Compute, ComputeThread, Future

RequestT = TypeVar("RequestT")
SequenceT = TypeVar("SequenceT")

# Events that the log over all jobs holds for its subscribers: some seconds of a full batch, about a megabyte.
FEED_CAPACITY = 4096
# Slices submitted to the compute thread: it runs the second while the event loop publishes the first.
AHEAD = 2


class Engine(Generic[RequestT, SequenceT]):
    """Runs the jobs of one decoder, at most `max_batch` at a time, while its `async with` block is open.

    All methods belong to the event loop's thread. Only entering, leaving and `drain` wait.

    Leaving the block, normally, by an error or by cancellation, refuses new jobs, cancels those that are
    queued or running, waits until each is released and has its terminal event, and ends the subscriptions and
    the compute thread. It takes as long as the decode step in flight. Call `drain` first to let running jobs
    finish. An engine is entered once.
    """

    def __init__(
        self,
        decoder: Decoder[RequestT, SequenceT],
        *,
        max_batch: int = 32,
        max_queue: int = 1024,
        slice_ms: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        compute: Compute | None = None,
    ) -> None:
        """Make an engine; nothing runs before it is entered.

        Args:
            decoder: The model, driven on one thread.
            max_batch: Jobs decoded together, at most.
            max_queue: Further jobs that may wait for a place.
            slice_ms: How long tokens may wait before they are published; 0: one step a slice.
            clock: Seconds for events, timings, deadlines and slices; called on both threads.
            compute: Performs the decoder's calls; None: a thread of the engine's own. For simulations.

        Raises:
            ValueError: A number is out of range.

        """
        if max_batch < 1:
            raise ValueError(
                f"max_batch is the number of jobs decoded together, at least 1; got {max_batch!r}"
            )
        if max_queue < 1:
            raise ValueError(
                f"max_queue is the number of jobs that may wait for a place, at least 1; got {max_queue!r}"
            )
        if not slice_ms >= 0:  # NaN too
            raise ValueError(f"slice_ms is a time in milliseconds, at least 0; got {slice_ms!r}")
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._clock = clock
        self._batch = Batch(decoder, slice_seconds=slice_ms / 1000, clock=clock)
        self._thread = compute or ComputeThread("engine-compute")
        self._feed = EventLog(FEED_CAPACITY)
        self._numbers = count(1)
        self._jobs: dict[str, Job] = {}
        self._waiting: OrderedDict[str, JobRecord[RequestT]] = OrderedDict()
        self._running: dict[str, JobRecord[RequestT]] = {}
        self._deadlines = Deadlines()
        self._left: deque[str] = deque()  # a job's id for each follower that is gone, from any thread
        self._counters = Counters()
        self._work = Notifier()
        self._idle = Notifier()
        self._phase = "not entered"  # then "open", "draining", "closing", "closed"
        self._tasks: TaskGroup | None = None

    @property
    def jobs(self) -> Mapping[str, Job]:
        """The jobs that have not ended, by id; a live, read-only view."""
        return MappingProxyType(self._jobs)

    def submit(
        self,
        request: RequestT,
        *,
        deadline: float | None = None,
        queue_deadline: float | None = None,
        cancel_when_abandoned: bool = False,
    ) -> Job:
        """Queue a request and return its job at once.

        Args:
            request: What the decoder's `admit` takes.
            deadline: Seconds from now after which the job is cancelled unless it has ended.
            queue_deadline: Seconds from now after which the job is cancelled unless it has started.
            cancel_when_abandoned: Whether the job is cancelled once it had followers (a cursor of
                `Job.events`, a wait for `Job.result`) and the last of them is gone.

        Raises:
            EngineClosed: The engine is not entered, or drained, or left.
            EngineFull: `max_queue` jobs wait for a place.
            ValueError: A deadline is not a number of seconds.

        """
        if self._phase != "open":
            raise EngineClosed(
                f"cannot submit {readable(request)}: the engine is {self._phase}. "
                "Submit inside of `async with Engine(...) as engine:`, before draining it."
            )
        check_seconds("deadline", deadline)
        check_seconds("queue_deadline", queue_deadline)
        if len(self._running) + len(self._waiting) >= self._max_batch + self._max_queue:
            self._counters.rejected += 1
            raise EngineFull(self._max_queue)
        job_id, now = f"job-{next(self._numbers)}", self._clock()
        on_left = partial(self._follower_left, job_id) if cancel_when_abandoned else None
        record = JobRecord(job_id=job_id, request=request, at=now, feed=self._feed, on_left=on_left)
        cancel = partial(self._cancel, record, "requested")
        job = Job(record, cancel=cancel, clock=self._clock)  # pyright: ignore[reportArgumentType]
        self._counters.submitted += 1
        self._jobs[job_id] = job
        self._waiting[job_id] = record
        self._deadlines.set(job_id, at=now, queue=queue_deadline, whole=deadline)
        self._batch.wake_at = AT_ONCE
        self._work.notify_all()
        return job

    def subscribe(self) -> Cursor:
        """Return an iterator over the events of all jobs from now on; it ends when the engine is left.

        It costs bounded memory: the newest events are held once for all subscribers. A subscriber that falls
        further behind receives `SubscriberLagged` with the number of missed events, then continues.
        """
        return Cursor(self._feed, self._feed.end)

    def statistics(self) -> Statistics:
        """Return the engine's counters and timings so far; also after it was left."""
        batch = self._batch
        return self._counters.statistics(
            queued=len(self._waiting),
            running=len(self._running),
            steps=batch.steps,
            advanced=batch.advanced,
            busy_seconds=batch.busy_seconds,
            max_batch=self._max_batch,
        )

    async def drain(self) -> None:
        """Accept no more jobs, permanently, and wait until all accepted ones have ended.

        Returns at once if the engine is left already. A timeout around it bounds how long the jobs get:
        leaving the block afterwards cancels the rest.
        """
        if self._phase == "not entered":
            raise EngineClosed("cannot drain an engine that was not entered; use `async with`")
        if self._phase == "open":
            self._phase = "draining"
        while self._jobs:
            await self._idle.wait()

    async def __aenter__(self) -> Self:
        if self._phase != "not entered":
            raise EngineClosed(f"an engine is entered once and this one is {self._phase}; make a new Engine")
        self._thread.start()
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        self._tasks = tasks
        self._phase = "open"
        tasks.start_soon(self._run, name="engine owner")
        return self

    async def __aexit__(self, *error: object) -> None:
        tasks = self._tasks
        if tasks is None:
            raise EngineClosed("the engine is left without having been entered; use `async with`")
        if self._phase != "closed":
            self._phase = "closing"
        for record in [*self._running.values(), *self._waiting.values()]:
            self._cancel(record, "closing")
        self._work.notify_all()
        # The task group waits for the owner, also in a cancelled scope. An error or a cancellation of the
        # block propagates as it is: passed to the task group, it would come out inside of an exception group.
        await tasks.__aexit__(None, None, None)

    async def _run(self) -> None:
        """Run until the engine is left and the last job has ended."""
        slices: deque[Future[list[BatchEvent]]] = deque()
        try:
            # Cancellation arrives as a request to leave the block: the slice in flight is always waited for.
            with anyio.CancelScope(shield=True):
                while self._phase in ("open", "draining") or self._jobs or slices:
                    self._schedule()
                    while self._running and len(slices) < AHEAD:
                        slices.append(self._thread.submit(self._batch.run_slice))
                    if not slices:
                        await self._work.wait()
                        continue
                    for event in await slices.popleft().result():
                        self._publish(event)
        except BaseException as error:
            self._fail_all(error)
            raise
        finally:
            # Every job has ended. Subscribers end first, since the thread may take as long as a step.
            self._phase = "closed"
            self._feed.close()
            await self._thread.close(self._batch.clear)

    def _schedule(self) -> None:
        """Cancel late and abandoned jobs, then move waiting ones to the free places."""
        for job_id in self._deadlines.pop_due(self._clock()):
            self._cancel(self._record(job_id), "deadline")
        # Before `_left` is read, which any thread may extend: what is set from here on ends the next slice.
        self._batch.wake_at = self._deadlines.next
        while self._left:
            self._count_out(self._left.popleft())
        while self._waiting and len(self._running) < self._max_batch:
            job_id, record = self._waiting.popitem(last=False)
            self._running[job_id] = record
            self._deadlines.started(job_id)
            record.start(self._clock())
            self._batch.join(job_id, record.request)
        self._batch.has_waiters = bool(self._waiting)

    def _record(self, job_id: str) -> JobRecord[RequestT]:
        return self._running[job_id] if job_id in self._running else self._waiting[job_id]

    def _follower_left(self, job_id: str) -> None:
        """Record that a follower of a job is gone; on any thread, since cursors can be dropped on any."""
        if job_id in self._jobs:
            self._left.append(job_id)
            self._batch.wake_at = AT_ONCE

    def _count_out(self, job_id: str) -> None:
        """Cancel a job whose last follower is gone."""
        if job_id in self._jobs:
            record = self._record(job_id)
            record.followers -= 1
            if record.followers == 0:
                self._cancel(record, "abandoned")

    def _publish(self, event: BatchEvent) -> None:
        """Publish what the compute thread reports."""
        if isinstance(event, BatchFailed):
            self._counters.batch_failures += 1
            return
        record = self._running[event.job_id]
        if isinstance(event, Decoded):
            record.add_tokens(event.tokens, event.at)
            self._counters.tokens += len(event.tokens)
            return
        if isinstance(event.outcome, Exception):
            record.fail(event.outcome, event.scope, event.at)
        elif event.outcome == "cancelled":
            record.cancelled(event.receipt, event.at)
        else:
            record.finish(event.outcome, event.receipt, event.at)
        del self._running[event.job_id]
        self._forget(record)

    def _cancel(self, record: JobRecord[RequestT], cause: CancelCause) -> None:
        """Do what `Job.cancel` promises; nothing if the job is cancelled or ended already."""
        if record.state is JobState.QUEUED:
            del self._waiting[record.id]
            record.cancel_cause = cause
            record.cancelled({}, self._clock())
            self._forget(record)
        elif record.state is JobState.RUNNING:
            record.request_cancel(cause)
            self._batch.leave(record.id)

    def _forget(self, record: JobRecord[RequestT]) -> None:
        """Drop a job that has ended."""
        del self._jobs[record.id]
        self._deadlines.ended(record.id)
        self._counters.add(record)
        if not self._jobs:
            self._idle.notify_all()

    def _fail_all(self, error: BaseException) -> None:
        """Give every live job its terminal event when the engine itself dies; nothing here may raise."""
        self._phase = "closed"
        for record in [*self._running.values(), *self._waiting.values()]:
            if not record.state.is_terminal:
                # Not the clock: it may be what failed.
                record.fail(error, "engine", record.last_event_at)
            self._forget(record)
        self._running.clear()
        self._waiting.clear()

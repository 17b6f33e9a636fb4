"""The engine: takes requests, keeps the batch full, publishes what happens.

One owner task on the event loop hands the compute thread one slice of work after the other and turns the
facts that come back into events: one thread hop a slice, whatever number of tokens. Between two slices it
applies what callers asked for meanwhile: newcomers join in the order of their submission, cancelled jobs
leave. Knows nothing of text, tokens, sampling, terminals or stores; a model is a `Decoder`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import Generic, Self, TypeVar

import anyio
from anyio.abc import TaskGroup

from engine.batch import Batch, Decoded, Fact
from engine.compute import ComputeThread
from engine.decoder import Decoder
from engine.errors import EngineClosed
from engine.job import Job
from engine.log import Cursor, EventLog
from engine.record import JobRecord
from engine.states import JobState
from engine.wakeup import Wakeup

RequestT = TypeVar("RequestT")
SequenceT = TypeVar("SequenceT")

# Events that the log over all jobs holds for its subscribers: some seconds of a full batch, about a megabyte.
FEED_CAPACITY = 4096


class Engine(Generic[RequestT, SequenceT]):
    """Runs the jobs of one decoder, at most `max_batch` at a time, while its `async with` block is open.

    `slice_ms` bounds how long tokens may wait before they are published (0: one step a slice). `clock`
    gives seconds for events, timings and slices, from both threads. All methods belong to the event loop's
    thread; none but entering and leaving waits.

    Leaving the block, normally, by an error or by cancellation, refuses new jobs, cancels those that are
    queued or running, waits until each is released and has its terminal event, ends the subscriptions and
    the compute thread. It takes as long as the decode step in flight. An engine is entered once.
    """

    def __init__(
        self,
        decoder: Decoder[RequestT, SequenceT],
        *,
        max_batch: int = 32,
        slice_ms: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_batch < 1:
            raise ValueError(
                f"max_batch is the number of jobs decoded together, at least 1; got {max_batch!r}"
            )
        if not slice_ms >= 0:  # NaN too
            raise ValueError(f"slice_ms is a time in milliseconds, at least 0; got {slice_ms!r}")
        self._max_batch = max_batch
        self._clock = clock
        # Asks the slice in flight to end for a newcomer's sake. One bool, written by the event loop and read
        # by the compute thread between steps, so no lock.
        self._interrupt = False
        self._batch = Batch(
            decoder, slice_seconds=slice_ms / 1000, interrupted=lambda: self._interrupt, clock=clock
        )
        self._thread = ComputeThread("engine-compute")
        self._feed = EventLog(FEED_CAPACITY)
        self._numbers = count(1)
        self._jobs: dict[str, Job] = {}
        self._waiting: OrderedDict[str, JobRecord[RequestT]] = OrderedDict()
        self._running: dict[str, JobRecord[RequestT]] = {}
        self._work = Wakeup()
        self._phase = "not entered"  # then "open", "closing", "closed"
        self._tasks: TaskGroup | None = None

    @property
    def jobs(self) -> Mapping[str, Job]:
        """The jobs that have not ended, by id; a live, read-only view."""
        return MappingProxyType(self._jobs)

    def submit(self, request: RequestT) -> Job:
        """Queue a request and return its job at once; `EngineClosed` outside of the `async with` block."""
        if self._phase != "open":
            raise EngineClosed(
                f"cannot submit {request!r:.200}: the engine is {self._phase}. "
                "Submit inside of `async with Engine(...) as engine:`."
            )
        job_id = f"job-{next(self._numbers)}"
        record = JobRecord(job_id=job_id, request=request, at=self._clock(), feed=self._feed)
        job = self._jobs[job_id] = Job(record, partial(self._cancel, record))  # pyright: ignore[reportArgumentType]
        self._waiting[job_id] = record
        if len(self._running) + len(self._waiting) <= self._max_batch:
            self._interrupt = True
        self._work.ring()
        return job

    def subscribe(self) -> Cursor:
        """Return an iterator over the events of all jobs from now on; it ends when the engine is left.

        It costs bounded memory: the newest events are held once for all subscribers. One that falls further
        behind gets `SubscriberLagged` with the number of events it missed, and goes on when asked again.
        """
        return Cursor(self._feed, self._feed.end)

    async def __aenter__(self) -> Self:
        if self._phase != "not entered":
            raise EngineClosed(f"an engine is entered once and this one is {self._phase}; make a new Engine")
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        self._tasks = tasks
        self._thread.start()
        self._phase = "open"
        tasks.start_soon(self._own, name="engine owner")
        return self

    async def __aexit__(self, *error: object) -> None:
        tasks = self._tasks
        if tasks is None:
            raise EngineClosed("the engine is left without having been entered; use `async with`")
        if self._phase == "open":
            self._phase = "closing"
        for job in list(self._jobs.values()):
            job.cancel()
        self._work.ring()
        # The task group waits for the owner, whoever cancels meanwhile. An error or a cancellation of the
        # block goes on as it is: shown to the task group, an error would come out inside of an exception
        # group.
        await tasks.__aexit__(None, None, None)

    async def _own(self) -> None:
        """Own the compute thread until the engine is left and the last job has ended."""
        try:
            # Cancellation comes as a request to leave the block: the slice in flight is always waited for.
            with anyio.CancelScope(shield=True):
                while self._phase == "open" or self._running or self._waiting:
                    if self._running or self._waiting:
                        await self._slice()
                    else:
                        await self._work.wait()
        except BaseException as error:
            self._fail_all(error)
            raise
        finally:
            self._phase = "closed"
            self._thread.close(self._batch.clear)
            self._feed.close()

    async def _slice(self) -> None:
        """Let the compute thread work for one slice and publish what came of it."""
        self._interrupt = False
        joining = self._next_jobs()
        for fact in await self._thread.run(partial(self._batch.run_slice, joining)):
            self._apply(fact)

    def _next_jobs(self) -> Sequence[tuple[str, RequestT]]:
        """Move waiting jobs to the free places, first come first served."""
        joining: list[tuple[str, RequestT]] = []
        while self._waiting and len(self._running) < self._max_batch:
            job_id, record = self._waiting.popitem(last=False)
            self._running[job_id] = record
            record.start(self._clock())
            joining.append((job_id, record.request))
        return joining

    def _apply(self, fact: Fact) -> None:
        """Publish one fact of the compute thread."""
        record = self._running[fact.job_id]
        if isinstance(fact, Decoded):
            record.add_tokens(fact.tokens, fact.at)
            return
        del self._running[fact.job_id], self._jobs[fact.job_id]
        if isinstance(fact.outcome, Exception):
            record.fail(fact.outcome, fact.at)
        elif fact.outcome == "cancelled":
            record.cancelled(fact.receipt, fact.at)
        else:
            record.finish(fact.outcome, fact.receipt, fact.at)

    def _cancel(self, record: JobRecord[RequestT]) -> None:
        """Do what `Job.cancel` promises; nothing if the job is cancelled or ended already."""
        if record.state is JobState.QUEUED:
            del self._waiting[record.id], self._jobs[record.id]
            record.cancelled({}, self._clock())
        elif record.state is JobState.RUNNING:
            record.ask_to_cancel()
            self._batch.leave(record.id)

    def _fail_all(self, error: BaseException) -> None:
        """Give every live job its terminal event when the engine itself dies."""
        self._phase = "closed"
        for record in [*self._running.values(), *self._waiting.values()]:
            if not record.state.is_terminal:
                record.fail(error, self._clock())
        self._running.clear()
        self._waiting.clear()
        self._jobs.clear()

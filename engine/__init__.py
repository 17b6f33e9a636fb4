"""A chat engine over any model: jobs, events, scheduling, cancellation.

    async with Engine(decoder) as engine:
        async for event in engine.submit(request).events():
            print(to_json(event))

Runs on asyncio and trio. A model is any object that has the methods of `Decoder`.
"""

from __future__ import annotations

from engine.decoder import Decoder, Step, StepLike
from engine.engine import Engine
from engine.errors import (
    DecoderContractError,
    EngineClosed,
    EngineError,
    EngineFull,
    EventFormatError,
    GenerationFailed,
    SubscriberLagged,
)
from engine.event_log import Cursor
from engine.events import (
    CancelCause,
    Event,
    FailureScope,
    FinishReason,
    JobCancelled,
    JobDone,
    JobFailed,
    JobQueued,
    JobStarted,
    TerminalEvent,
    TokenGenerated,
    from_json,
    to_json,
)
from engine.job import Job, Result, Timings
from engine.job_state import JobState
from engine.statistics import JobStatistics, Percentiles, Statistics

__all__ = [
    "CancelCause",
    "Cursor",
    "Decoder",
    "DecoderContractError",
    "Engine",
    "EngineClosed",
    "EngineError",
    "EngineFull",
    "Event",
    "EventFormatError",
    "FailureScope",
    "FinishReason",
    "GenerationFailed",
    "Job",
    "JobCancelled",
    "JobDone",
    "JobFailed",
    "JobQueued",
    "JobStarted",
    "JobState",
    "JobStatistics",
    "Percentiles",
    "Result",
    "Statistics",
    "Step",
    "StepLike",
    "SubscriberLagged",
    "TerminalEvent",
    "Timings",
    "TokenGenerated",
    "from_json",
    "to_json",
]

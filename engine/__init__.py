"""A chat engine over any model: jobs, events, scheduling, cancellation.

    async with Engine(decoder) as engine:
        async for event in engine.submit(request).events():
            print(to_json(event))

Runs on asyncio and trio. Knows a model only through the `Decoder` protocol, and no torch, SQL or terminal
at all.
"""

from __future__ import annotations

from engine.decoder import Decoder, Step, StepLike
from engine.engine import Engine
from engine.errors import (
    DecoderContractError,
    EngineClosed,
    EngineError,
    EventFormatError,
    GenerationFailed,
    SubscriberLagged,
)
from engine.events import (
    Event,
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
from engine.log import Cursor
from engine.states import JobState

__all__ = [
    "Cursor",
    "Decoder",
    "DecoderContractError",
    "Engine",
    "EngineClosed",
    "EngineError",
    "Event",
    "EventFormatError",
    "FinishReason",
    "GenerationFailed",
    "Job",
    "JobCancelled",
    "JobDone",
    "JobFailed",
    "JobQueued",
    "JobStarted",
    "JobState",
    "Result",
    "Step",
    "StepLike",
    "SubscriberLagged",
    "TerminalEvent",
    "Timings",
    "TokenGenerated",
    "from_json",
    "to_json",
]

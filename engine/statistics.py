"""Statistics of an engine and of a job, counted while events are published.

They are plain values: `dataclasses.asdict` of any of them is JSON.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.job_state import JobRecord, JobState

REMEMBERED = 1024  # ended jobs whose times make the percentiles

# Optional keys of a decoder's receipt, for decoders that reuse the prompts that they have read.
PROMPT_TOKENS, REUSED_TOKENS = "prompt_tokens", "reused_tokens"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStatistics:
    """Statistics of one job; seconds count from the moment of `submit`, until the job ends."""

    state: str
    queued: float
    """Seconds until the job was handed to the compute thread, or ended before that."""
    first_token: float | None
    """Seconds until its first token; None while there is none."""
    total: float
    """Seconds until its end."""
    tokens: int
    tokens_per_second: float | None
    """After the first token; None until two tokens have different times."""
    prompt_tokens: int | None
    """From the decoder's receipt, once the job has ended; None if it does not say."""
    reused_tokens: int | None
    """How many of these the decoder did not have to read again, likewise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentiles:
    """Seconds, over the latest 1,024 jobs that ended with a token."""

    p50: float
    p90: float
    p99: float
    most: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """Statistics of an engine, from its start to now."""

    queued: int
    """Jobs that wait for a place now."""
    running: int
    """Jobs in the batch now."""
    submitted: int
    """Jobs accepted: queued, running, done, cancelled and failed ones together."""
    done: int
    cancelled: int
    failed: int
    rejected: int
    """Requests refused with `EngineFull`; no jobs were made of them."""
    batch_failures: int
    """How often a decoder failed for its whole batch."""
    tokens: int
    steps: int
    """Calls of the decoder's `advance`; one may decode several tokens for each sequence."""
    busy_seconds: float
    """Time that the compute thread spent decoding."""
    tokens_per_second: float | None
    """Tokens by busy second; None before the first step."""
    occupancy: float | None
    """Sequences in a step, on average, over `max_batch`; None before the first step."""
    prompt_tokens: int
    """Of ended jobs, as the decoder's receipts say."""
    reused_tokens: int
    """Of these, how many the decoder did not have to read again."""
    prefix_hits: int
    """Ended jobs that reused any."""
    queue_seconds: Percentiles | None
    """From `submit` until a place in the batch."""
    first_token_seconds: Percentiles | None
    """From `submit` until the first token."""


class Counters:
    """Counts of an engine's jobs."""

    def __init__(self) -> None:
        self.submitted = self.rejected = self.batch_failures = self.tokens = 0
        self._ended: Counter[JobState] = Counter()
        self._prompt_tokens = self._reused_tokens = self._prefix_hits = 0
        self._times: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)  # queued, first token

    def add(self, record: JobRecord[Any]) -> None:
        """Count a job that has ended."""
        self._ended[record.state] += 1
        job = job_statistics(record, now=0.0)
        self._prompt_tokens += job.prompt_tokens or 0
        self._reused_tokens += job.reused_tokens or 0
        self._prefix_hits += bool(job.reused_tokens)
        if job.first_token is not None:
            self._times.append((job.queued, job.first_token))

    def statistics(
        self, *, queued: int, running: int, steps: int, advanced: int, busy_seconds: float, max_batch: int
    ) -> Statistics:
        """Return the statistics; `advanced` is the sum of the sequences of all steps."""
        return Statistics(
            queued=queued,
            running=running,
            submitted=self.submitted,
            done=self._ended[JobState.DONE],
            cancelled=self._ended[JobState.CANCELLED],
            failed=self._ended[JobState.FAILED],
            rejected=self.rejected,
            batch_failures=self.batch_failures,
            tokens=self.tokens,
            steps=steps,
            busy_seconds=busy_seconds,
            tokens_per_second=self.tokens / busy_seconds if busy_seconds else None,
            occupancy=advanced / steps / max_batch if steps else None,
            prompt_tokens=self._prompt_tokens,
            reused_tokens=self._reused_tokens,
            prefix_hits=self._prefix_hits,
            queue_seconds=_percentiles(queued for queued, _ in self._times),
            first_token_seconds=_percentiles(first for _, first in self._times),
        )


def job_statistics(record: JobRecord[Any], *, now: float) -> JobStatistics:
    """Return a job's statistics; `now` matters only while it runs."""
    submitted = record.queued_at
    end = now if record.ended_at is None else record.ended_at
    first, last = record.first_token_at, record.last_token_at
    rate = None
    if first is not None and last is not None and last > first:
        rate = (record.tokens - 1) / (last - first)
    return JobStatistics(
        state=record.state.value,
        queued=(end if record.started_at is None else record.started_at) - submitted,
        first_token=None if first is None else first - submitted,
        total=end - submitted,
        tokens=record.tokens,
        tokens_per_second=rate,
        prompt_tokens=_count(record.receipt, PROMPT_TOKENS),
        reused_tokens=_count(record.receipt, REUSED_TOKENS),
    )


def _count(receipt: Mapping[str, object], key: str) -> int | None:
    value = receipt.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _percentiles(seconds: Iterable[float]) -> Percentiles | None:
    """Nearest rank."""
    ordered = sorted(seconds)
    if not ordered:
        return None

    def rank(percent: int) -> float:
        return ordered[-(-percent * len(ordered) // 100) - 1]

    return Percentiles(p50=rank(50), p90=rank(90), p99=rank(99), most=ordered[-1])

"""What a status line and /stats tell: which session and model, how full the context is, how fast it went.

Knows a reply's figures as values; no store, no engine and no terminal.
"""

from __future__ import annotations

from dataclasses import dataclass

from niels_gpt.conversation.settings import SETTINGS, Settings, show
from niels_gpt.model.config import NO_LIMIT
from niels_gpt.terminal.line_wrapper import clipped

_SHORT = {"temperature": "temp", "repetition_penalty": "rep", "max_new_tokens": "max"}


@dataclass(frozen=True, kw_only=True)
class ReplyCost:
    """What one reply took: tokens, and seconds until its first token and its end."""

    prompt_tokens: int
    reply_tokens: int
    first_token: float | None
    total: float

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens after the first, over the time that they took; None for a reply of less than two."""
        if self.first_token is None or self.reply_tokens < 2 or self.total <= self.first_token:
            return None
        return (self.reply_tokens - 1) / (self.total - self.first_token)


@dataclass(frozen=True, kw_only=True)
class ChatStats:
    """What is known now; None for what is not there yet. `spent` has one entry a reply, the last one last."""

    session: str | None
    checkpoint: str
    settings: Settings | None = None
    context_length: int | None = None
    spent: tuple[ReplyCost, ...] = ()

    @property
    def has_window(self) -> bool:
        """Whether the model is loaded and has a context that can be full."""
        return self.context_length is not None and self.context_length < NO_LIMIT

    @property
    def used(self) -> int | None:
        """How many tokens of the context the last prompt and its reply took."""
        return self.spent[-1].prompt_tokens + self.spent[-1].reply_tokens if self.spent else None


def status_line(facts: ChatStats, columns: int) -> str:
    """Return one line of what is known, as much of it as fits: what changes most comes first."""
    parts = [facts.session or "new session"]
    if facts.spent and facts.spent[-1].tokens_per_second is not None:
        parts.append(f"{facts.spent[-1].tokens_per_second:.0f} tok/s")
    if facts.used is not None and facts.context_length is not None:
        window = f"/{facts.context_length}" if facts.has_window else ""
        parts.append(f"{facts.used}{window} tokens")
    parts.append(facts.checkpoint)
    if facts.settings is not None:
        parts.append(_changed(facts.settings))
    return clipped(" | ".join(part for part in parts if part), columns)


def stats(facts: ChatStats) -> str:
    """Return some lines about the session and this program's replies in it."""
    lines = [f"session     {facts.session or 'none yet'}", f"checkpoint  {facts.checkpoint}"]
    if facts.has_window:
        used = "" if facts.used is None else f"{facts.used} of "
        lines.append(f"context     {used}{facts.context_length} tokens")
    if facts.spent:
        count = len(facts.spent)
        tokens = sum(each.reply_tokens for each in facts.spent)
        lines.append(f"since start {count} repl{'y' if count == 1 else 'ies'}, {tokens} tokens")
        last = facts.spent[-1]
        speed = "" if last.tokens_per_second is None else f", {last.tokens_per_second:.1f} tokens/s"
        first = "" if last.first_token is None else f", first after {last.first_token:.3f} s"
        lines.append(f"last reply  {last.reply_tokens} tokens in {last.total:.2f} s{first}{speed}")
    else:
        lines.append("since start no reply")
    return "\n".join(lines)


def _changed(settings: Settings) -> str:
    """Return the temperature, and every other setting that is not what it is by default."""
    initial = Settings()
    words: list[str] = []
    for key in SETTINGS:
        value = getattr(settings, key)
        if key == "temperature" or value != getattr(initial, key):
            words.append(f"{_SHORT.get(key, key)} {show(value)}")
    return ", ".join(words)

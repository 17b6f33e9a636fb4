"""The status line and /stats: which session and model, how full the context is, how fast it went."""

from __future__ import annotations

from dataclasses import dataclass

from niels_gpt.conversation.settings import SETTINGS, Settings, show
from niels_gpt.model.config import NO_LIMIT
from niels_gpt.terminal.line_wrapper import clipped, text_width

_SHORT = {"temperature": "temp", "repetition_penalty": "rep", "max_new_tokens": "max"}


@dataclass(frozen=True, kw_only=True)
class ReplyCost:
    """What one reply took: tokens, and seconds until its first token and its end."""

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
    """What is known now; None for what is not there yet.

    `used` counts the tokens that the conversation takes of the context as it stands, `left_out` the turns
    that the last prompt left out, and `spent` has one entry a reply, the last one last.
    """

    session: str | None
    checkpoint: str
    settings: Settings | None = None
    context_length: int | None = None
    used: int | None = None
    left_out: int = 0
    unsaved: bool = False
    spent: tuple[ReplyCost, ...] = ()

    @property
    def has_window(self) -> bool:
        """Whether the model is loaded and has a context that can be full."""
        return self.context_length is not None and self.context_length < NO_LIMIT


def status_line(known: ChatStats, columns: int) -> str:
    """Return one line of what is known, as many parts as fit: what changes most comes first."""
    parts: list[str] = []
    if known.unsaved:
        parts.append("NOT STORED YET")
    if known.spent and known.spent[-1].tokens_per_second is not None:
        parts.append(f"{known.spent[-1].tokens_per_second:.0f} tok/s")
    if known.used is not None and known.context_length is not None:
        window = f"/{known.context_length}" if known.has_window else ""
        parts.append(f"{known.used}{window} tokens")
    if known.left_out:
        parts.append(f"{known.left_out} turn{'' if known.left_out == 1 else 's'} left out")
    parts.append(known.checkpoint)
    settings = [] if known.settings is None else _changed(known.settings)
    line = clipped(known.session or "new session", columns)
    for part in [" | " + part for part in [*parts, *settings[:1]]] + [", " + word for word in settings[1:]]:
        if text_width(line + part) > columns:
            break
        line += part
    return line


def stats(known: ChatStats) -> str:
    """Return some lines about the session and this program's replies in it."""
    lines = [f"session     {known.session or 'none yet'}", f"checkpoint  {known.checkpoint}"]
    if known.has_window:
        used = "" if known.used is None else f"{known.used} of "
        left_out = f"; {known.left_out} oldest turns left out" if known.left_out else ""
        lines.append(f"context     {used}{known.context_length} tokens{left_out}")
    if known.spent:
        count = len(known.spent)
        tokens = sum(each.reply_tokens for each in known.spent)
        lines.append(f"since start {count} repl{'y' if count == 1 else 'ies'}, {tokens} tokens")
        last = known.spent[-1]
        speed = "" if last.tokens_per_second is None else f", {last.tokens_per_second:.1f} tokens/s"
        first = "" if last.first_token is None else f", first after {last.first_token:.3f} s"
        lines.append(f"last reply  {last.reply_tokens} tokens in {last.total:.2f} s{first}{speed}")
    else:
        lines.append("since start no reply")
    return "\n".join(lines)


def _changed(settings: Settings) -> list[str]:
    """Return the temperature, and every other setting that is not what it is by default."""
    initial = Settings()
    words: list[str] = []
    for key in SETTINGS:
        value = getattr(settings, key)
        if key == "temperature" or value != getattr(initial, key):
            words.append(f"{_SHORT.get(key, key)} {show(value)}")
    return words

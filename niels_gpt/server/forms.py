"""The forms in which a reply goes to a client: the frames of a stream, and the body of a whole answer.

Every form is a function of the reply's record alone: of its id, the moment it was asked for, its tokens and
its end. So a stream that is made again, after a restart or out of the store, has the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from niels_gpt.server.errors import ApiError
from niels_gpt.server.logprobs import TokenLogprobs
from niels_gpt.text.tokenizer import Tokenizer

FormName = Literal["chat.completion", "text_completion", "response", "native"]
Payload = tuple[str | None, str]
"""The name of an event, or None, and its data."""


@dataclass(frozen=True, kw_only=True)
class ReplyInfo:
    """What a stream is headed with: all of it is stored with the reply, or follows from what is."""

    id: str
    form: FormName
    created: int
    model: str
    fingerprint: str
    choices: int = 1
    include_usage: bool = False
    top_logprobs: int | None = None
    instructions: str | None = None
    previous: str | None = None
    stored: bool = True


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a reply, the text that became certain with it, and its log-probabilities if asked for."""

    token_id: int
    text: str
    logprobs: TokenLogprobs | None = None


@dataclass(kw_only=True)
class Outcome:
    """One choice as far as it is made; `reason` is None while it is not whole."""

    prompt_tokens: int
    seed: int
    reply_id: int | None = None
    session: str | None = None
    tokens: list[Token] = field(default_factory=list)
    reason: str | None = None

    @property
    def text(self) -> str:
        """The reply's text."""
        return "".join(token.text for token in self.tokens)

    @property
    def record(self) -> dict[str, object]:
        """Where the reply is stored and what it was drawn with."""
        return {"reply": self.reply_id, "session": self.session, "seed": self.seed, "reason": self.reason}


class Form(Protocol):
    """Renders the frames of one stream, in order, and the body of the whole answer."""

    def opening(self, outcomes: Sequence[Outcome]) -> Iterable[Payload]:
        """Frames before the first token."""
        ...

    def token(self, choice: int, token: Token) -> Payload | None:
        """Frame of a token; None for one that adds nothing."""
        ...

    def ending(self, choice: int, outcome: Outcome) -> Iterable[Payload]:
        """Frames after a choice's last token."""
        ...

    def closing(self, outcomes: Sequence[Outcome]) -> Iterable[Payload]:
        """Frames after the last choice."""
        ...

    def failure(self, error: ApiError) -> Iterable[Payload]:
        """Frames in place of the rest of the stream."""
        ...

    def body(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the whole answer."""
        ...


def dumps(value: object) -> str:
    """Return JSON on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def usage_of(outcomes: Sequence[Outcome], choices: int = 1) -> dict[str, int]:
    """Count the tokens; a prompt counts once for all of its choices."""
    prompt = sum(outcome.prompt_tokens for outcome in outcomes[::choices])
    reply = sum(len(outcome.tokens) for outcome in outcomes)
    return {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}


class Vocabulary:
    """What single tokens are called in lists of log-probabilities."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._control = {number: f"<|{name}|>" for name, number in tokenizer.special_token_ids().items()}

    def bytes_of(self, token_id: int) -> bytes:
        """Return the token's bytes; none for a control token."""
        return self._tokenizer.token_bytes(token_id)

    def name(self, token_id: int) -> str:
        """Return the token's text, or its bytes spelled out where they are no text; names are unique."""
        if token_id in self._control:
            return self._control[token_id]
        raw = self.bytes_of(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def entry(self, token_id: int, logprob: float) -> dict[str, object]:
        """Return one entry of a chat completion's list."""
        return {
            "token": self.name(token_id),
            "logprob": logprob,
            "bytes": list(self.bytes_of(token_id)),
        }


class NativeForm:
    """`/api/replies/ID/events`: start, token, done or failed."""

    def __init__(self, info: ReplyInfo, _vocabulary: Vocabulary) -> None:
        self._info = info

    def opening(self, outcomes: Sequence[Outcome]) -> Iterable[Payload]:
        """Say what is being made."""
        yield (
            "start",
            dumps(
                {
                    "reply": self._info.id,
                    "prompt_tokens": outcomes[0].prompt_tokens,
                    "seed": outcomes[0].seed,
                    "fingerprint": self._info.fingerprint,
                }
            ),
        )

    def token(self, choice: int, token: Token) -> Payload | None:
        """Give a token."""
        return "token", f'{{"id":{token.token_id},"text":{dumps(token.text)}}}'

    def ending(self, choice: int, outcome: Outcome) -> Iterable[Payload]:
        """Say why the reply ended."""
        yield "done", dumps({"reason": outcome.reason, "tokens": len(outcome.tokens)})

    def closing(self, outcomes: Sequence[Outcome]) -> Iterable[Payload]:
        """Add nothing."""
        return ()

    def failure(self, error: ApiError) -> Iterable[Payload]:
        """Say what went wrong."""
        yield "failed", dumps(error.body())

    def body(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the whole reply."""
        (outcome,) = outcomes
        return {
            "reply": self._info.id,
            "created": self._info.created,
            "text": outcome.text,
            "token_ids": [token.token_id for token in outcome.tokens],
            "reason": outcome.reason,
            "seed": outcome.seed,
            "prompt_tokens": outcome.prompt_tokens,
            "fingerprint": self._info.fingerprint,
            "session": outcome.session,
        }

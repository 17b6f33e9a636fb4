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

DONE: Payload = (None, "[DONE]")
# Other programs know three reasons; a reply that somebody stopped, or that filled the context, is shorter.
_FINISH = {"stop": "stop", "length": "length", "context": "length", "cancelled": "stop"}


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


class _OpenAiForm:
    """What OpenAI's forms have in common."""

    def __init__(self, info: ReplyInfo, vocabulary: Vocabulary) -> None:
        self._info = info
        self._vocabulary = vocabulary

    def _envelope(self, kind: str) -> dict[str, object]:
        info = self._info
        return {
            "id": info.id,
            "object": kind,
            "created": info.created,
            "model": info.model,
            "system_fingerprint": info.fingerprint,
        }

    def failure(self, error: ApiError) -> Iterable[Payload]:
        """End the stream with the error."""
        yield None, dumps(error.body())
        yield DONE


class ChatForm(_OpenAiForm):
    """`/v1/chat/completions`."""

    def __init__(self, info: ReplyInfo, vocabulary: Vocabulary) -> None:
        super().__init__(info, vocabulary)
        # A token's frame is put together from text: the envelope is the same in all of them.
        self._head = dumps(self._envelope("chat.completion.chunk"))[:-1] + ',"choices":['

    def opening(self, outcomes: Sequence[Outcome]) -> Iterable[Payload]:
        """Name the role of each choice, and where it is stored."""
        for index, outcome in enumerate(outcomes):
            delta = {"role": "assistant", "content": ""}
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            record = {"reply": outcome.reply_id, "session": outcome.session, "seed": outcome.seed}
            yield None, f'{self._head}{dumps(choice)}],"niels":{dumps(record)}}}'

    def token(self, choice: int, token: Token) -> Payload | None:
        """Give the text of a token."""
        if not token.text and token.logprobs is None:
            return None
        shown = "null" if token.logprobs is None else dumps({"content": [self._logprobs(token)]})
        return None, (
            f'{self._head}{{"index":{choice},"delta":{{"content":{dumps(token.text)}}},'
            f'"logprobs":{shown},"finish_reason":null}}]}}'
        )

    def ending(self, choice: int, outcome: Outcome) -> Iterable[Payload]:
        """Say why a choice ended."""
        reason = _FINISH.get(outcome.reason or "", "stop")
        last = {"index": choice, "delta": {}, "logprobs": None, "finish_reason": reason}
        yield None, f"{self._head}{dumps(last)}]}}"

    def closing(self, outcomes: Sequence[Outcome]) -> Iterable[Payload]:
        """Count the tokens if asked for, and end."""
        if self._info.include_usage:
            yield None, f'{self._head}],"usage":{dumps(usage_of(outcomes, self._info.choices))}}}'
        yield DONE

    def body(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the whole completion."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": outcome.text, "refusal": None},
                "logprobs": None
                if self._info.top_logprobs is None
                else {"content": [self._logprobs(token) for token in outcome.tokens], "refusal": None},
                "finish_reason": _FINISH.get(outcome.reason or "", "stop"),
            }
            for index, outcome in enumerate(outcomes)
        ]
        return {
            **self._envelope("chat.completion"),
            "choices": choices,
            "usage": usage_of(outcomes, self._info.choices),
            "niels": {"replies": [outcome.record for outcome in outcomes]},
        }

    def _logprobs(self, token: Token) -> dict[str, object]:
        entry = self._vocabulary.entry
        found = token.logprobs or TokenLogprobs(0.0, ())
        top = [entry(token_id, logprob) for token_id, logprob in found.top]
        return {**entry(token.token_id, found.logprob), "top_logprobs": top}


@dataclass(frozen=True, kw_only=True)
class EchoedPrompt:
    """A prompt that is part of the answer, with the log-probabilities of all tokens but the first."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...]


class CompletionForm(_OpenAiForm):
    """`/v1/completions`; `echoed` has a prompt for each choice, or none at all."""

    def __init__(self, info: ReplyInfo, vocabulary: Vocabulary, echoed: Sequence[EchoedPrompt] = ()) -> None:
        super().__init__(info, vocabulary)
        self._echoed = echoed
        self._head = dumps(self._envelope("text_completion"))[:-1] + ',"choices":['

    def _frame(self, choice: int, text: str, logprobs: object, reason: str | None) -> Payload:
        value = {"index": choice, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return None, f"{self._head}{dumps(value)}]}}"

    def opening(self, outcomes: Sequence[Outcome]) -> Iterable[Payload]:
        """Give the prompts if they are asked for."""
        for index, prompt in enumerate(self._echoed):
            yield self._frame(index, prompt.text, self._logprobs([], prompt), None)

    def token(self, choice: int, token: Token) -> Payload | None:
        """Give the text of a token."""
        if not token.text and token.logprobs is None:
            return None
        return self._frame(choice, token.text, self._logprobs([token], None), None)

    def ending(self, choice: int, outcome: Outcome) -> Iterable[Payload]:
        """Say why a choice ended."""
        yield self._frame(choice, "", None, _FINISH.get(outcome.reason or "", "stop"))

    def closing(self, outcomes: Sequence[Outcome]) -> Iterable[Payload]:
        """Count the tokens if asked for, and end."""
        if self._info.include_usage:
            yield None, f'{self._head}],"usage":{dumps(usage_of(outcomes, self._info.choices))}}}'
        yield DONE

    def body(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the whole completion."""
        choices = []
        for index, outcome in enumerate(outcomes):
            prompt = self._echoed[index] if self._echoed else None
            choices.append(
                {
                    "index": index,
                    "text": (prompt.text if prompt else "") + outcome.text,
                    "logprobs": self._logprobs(outcome.tokens, prompt),
                    "finish_reason": _FINISH.get(outcome.reason or "", "stop"),
                }
            )
        return {
            **self._envelope("text_completion"),
            "choices": choices,
            "usage": usage_of(outcomes, self._info.choices),
            "niels": {"replies": [outcome.record for outcome in outcomes]},
        }

    def _logprobs(self, tokens: Sequence[Token], prompt: EchoedPrompt | None) -> dict[str, object] | None:
        if self._info.top_logprobs is None:
            return None
        rows: list[tuple[int, TokenLogprobs | None]] = []
        if prompt is not None:
            rows += zip(prompt.token_ids, prompt.logprobs, strict=True)
        rows += ((token.token_id, token.logprobs) for token in tokens)
        offsets: list[int] = []
        said = b""
        for token_id, _ in rows:
            offsets.append(len(said.decode(errors="ignore")))
            said += self._vocabulary.bytes_of(token_id)
        return {
            "tokens": [self._vocabulary.name(token_id) for token_id, _ in rows],
            "token_logprobs": [None if found is None else found.logprob for _, found in rows],
            "top_logprobs": [
                None if found is None else self._top(token_id, found) for token_id, found in rows
            ],
            "text_offset": offsets,
        }

    def _top(self, token_id: int, found: TokenLogprobs) -> dict[str, float]:
        """Return the likeliest tokens and the chosen one."""
        name = self._vocabulary.name
        return {name(each): logprob for each, logprob in found.top} | {name(token_id): found.logprob}


class ResponseForm(_OpenAiForm):
    """`/v1/responses`."""

    def __init__(self, info: ReplyInfo, vocabulary: Vocabulary) -> None:
        super().__init__(info, vocabulary)
        self._item = f"msg_{info.id.removeprefix('resp_')}"
        self._number = 0

    def _event(self, kind: str, **values: object) -> Payload:
        number, self._number = self._number, self._number + 1
        return kind, dumps({"type": kind, "sequence_number": number, **values})

    def _response(self, status: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        info, done = self._info, status in {"completed", "incomplete"}
        usage = usage_of(outcomes)
        cut = any(outcome.reason in {"length", "context"} for outcome in outcomes)
        return {
            "id": info.id,
            "object": "response",
            "created_at": info.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if done and cut else None,
            "instructions": info.instructions,
            "model": info.model,
            "output": [self._message("completed", outcomes[0].text)] if done else [],
            "previous_response_id": info.previous,
            "store": info.stored,
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            }
            if done
            else None,
            "system_fingerprint": info.fingerprint,
            "niels": {
                "replies": [
                    outcome.record if done else {**outcome.record, "reason": None} for outcome in outcomes
                ]
            },
        }

    def _message(self, status: str, text: str | None) -> dict[str, object]:
        content = [] if text is None else [{"type": "output_text", "text": text, "annotations": []}]
        return {
            "id": self._item, "type": "message", "role": "assistant", "status": status, "content": content,
        }  # fmt: skip

    def opening(self, outcomes: Sequence[Outcome]) -> Iterable[Payload]:
        """Announce the response and its one message."""
        yield self._event("response.created", response=self._response("in_progress", outcomes))
        yield self._event("response.in_progress", response=self._response("in_progress", outcomes))
        item = self._message("in_progress", None)
        yield self._event("response.output_item.added", output_index=0, item=item)
        part = {"type": "output_text", "text": "", "annotations": []}
        yield self._event("response.content_part.added", **self._place(), part=part)

    def _place(self) -> dict[str, object]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def token(self, choice: int, token: Token) -> Payload | None:
        """Give the text of a token."""
        if not token.text:
            return None
        return self._event("response.output_text.delta", **self._place(), delta=token.text, logprobs=[])

    def ending(self, choice: int, outcome: Outcome) -> Iterable[Payload]:
        """Close the message."""
        text = outcome.text
        yield self._event("response.output_text.done", **self._place(), text=text, logprobs=[])
        part = {"type": "output_text", "text": text, "annotations": []}
        yield self._event("response.content_part.done", **self._place(), part=part)
        item = self._message("completed", text)
        yield self._event("response.output_item.done", output_index=0, item=item)

    def closing(self, outcomes: Sequence[Outcome]) -> Iterable[Payload]:
        """Give the whole response."""
        body = self.body(outcomes)
        yield self._event(f"response.{body['status']}", response=body)

    def failure(self, error: ApiError) -> Iterable[Payload]:
        """End the stream with the error."""
        yield self._event("error", code=error.code or "server_error", message=error.message, param=None)

    def body(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the whole response."""
        cut = any(outcome.reason in {"length", "context"} for outcome in outcomes)
        return self._response("incomplete" if cut else "completed", outcomes)


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


FORMS: dict[FormName, type[ChatForm | CompletionForm | ResponseForm | NativeForm]] = {
    "chat.completion": ChatForm,
    "text_completion": CompletionForm,
    "response": ResponseForm,
    "native": NativeForm,
}

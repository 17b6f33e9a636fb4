"""OpenAI's forms of a reply: chat completions, completions and responses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from niels_gpt.server.errors import ApiError
from niels_gpt.server.forms import (
    FormName,
    NativeForm,
    Outcome,
    Payload,
    ReplyInfo,
    Token,
    Vocabulary,
    dumps,
    usage_of,
)
from niels_gpt.server.logprobs import TokenLogprobs

DONE: Payload = (None, "[DONE]")
# Other programs know three reasons; a reply that somebody stopped, or that filled the context, is shorter.
_FINISH = {"stop": "stop", "length": "length", "context": "length", "cancelled": "stop"}


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


FORMS: dict[FormName, type[ChatForm | CompletionForm | ResponseForm | NativeForm]] = {
    "chat.completion": ChatForm,
    "text_completion": CompletionForm,
    "response": ResponseForm,
    "native": NativeForm,
}

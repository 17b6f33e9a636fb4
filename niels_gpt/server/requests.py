"""The bodies that clients send, as types: what is wrong is refused by the field's name, before anything runs.

Unknown fields are ignored, as clients of OpenAI's surface expect; null means that a field was not given.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_CHOICES = 32
MOST_MESSAGES = 4096
_INT64 = 2**63

Finite = Annotated[float, Field(allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenId = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Seed = Annotated[int, Field(ge=-_INT64, lt=_INT64, strict=True)]
MostTokens = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
StopText = Annotated[str, Field(min_length=1, max_length=1000)]
Text = Annotated[str, Field(max_length=1_000_000)]


class Body(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class TextPart(Body):
    """One part of a message's content; only text parts can be read."""

    type: Literal["text", "input_text", "output_text"]
    text: Text


class ChatMessage(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart] | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(Body):
    """What a stream holds in addition to its text."""

    include_usage: bool | None = None


class SamplingFields(Body):
    """How tokens are chosen. What is not given comes from the server's own settings."""

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    frequency_penalty: Finite | None = None
    presence_penalty: Finite | None = None
    seed: Seed | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=300)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end a reply."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CommonFields(SamplingFields):
    """What both completion endpoints take."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES, strict=True)] | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(CommonFields):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: MostTokens | None = None
    max_completion_tokens: MostTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20, strict=True)] | None = None
    store: bool | None = None


class CompletionRequest(CommonFields):
    """`POST /v1/completions`: a text is continued as it stands, without a template."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=1024)]
        | Annotated[list[TokenId], Field(min_length=1, max_length=1_000_000)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1, max_length=1_000_000)]],
            Field(min_length=1, max_length=1024),
        ]
    )
    max_tokens: Annotated[int, Field(ge=0, le=1_000_000, strict=True)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20, strict=True)] | None = None
    echo: bool | None = None


class ResponseRequest(SamplingFields):
    """`POST /v1/responses`."""

    model: str | None = None
    input: Text | Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    instructions: Text | None = None
    previous_response_id: str | None = None
    max_output_tokens: MostTokens | None = None
    stream: bool | None = None
    store: bool | None = None


class TokenizeRequest(Body):
    """`POST /tokenize`: a text under one of the names that servers use, or messages under the template."""

    content: Text | None = None
    prompt: Text | None = None
    text: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)] | None = None


class DetokenizeRequest(Body):
    """`POST /detokenize`."""

    tokens: Annotated[list[TokenId], Field(max_length=1_000_000)]


class NewSession(Body):
    """`POST /api/sessions`."""

    name: str | None = None
    system: Text | None = None
    seed: Seed | None = None
    settings: dict[str, Any] | None = None


class SessionChange(Body):
    """`PATCH /api/sessions/ID`: what is given is changed."""

    name: str | None = None
    system: Text | None = None
    seed: Seed | None = None
    settings: dict[str, Any] | None = None
    archived: bool | None = None


class NewTurn(Body):
    """`POST /api/sessions/ID/turns`."""

    content: Annotated[str, Field(min_length=1, max_length=1_000_000)]
    expected_head: int | None = None


class RetryRequest(Body):
    """`POST /api/sessions/ID/retry`: another reply to a user message, the last one unless named."""

    message: int | None = None


class EditRequest(Body):
    """`POST /api/sessions/ID/edit`: another text in place of a user message."""

    message: int
    content: Annotated[str, Field(min_length=1, max_length=1_000_000)]


class HeadRequest(Body):
    """`POST /api/sessions/ID/head`: continue from another message of the tree."""

    message: int | None = None


class ForkRequest(Body):
    """`POST /api/sessions/ID/fork`: a new session, from a message, or inside of a reply at a token."""

    name: str | None = None
    at: int | None = None
    reply: int | None = None
    keep: Annotated[int, Field(ge=0, strict=True)] | None = None
    token: TokenId | None = None
    seed: Seed | None = None

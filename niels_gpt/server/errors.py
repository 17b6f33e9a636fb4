"""What the server says when it cannot do something: one body in OpenAI's form, a status, never a path.

Only messages that are known to hold nothing but the request's own values go to the client; the rest is
logged here and answered with a fixed text.
"""

from __future__ import annotations

import itertools
import logging

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from engine import EngineClosed, EngineFull
from niels_gpt.conversation.errors import ChatError, LoadFailed, MessageTooLong
from niels_gpt.errors import NielsGptError
from sessions import (
    GenerationFinished,
    HeadMoved,
    InvalidName,
    InvalidValue,
    RecordNotFound,
    ReplyPending,
    SessionExists,
    SessionNotFound,
    StoreError,
)
from sessions.formats import ExportRefused, ImportRefused

logger = logging.getLogger("niels_gpt.server")

_MOST_SHOWN = 500  # characters of a message
# What each error of the layers below means to a client; their messages quote only what the client sent.
_STATUS: tuple[tuple[type[Exception], int, str | None], ...] = (
    (MessageTooLong, 400, "context_length_exceeded"),
    (EngineFull, 429, "server_busy"),
    (EngineClosed, 503, "shutting_down"),
    (SessionNotFound, 404, "not_found"),
    (RecordNotFound, 404, "not_found"),
    (SessionExists, 409, "name_taken"),
    (HeadMoved, 409, "head_moved"),
    (ReplyPending, 409, "reply_pending"),
    (GenerationFinished, 409, "reply_finished"),
    (InvalidName, 400, "invalid_name"),
    (InvalidValue, 400, "invalid_value"),
    (ImportRefused, 400, "import_refused"),
    (ExportRefused, 400, "export_refused"),
)
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# What pydantic names the branches of a union with; they are no fields of the client's.
_BRANCHES = {"str", "int", "float", "bool", "dict", "list"}


class ApiError(Exception):
    """A request that is answered with an error; `message` is complete and meant for the client."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    def body(self) -> dict[str, object]:
        """Return the error in OpenAI's form."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the whole answer."""
        headers = {"Retry-After": "1"} if self.status in {429, 503} else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


def as_api_error(error: Exception) -> ApiError:
    """Translate an error of the layers below; what could name a file is replaced by a fixed text."""
    if isinstance(error, ApiError):
        return error
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            return ApiError(status, str(error)[:_MOST_SHOWN], code=code)
    if isinstance(error, StoreError | LoadFailed):
        logger.error("the store or the checkpoint cannot be used: %s", error)
        return ApiError(503, "the session store cannot be used at the moment; the server's log says why")
    if isinstance(error, ChatError | NielsGptError):
        return ApiError(400, str(error)[:_MOST_SHOWN], code="invalid_value")
    raise error


async def on_error(_request: Request, error: Exception) -> JSONResponse:
    """Answer what a handler raised."""
    return as_api_error(error).response()


async def on_invalid(_request: Request, error: Exception) -> JSONResponse:
    """Answer a body or a parameter of a wrong type, with the field's name."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class alone
    first = error.errors()[0]
    # The place begins with "body" or "query".
    named = itertools.takewhile(_is_field, map(str, first["loc"][1:]))
    place = ".".join(named) or str(first["loc"][0])
    return ApiError(400, f"{place}: {first['msg']}", code=first["type"], param=place).response()


def _is_field(part: str) -> bool:
    return part.replace("_", "").replace("-id", "").isalnum() and part not in _BRANCHES


async def on_http_error(_request: Request, error: Exception) -> JSONResponse:
    """Answer an unknown address or method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class alone
    return ApiError(error.status_code, str(error.detail), code="not_found").response()


async def on_bug(_request: Request, error: Exception) -> JSONResponse:
    """Answer a fault of the server itself without a word about its inside."""
    return ApiError(500, f"the server failed ({type(error).__name__}); its log says where").response()


HANDLERS = {
    ApiError: on_error,
    StoreError: on_error,
    ChatError: on_error,
    NielsGptError: on_error,
    EngineFull: on_error,
    EngineClosed: on_error,
    ImportRefused: on_error,
    ExportRefused: on_error,
    RequestValidationError: on_invalid,
    HTTPException: on_http_error,
    Exception: on_bug,
}

"""What a request must pass before an endpoint sees it: Host, Origin, API key, size, time, and how many.

Plain ASGI, so that a stream passes through untouched.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections import Counter
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from niels_gpt.server.errors import ApiError
from niels_gpt.server.options import ServeOptions

# Pages of other sites may link here; nothing else of theirs may be answered.
_OPEN = ("/", "/health", "/favicon.ico")
_PAGE = "/page/"


class Guard:
    """Refuses what must not pass, with the same body as every other error."""

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        self._app = app
        self._options = options
        self._key = None if options.api_key is None else _digest(options.api_key)
        self._hosts = {"localhost", *(host.lower() for host in options.allowed_hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in options.allowed_origins}
        self._running: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope["client"][0] if scope.get("client") else ""
        headers = Headers(scope=scope)
        try:
            self._check(scope, headers)
            self._check_running(client)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        self._running[client] += 1
        body = _Body(receive, send, headers, self._options)
        try:
            await self._app(scope, body.receive, body.send)
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]
        if body.refusal is not None:
            await body.refusal.response()(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise ApiError for a request that must not pass."""
        path = scope["path"]
        is_open = path in _OPEN or path.startswith(_PAGE)
        host = headers.get("host", "")
        if not self._is_own(host):
            raise ApiError(
                403,
                f"the Host header is {host[:80]!r}; niels-serve --allow-host NAME lets a name in",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and not self._may_call(origin, host):
            raise ApiError(
                403,
                f"pages of {origin[:80]!r} may not call this server; --allow-origin ORIGIN lets them",
                code="origin_not_allowed",
            )
        if origin is None and not is_open and headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
            raise ApiError(403, "another site's page may not call this server", code="origin_not_allowed")
        if not is_open and scope["method"] != "OPTIONS" and not self._has_key(headers):
            raise ApiError(
                401, "expected the server's key as 'Authorization: Bearer KEY'", code="invalid_api_key"
            )
        if int(_digits(headers.get("content-length", "0"))) > self._options.max_body_bytes:
            raise _too_large(self._options)

    def _check_running(self, client: str) -> None:
        if self._running[client] >= self._options.max_requests_per_client:
            raise ApiError(
                429,
                f"{self._running[client]} requests of this client are running, which is the most",
                code="too_many_requests",
            )

    def _is_own(self, host: str) -> bool:
        """Whether a Host header is an address, which no other site's name can stand for, or a known name."""
        name = urlsplit(f"//{host}").hostname if host else None
        if name is None:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True

    def _may_call(self, origin: str, host: str) -> bool:
        parts = origin.lower().split("://", 1)
        own = len(parts) == 2 and parts[0] in {"http", "https"} and parts[1] == host.lower()
        return own or origin.lower() in self._origins

    def _has_key(self, headers: Headers) -> bool:
        if self._key is None:
            return True
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        # Of equal length whatever was shown, and compared in constant time.
        return hmac.compare_digest(_digest(shown.strip()), self._key) and scheme.lower() == "bearer"


class _Body:
    """Bounds the size of a request's body and the time that it may take.

    Past a bound the application sees a client that left, and what it makes of that is not sent: `refusal` is.
    """

    def __init__(self, receive: Receive, send: Send, headers: Headers, options: ServeOptions) -> None:
        self._receive = receive
        self._send = send
        self._options = options
        self._bytes = 0
        self._whole = headers.get("content-length") in {None, "0"} and "transfer-encoding" not in headers
        self.refusal: ApiError | None = None

    async def receive(self) -> Message:
        """Return the next part of the body, or what happened to the client after it."""
        if self._whole:
            return await self._receive()
        try:
            with anyio.fail_after(self._options.body_seconds):
                message = await self._receive()
        except TimeoutError:
            self.refusal = ApiError(408, "the body took too long to arrive", code="body_too_slow")
            return {"type": "http.disconnect"}
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._bytes > self._options.max_body_bytes:
            self.refusal = _too_large(self._options)
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if self.refusal is None:
            await self._send(message)


def _too_large(options: ServeOptions) -> ApiError:
    return ApiError(413, f"the body is larger than {options.max_body_bytes} bytes", code="body_too_large")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _digits(text: str) -> str:
    return text if text.isascii() and text.isdecimal() and len(text) < 19 else "0"

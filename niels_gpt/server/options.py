"""What a server is started with, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field

from niels_gpt.conversation.options import ChatOptions


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How to serve; `chat` names the model, the store and the settings of new conversations."""

    chat: ChatOptions = field(default_factory=ChatOptions)
    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    """What clients show as their bearer token; None only where nobody else can reach the server."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that the Host header may have in addition to localhost and addresses."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of other pages whose scripts may call the server."""
    max_batch: int = 64
    max_queue: int = 256
    max_requests_per_client: int = 128
    max_connections: int = 1024
    max_body_bytes: int = 8 * 2**20
    body_seconds: float = 30.0
    reply_seconds: float | None = None
    drain_seconds: float = 30.0

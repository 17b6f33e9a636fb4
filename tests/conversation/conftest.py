"""The scripted model and the store of the chat's tests."""

from __future__ import annotations

from tests.chat.conftest import anyio_backend, ear, scripted, store

__all__ = ["anyio_backend", "ear", "scripted", "store"]

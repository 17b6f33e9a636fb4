"""What holds for every test."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def nothing_stays_frozen() -> Iterator[None]:
    """A chat that ran in this process hides its objects from garbage collection: not from later tests."""
    yield
    gc.unfreeze()

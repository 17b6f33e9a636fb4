"""What holds for every test."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from unittest import mock

import pytest


def pytest_collection_finish() -> None:
    """Hide what is imported from garbage collection: it is never garbage, and torch alone has much of it."""
    import hypothesis  # noqa: F401, PLC0415 - its import asks who refers to trio's random numbers

    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_more_stays_frozen(freezing: mock.Mock) -> Iterator[None]:
    """A chat that ran in this process hides its objects from garbage collection: not from later tests."""
    freezing.reset_mock()
    yield
    if freezing.called:
        gc.unfreeze()
        gc.collect()
        freezing.side_effect()


@pytest.fixture(scope="session")
def freezing() -> Iterator[mock.Mock]:
    """Notice calls; the number of hidden objects would have to be counted one by one."""
    with mock.patch.object(gc, "freeze", side_effect=gc.freeze) as freeze:
        yield freeze

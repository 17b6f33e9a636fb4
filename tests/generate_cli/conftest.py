"""The small models of the generation tests, with kernels that are compiled before the first test."""

from __future__ import annotations

import pytest

from niels_gpt.decoding.compile import compile_kernels
from tests.generation.conftest import bpe, directory, gpt_directory

__all__ = ["bpe", "directory", "gpt_directory"]


@pytest.fixture(scope="session", autouse=True)
def _compiled_kernels() -> None:
    """Compile the kernels: on a cold cache, programs print a notice, and take a minute on a busy machine."""
    for arch in ("gpt", "bdh"):
        compile_kernels("float32", arch=arch)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the first test take the time of compiling, on a cold cache and a busy machine."""
    for item in items:
        if "tests/generate_cli/" in item.nodeid:
            item.add_marker(pytest.mark.timeout(300))

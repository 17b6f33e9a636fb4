from __future__ import annotations

from importlib import import_module

import numba
import numpy as np
import pytest

from niels_gpt.kernels import sampler
from niels_gpt.kernels.compile_progress import MILESTONES, compilation

Told = list[tuple[int, int]]


@pytest.fixture
def fresh():
    """A kernel of ours that nothing has compiled, and what it is called with."""
    kernel = numba.njit(sampler._nucleus.py_func)
    return kernel, (np.ones(4, np.float32), np.arange(4), 4, 0.5, np.zeros(4, np.int64))


def test_what_is_compiled_is_told_from_the_start_on(fresh):
    told: Told = []
    kernel, arguments = fresh
    with compilation("gpt", lambda done, total: told.append((done, total))):
        kernel(*arguments)
    assert told == [(0, 11), (1, 11)]


def test_nothing_is_told_where_nothing_has_to_be_compiled(fresh):
    told: Told = []
    kernel, arguments = fresh
    kernel(*arguments)
    with compilation("gpt", lambda done, total: told.append((done, total))):
        kernel(*arguments)
    assert told == []


@pytest.mark.parametrize("arch", MILESTONES)
def test_every_milestone_is_a_kernel(arch):
    modules = [
        import_module(f"niels_gpt.kernels.{name}")
        for name in (arch, "linear", "attention", "sampler", "decode_loop")
    ]
    for name in MILESTONES[arch]:
        assert any(hasattr(getattr(module, name, None), "py_func") for module in modules), name

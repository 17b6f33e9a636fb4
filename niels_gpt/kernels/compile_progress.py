"""How far the compilation of the kernels has come, for whoever waits for it.

Numba tells of every function that it compiles, and of none that it finds on disk. The few that take most of
the time mark the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event

SAMPLER = "_largest_k", "_typical", "_nucleus", "sample"
MILESTONES = {
    "gpt": ("linear", "project", "attend", "attention", "mlp_up", "forward", *SAMPLER, "run"),
    "bdh": ("linear", "_heads", "_decode", "forward", *SAMPLER, "run"),
}
"""Kernels of each architecture by name, in the order in which they are compiled, the whole at last."""

Report = Callable[[int, int], None]
"""Hears how many are done, of how many."""


class _Listener(event.Listener):
    def __init__(self, names: tuple[str, ...], report: Report) -> None:
        self._report = report
        self._left, self._count = set(names), len(names)
        self._silent = True

    def on_start(self, event: Any) -> None:  # noqa: ARG002 - as Numba calls it
        if self._silent:
            self._silent = False
            self._report(0, self._count)

    def on_end(self, event: Any) -> None:
        kernel = event.data["dispatcher"].py_func
        if kernel.__module__.startswith(__package__ or "") and kernel.__name__ in self._left:
            self._left.discard(kernel.__name__)
            self._report(self._count - len(self._left), self._count)


@contextmanager
def compilation(arch: str, report: Report | None) -> Iterator[None]:
    """Tell of what is compiled in the block for an architecture: (0, all) first, then every milestone.

    Nothing is told where nothing has to be compiled. `report` is called on the thread that compiles.
    """
    if report is None:
        yield
        return
    with event.install_listener("numba:compile", _Listener(MILESTONES[arch], report)):
        yield

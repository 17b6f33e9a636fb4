"""Report the progress of compiling the kernels.

Numba reports every function that it compiles, and none that it loads from disk. The few functions that take
most of the time are the milestones.
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
"""The large kernels of each architecture by name, in the order of compilation; the last is the whole."""

Report = Callable[[int, int], None]
"""A callback that receives (kernels compiled, kernels in all)."""


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
    """Report the kernels of an architecture compiled in the block: (0, all) first, then every milestone.

    Nothing is reported if nothing has to be compiled. `report` is called on the thread that compiles.
    """
    if report is None:
        yield
        return
    with event.install_listener("numba:compile", _Listener(MILESTONES[arch], report)):
        yield

"""Compile the parts of decoding to object code, for arguments of the types that decoding passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from numba import types

from niels_gpt.kernels import bdh, bdh_packing, decode_loop, gpt, gpt_packing
from niels_gpt.kernels.jit import from_words, object_code
from niels_gpt.kernels.matrices import ARGUMENTS, FLOAT_ARGUMENTS, OTHERS, float32_product
from niels_gpt.kernels.processor import LANES
from niels_gpt.kernels.sampler import sample
from niels_gpt.kernels.slots import Calls, new_drawn, new_scratch, new_slots

FORWARDS: dict[str, Any] = {"gpt": gpt.forward, "bdh": bdh.forward}
"""The forward pass of each architecture."""
EXAMPLES: dict[str, Callable[[], tuple[Any, ...]]] = {
    "gpt": gpt_packing.example_step,
    "bdh": bdh_packing.example_step,
}
"""Arguments of a step, up to its rows."""


def compile_part(part: str) -> tuple[str, bytes]:
    """Return symbol and object code of a part, by its name in `object_code`."""
    name, _, which = part.partition(" ")
    function, arguments = PARTS[name](which)
    return object_code(function, arguments)


Compiled = tuple[Callable[..., Any], Sequence[object]]
"""A function, and its arguments by examples or types."""


def _attention(_which: str) -> Compiled:
    shape, weights, work, rows = gpt_packing.example_step()
    return gpt.attention.py_func, (shape, weights, weights.layers[0], work, rows, 0, 0, 1)


def _product(kind: str) -> Compiled:
    if kind == "float32":
        return float32_product, [types.int64] * FLOAT_ARGUMENTS
    return OTHERS[kind], [types.int64] * ARGUMENTS


def _sampler(_which: str) -> Compiled:
    slots, scratch, logits = new_slots(1, 2), new_scratch(2, LANES), np.zeros(LANES, np.float32)
    counts, banned = slots.counts[0], slots.banned[0]
    return sample.py_func, (logits, 2, counts, banned, slots.settings, 0, 0.5, scratch)


def _forward(arch: str) -> Compiled:
    return FORWARDS[arch].py_func, (*EXAMPLES[arch](), np.zeros(1, np.int64), 0, 0, 0)


def _loop(arch: str) -> Compiled:
    numbers, multipliers = np.zeros(1, np.int64), np.zeros(2, np.uint64)
    batch = (numbers, numbers, new_slots(1, 2), new_scratch(2, LANES), multipliers, new_drawn(1, 1, LANES))
    return _from_words(decode_loop.run, (Calls(0, 0), *EXAMPLES[arch](), *batch))


def _read(arch: str) -> Compiled:
    return _from_words(decode_loop.read, (Calls(0, 0), *EXAMPLES[arch](), np.zeros(1, np.int64)))


def _from_words(kernel: Any, arguments: Sequence[object]) -> Compiled:
    """Return a function that calls a kernel with such arguments, read from words, and three integers."""
    read = from_words([numba.typeof(argument) for argument in arguments], further=3)

    def entry(words, a, b, c):
        return kernel(*read(words, a, b, c))

    return entry, [types.int64] * 4


PARTS: dict[str, Callable[[str], Compiled]] = {
    "attention": _attention,
    "product": _product,
    "sampler": _sampler,
    "forward": _forward,
    "loop": _loop,
    "read": _read,
}
"""What makes each part, given the rest of its name."""

"""Compile kernels: never with fast-math, always without the GIL, kept on disk between starts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import binding
from numba import types
from numba.core import cgutils
from numba.core import config as numba_config
from numba.extending import intrinsic

from niels_gpt.kernels.cache import cache_folder, claim_folder

config: Any = numba_config  # its settings are created at import time, so type checkers do not know them

# Numba refuses to define a cached kernel if the cache folder is not writable.
IS_STORED = claim_folder()

_njit: Any = numba.njit  # its stubs name no option of these
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": False}

# A literal has its own Numba type, so a kernel called with one would be compiled for that literal only.
ZERO, ONE = np.int64(0), np.int64(1)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a kernel that Python calls at its first call; for module-level functions only.

    It is kept on disk together with the inner kernels that it calls (other functions are not found there).
    """
    return _njit(cache=IS_STORED, **_OPTIONS, no_cfunc_wrapper=True)(function)


def inner(function: Callable[..., Any]) -> Any:
    """Compile a kernel that only kernels call; Python must not, since it has no wrapper to check a call."""
    return _njit(**_OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def addressed(function: Callable[..., Any]) -> Any:
    """Compile a kernel that others call by its `address_of`, kept on disk for itself.

    Numba compiles a kernel again with everything that it calls directly. A call by address ends that: the
    parts of a step compile side by side, and each of them once.
    """
    return _njit(cache=IS_STORED, **_OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def address_of(kernel: Any, arguments: Sequence[object]) -> int:
    """Compile a kernel for arguments of these types, or load it; return where it is, for a `caller`."""
    signature = tuple(numba.typeof(argument) for argument in arguments)
    kernel.compile(signature)
    found = kernel.overloads[signature]
    return found.library.get_pointer_to_function(found.fndesc.llvm_func_name)


def caller(count: int, result: types.Type = types.none) -> Any:
    """Return what calls a kernel by its address with `count` arguments, whose types must be those of it."""

    def typed(_typing_context: Any, *given: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            kinds = signature.args[1:]
            function = context.call_conv.get_function_type(result, kinds).as_pointer()
            callee = builder.inttoptr(values[0], function)
            status, value = context.call_conv.call_function(builder, callee, result, kinds, values[1:])
            with cgutils.if_unlikely(builder, status.is_error):
                context.call_conv.return_status_propagate(builder, status)
            return value

        return result(types.int64, *given[1:]), codegen

    return intrinsic_of(typed, 1 + count)


def intrinsic_of(typed: Callable[..., Any], count: int) -> Any:
    """Return an intrinsic with `count` arguments, which Numba reads from a function's signature."""
    plain = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ["typing_context", *(f"a{i}" for i in range(count))]
    signature = inspect.Signature([inspect.Parameter(name, plain) for name in names])
    typed.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    return intrinsic(typed)


def inlined(function: Callable[..., Any]) -> Any:
    """Inline a kernel into its callers: with few callers this avoids a separate compilation."""
    return _njit(inline="always", **_OPTIONS)(function)


def _features() -> dict[str, bool]:
    """Return the instruction sets that Numba compiles for, by LLVM's names."""
    if config.CPU_NAME is None and config.CPU_FEATURES is None:
        return dict(binding.get_host_cpu_features())
    named = (config.CPU_FEATURES or "").split(",")
    return {feature[1:]: feature.startswith("+") for feature in named if feature}


FEATURES = _features()

# Read by Numba when a function is decorated, so it is set before the first kernel is imported.
config.CACHE_DIR = str(cache_folder())

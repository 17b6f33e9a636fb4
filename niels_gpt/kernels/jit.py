"""Compile kernels: never with fast-math, always without the GIL, kept on disk between starts.

What decoding calls is kept as object code (`object_code`), which a start loads without importing this module.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core import config as numba_config
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from niels_gpt.kernels.cache import cache_folder, claim_folder

config: Any = numba_config  # its settings are created at import time, so type checkers do not know them

# Read by Numba when a function is decorated, so it is set before the first kernel is imported.
config.CACHE_DIR = str(cache_folder())

# Numba refuses to define a cached kernel if the cache folder is not writable.
IS_STORED = claim_folder()

_njit: Any = numba.njit  # its stubs name no option of these
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": False}

_WORD = ir.IntType(64)

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


def object_code(function: Callable[..., Any], arguments: Sequence[object]) -> tuple[str, bytes]:
    """Compile a function for arguments of these types; return its symbol and its object code.

    Arguments are given by examples or by their types. Others call the function by its address (`caller`).
    Numba compiles a kernel again with everything that it calls directly. A call by address ends that: the
    parts of a step compile side by side, and each of them once. Such a function must not allocate: then its
    code needs nothing of Numba's, and runs where that is not imported.
    """
    kernel = _njit(**_OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False)(function)
    kernel.compile(tuple(each if isinstance(each, types.Type) else numba.typeof(each) for each in arguments))
    (found,) = kernel.overloads.values()
    return found.fndesc.llvm_func_name, found.library._get_compiled_object()  # noqa: SLF001 - it has no other way


def caller(count: int, result: types.Type = types.none, *, kind: types.Type | None = None) -> Any:
    """Return what calls a kernel by its address.

    Args:
        count: How many arguments it has.
        result: The type of its result.
        kind: The type of all arguments, to which they are converted; None: those that it was compiled for are
            given.

    """

    def typed(_typing_context: Any, *given: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            kinds = signature.args[1:]
            function = context.call_conv.get_function_type(result, kinds).as_pointer()
            callee = builder.inttoptr(values[0], function)
            status, value = context.call_conv.call_function(builder, callee, result, kinds, values[1:])
            with cgutils.if_unlikely(builder, status.is_error):
                context.call_conv.return_status_propagate(builder, status)
            return value

        return result(types.int64, *(given[1:] if kind is None else [kind] * count)), codegen

    return intrinsic_of(typed, 1 + count)


def from_words(kinds: Sequence[types.Type], further: int) -> Any:
    """Return what reads values from 64-bit words at an address, as `object_code.Arguments` writes them.

    It returns a tuple of those values and of `further` integers that it is called with.
    """

    def typed(_typing_context: Any, *_given: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            words = _Words(context, builder, values[0])
            read = [words.value(kind) for kind in kinds]
            return context.make_tuple(builder, signature.return_type, [*read, *values[1:]])

        numbers = [types.int64] * further
        return types.Tuple([*kinds, *numbers])(types.int64, *numbers), codegen

    return intrinsic_of(typed, 1 + further)


class _Words:
    """Reads values of given types, one after another."""

    def __init__(self, context: Any, builder: Any, address: Any) -> None:
        self._context, self._builder = context, builder
        self._place = builder.inttoptr(address, ir.PointerType(_WORD))

    def value(self, kind: Any) -> Any:
        if isinstance(kind, types.BaseTuple):
            members: Any = kind
            parts = [self.value(part) for part in members]
            return self._context.make_tuple(self._builder, kind, parts)
        if isinstance(kind, types.Array):
            return self._array(kind)
        word = self._next()
        if kind == types.float32:
            return self._builder.bitcast(self._builder.trunc(word, ir.IntType(32)), ir.FloatType())
        return self._builder.trunc(word, ir.IntType(1)) if kind == types.boolean else word

    def _array(self, kind: types.Array) -> Any:
        """Read an array in C order: where it is, and its shape."""
        context, builder = self._context, self._builder
        array = context.make_array(kind)(context, builder)
        data = builder.inttoptr(self._next(), array.data.type)
        shape = [self._next() for _ in range(kind.ndim)]
        size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
        strides = [_WORD(size)]
        for length in reversed(shape[1:]):
            strides.insert(0, builder.mul(strides[0], length))
        populate_array(
            array, data=data, shape=shape, strides=strides, itemsize=_WORD(size), meminfo=None
        )  # fmt: skip
        return array._getvalue()  # noqa: SLF001 - as Numba's own array functions end

    def _next(self) -> Any:
        word = self._builder.load(self._place)
        self._place = self._builder.gep(self._place, [_WORD(1)])
        return word


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

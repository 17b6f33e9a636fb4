"""NVIDIA's compiler, which needs no GPU, keeps every operation of the kernels as it was written."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from niels_gpt.kernels.cuda import nvrtc
from niels_gpt.kernels.cuda.driver import FOLDER, LARGE_BLOCKS, MODULES, Module
from tests.kernels.cuda.shim import kept

# Also where packages are found through a .pth file, which NVIDIA's own search does not read.
LIBRARIES = [path for folder in sys.path for path in Path(folder).glob("nvidia/cu13/lib/libnvrtc.so.13")]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("cuda") is None or not LIBRARIES,
    reason="no NVRTC: pip install cuda-bindings nvidia-cuda-nvrtc (58 MB, so not a part of dev)",
)

ROUNDED = re.compile(r"\b(?:fma|mad|add|sub|mul|div|sqrt)(?:\.\w+)*\.f(?:32|64)\b")
INEXACT = re.compile(
    r"\.(?:ftz|approx|full)\b|\b(?:ex2|lg2|rcp|rsqrt|sin|cos|tanh)(?:\.\w+)*\.f(?:16|32|64)\b"
)
ARCHITECTURES = ("compute_80", "compute_90", "compute_120")
"""Ampere and newer, Hopper, Blackwell."""


def faults(ptx: str) -> list[str]:
    """What a compiler may merge or approximate: operations without a rounding, and inexact ones."""
    unrounded = [found for found in ROUNDED.findall(ptx) if ".rn" not in found]
    return unrounded + INEXACT.findall(ptx)


def ptx_of(module: Module, arch: str) -> str:
    """Compile, or take what was compiled before from the same sources."""
    digest = hashlib.sha256(f"{module} {arch}".encode() + Path(nvrtc.__file__).read_bytes())
    for path in sorted(FOLDER.glob("*.cu*")):
        digest.update(path.read_bytes())
    stored = kept(f"{module.file}-{digest.hexdigest()[:16]}.ptx")
    if not stored.exists():
        ctypes.CDLL(str(LIBRARIES[0]), ctypes.RTLD_GLOBAL)
        code = nvrtc.compile_module(module, arch, "PTX")
        stored.write_bytes(code.rstrip(b"\0 "))
    return stored.read_text("utf-8")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("module", [m for m in MODULES if not m.macros or m.macros == (("FORM", "float32"),)])
def test_every_operation_is_rounded_as_written(module: Module, arch: str) -> None:
    ptx = ptx_of(module, arch)
    assert all(f".entry {kernel}(" in ptx for kernel in module.kernels)
    assert "fma.rn.f32" in ptx
    assert faults(ptx) == []


@pytest.mark.parametrize("module", [m for m in MODULES if m.macros and m.macros != (("FORM", "float32"),)])
def test_so_is_every_form_of_weights(module: Module) -> None:
    assert faults(ptx_of(module, "compute_80")) == []


def test_kernels_of_large_blocks_declare_no_shared_memory_of_their_own() -> None:
    for module in MODULES:
        large = LARGE_BLOCKS.intersection(module.kernels)
        if not large or (module.macros and module.macros != (("FORM", "float32"),)):
            continue
        text = ptx_of(module, "compute_80")
        declared = re.findall(r"^\.shared .*?(\w+)\[", text, re.MULTILINE)
        for kernel in large:
            body = text[text.index(f".entry {kernel}(") :].partition("\n}")[0]
            assert not any(re.search(rf"\b{name}\b", body) for name in declared), kernel


@pytest.mark.parametrize(
    "line", ["mul.f32 %f3, %f1, %f2;", "fma.rn.ftz.f32 %f1, %f1, %f1, %f2;", "ex2.approx.f32 %f1, %f2;"]
)
def test_a_careless_operation_is_noticed(line: str) -> None:
    assert faults(f"\tadd.rn.f32 %f1, %f2, %f3;\n\t{line}\n")

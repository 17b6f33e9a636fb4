"""Compile the CUDA sources with NVRTC, and find what was compiled before.

Compiled modules are kept on disk by sources, options, architecture, compiler and driver. Neither needs a GPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from pathlib import Path
from typing import Any, Literal

from niels_gpt.errors import NielsGptError
from niels_gpt.kernels.cache import cache_folder
from niels_gpt.kernels.cuda.driver import FOLDER, Module


class CudaError(NielsGptError):
    """The GPU cannot be used, or reported a failure."""


def compile_module(module: Module, arch: str, target: Literal["CUBIN", "PTX"] = "CUBIN") -> bytes:
    """Compile a module with NVRTC to machine code or PTX; needs no GPU.

    Args:
        module: Which one.
        arch: The architecture, such as "sm_90".
        target: What to return.

    Raises:
        CudaError: NVRTC is missing or refuses the source.

    """
    nvrtc = importlib.import_module("cuda.bindings.nvrtc")
    source = (FOLDER / module.file).read_bytes()
    # Every operation names its rounding; the options say the same about whatever a compiler adds.
    options = [
        f"--gpu-architecture={arch}", "--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true",
        "--prec-sqrt=true", f"--include-path={FOLDER}",
        *(f"-D{name}={value}" for name, value in module.macros),
    ]  # fmt: skip
    program = checked(nvrtc.nvrtcCreateProgram(source, module.file.encode(), 0, [], []))
    try:
        status = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = b" " * checked(nvrtc.nvrtcGetProgramLogSize(program))
        checked(nvrtc.nvrtcGetProgramLog(program, log))
        if int(status[0]) != 0:
            reason = log.rstrip(b"\0").decode(errors="replace").strip()
            raise CudaError(f"NVRTC cannot compile {module.file} for {arch}: {reason}")
        code = b" " * checked(getattr(nvrtc, f"nvrtcGet{target}Size")(program))
        checked(getattr(nvrtc, f"nvrtcGet{target}")(program, code))
        return code
    finally:
        checked(nvrtc.nvrtcDestroyProgram(program))


def checked(result: tuple[Any, ...]) -> Any:
    """Return what a call of NVIDIA's returned besides its status; CudaError if it failed."""
    error, *values = result
    if int(error) != 0:
        raise CudaError(f"NVIDIA's software reported {error!r}")
    return values[0] if len(values) == 1 else tuple(values)


def stored_module(module: Module, arch: str, versions: str) -> tuple[Path, bytes | None]:
    """Return the path of a compiled module, and its machine code if it is there.

    `versions` are those of the compiler and the driver.
    """
    digest = hashlib.sha256(f"{module} {arch} {versions}".encode())
    for path in sorted(FOLDER.glob("*.cu*")):
        digest.update(path.read_bytes())
    digest.update(Path(__file__).read_bytes())  # the options
    path = cache_folder() / f"{module.file}-{arch}-{digest.hexdigest()[:16]}.cubin"
    with contextlib.suppress(OSError):
        return path, path.read_bytes()
    return path, None

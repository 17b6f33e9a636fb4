"""Choose the device that computes: the one that is named, or the best available.

Names: cpu, mps, cuda or cuda:1 (the kernels on an NVIDIA GPU), torch:cuda or torch:cuda:1 (torch on it), and
auto. Training always uses torch.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from niels_gpt.errors import NielsGptError

_DRIVERS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/proc/driver/nvidia")
"""Where Linux shows the driver of an NVIDIA GPU: of a computer, a Jetson, under WSL, in some containers."""
_NAME = re.compile(r"cpu|auto|mps|(?:torch:)?cuda(?::[0-9]{1,3})?")


class _Names(tuple[str, ...]):
    """Names of devices; `in` holds for those with the number of a GPU, too."""

    __slots__ = ()

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _NAME.fullmatch(name) is not None


DEVICES = _Names(("cpu", "auto", "mps", "cuda", "torch:cuda"))
"""What a --device flag may say."""


class DeviceError(NielsGptError):
    """The named device is not available on this machine."""


def get_device() -> str:
    """Return "mps" on a Mac that has it, else "cpu"; other devices are used only by name."""
    import torch  # noqa: PLC0415 - heavy, and the kernels on a CPU work without it

    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_named(name: str) -> str:
    """Return the device that `name` stands for, "auto" being the fastest; DeviceError if not available."""
    if name == "cpu" or (name == "auto" and not may_have_gpu()):
        return "cpu"
    import torch  # noqa: PLC0415 - as above

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else get_device()
    fault = why_no_cuda(gpu_number(name)) if "cuda" in name else None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = torch_device(name, kernels=False).partition(":")[0]
    if fault is not None or not available.get(kind, False):
        usable = ", ".join(device for device, there in available.items() if there)
        reason = "" if fault is None else f" ({fault})"
        raise DeviceError(f"the device {name!r} is not available here{reason}: use {usable} or auto")
    return name


def may_have_gpu() -> bool:
    """Return whether it is worth asking torch for a GPU, whose import takes longer than a short reply."""
    return sys.platform != "linux" or any(Path(driver).exists() for driver in _DRIVERS)


def gpu_number(name: str) -> int:
    """Return the number of the GPU that a name such as "cuda:1" has, 0 if it has none."""
    number = name.rpartition(":")[2]
    return int(number) if number.isdecimal() else 0


def torch_device(name: str, *, kernels: bool = True) -> str:
    """Return where torch's modules of a model stand: not on a GPU that the `kernels` use."""
    if name.startswith("torch:"):
        return name.removeprefix("torch:")
    return "cpu" if kernels and name.startswith("cuda") else name


def why_no_cuda(index: int = 0) -> str | None:
    """Return a one-line reason why torch cannot use this GPU, with what to do, or None."""
    import torch  # noqa: PLC0415 - as above

    if torch.version.cuda is None:
        return "this torch has no CUDA; install torch's build for CUDA"
    if not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU; check that `nvidia-smi` lists one"
    if index >= torch.cuda.device_count():
        return f"there is no GPU {index}, expected 0 to {torch.cuda.device_count() - 1}"
    return None

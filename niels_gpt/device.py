"""Choose the device that computes: the one that is named, or the best available."""

from __future__ import annotations

from niels_gpt.errors import NielsGptError


class DeviceError(NielsGptError):
    """The named device is not available on this machine."""


def get_device() -> str:
    """Return "mps" on a Mac that has it, else "cpu"; other devices are used only by name."""
    import torch  # noqa: PLC0415 - heavy, and the kernels on a CPU work without it

    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_named(name: str) -> str:
    """Return the device that `name` stands for, "auto" being the fastest; DeviceError if not available."""
    if name == "cpu":
        return name
    import torch  # noqa: PLC0415 - as above

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else get_device()
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(name.partition(":")[0], False):
        usable = ", ".join(device for device, there in available.items() if there)
        raise DeviceError(f"the device {name!r} is not available here: use {usable} or auto")
    return name

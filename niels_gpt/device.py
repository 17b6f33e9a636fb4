"""Which device computes: the one that is named, or the best there is."""

from __future__ import annotations

import torch

from niels_gpt.errors import NielsGptError


class DeviceError(NielsGptError):
    """A device was named that this machine does not have."""


def get_device() -> str:
    """Return "mps" on a Mac that has it, else "cpu"; other devices are used when they are named."""
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_named(name: str) -> str:
    """Return the device that `name` stands for, "auto" being the fastest; DeviceError if it is not here."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else get_device()
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(name.partition(":")[0], False):
        usable = ", ".join(device for device, there in available.items() if there)
        raise DeviceError(f"the device {name!r} is not available here: use {usable} or auto")
    return name

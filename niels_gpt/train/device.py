"""Which device a run uses, and what it gains on it."""

from __future__ import annotations

from pathlib import Path

import torch

from niels_gpt.device import device_named, get_device


def chosen_device(asked: str | None) -> str:
    """Return the device that was asked for, or "mps" where there is one, else "cpu"."""
    return get_device() if asked is None else device_named(asked)


def uses_bfloat16(amp: str | None, *, device: str) -> bool:
    """Return whether products run in bfloat16; "auto" where the device has units for it."""
    if amp != "auto":
        return amp == "bf16"
    match torch.device(device).type:
        case "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        case "cpu":
            return _processor_has_bfloat16()
        case _:
            return False


def _processor_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself: a step is then 2.5 times as fast, else slower."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return False
    words = set(info.read_text(encoding="utf-8", errors="replace").split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})

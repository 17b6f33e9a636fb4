"""Which arithmetic decodes: the kernels on a CPU, torch on other devices and where Numba cannot run.

Knows nothing of engines, sessions or terminals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from niels_gpt.fingerprint import Fingerprint
from niels_gpt.infer.decoder import TorchDecoder
from niels_gpt.infer.prepare import compile_kernels
from niels_gpt.kernels import KERNEL_VERSION
from niels_gpt.loading import LoadedModel

if TYPE_CHECKING:
    from niels_gpt.infer.kernel_decoder import KernelDecoder


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A decoder, and what explains the bits of its replies beside the checkpoint."""

    decoder: TorchDecoder | KernelDecoder
    environment: dict[str, str | int]
    notice: str | None = None
    """What a person should know of the choice."""


def open_backend(loaded: LoadedModel, *, device: str = "cpu") -> Backend:
    """Make the decoder for a model on `device`: for the CPU the kernels, compiled when this returns."""
    if device != "cpu":
        return _torch(loaded, device)
    try:
        return _kernels(loaded)
    except Exception as error:  # noqa: BLE001 - whatever Numba cannot do here, torch still answers
        reason = " ".join(str(error).split())[:200]
        notice = (
            f"the exact kernels cannot run here ({type(error).__name__}: {reason}); torch answers instead"
        )
        return _torch(loaded, device, notice=notice)


def _torch(loaded: LoadedModel, device: str, *, notice: str | None = None) -> Backend:
    return Backend(
        decoder=TorchDecoder(loaded.model, loaded.tokenizer, device=device),
        environment=Fingerprint.environment(device=device, path="torch"),
        notice=notice,
    )


def _kernels(loaded: LoadedModel) -> Backend:
    import numba  # noqa: PLC0415 - half a second, and it may be what is missing

    from niels_gpt.infer.kernel_decoder import KernelDecoder  # noqa: PLC0415
    from niels_gpt.kernels.layout import pack_gpt  # noqa: PLC0415

    compile_kernels()
    environment = Fingerprint.environment(device="cpu", path="kernels")
    return Backend(
        decoder=KernelDecoder(pack_gpt(loaded.model), loaded.tokenizer),
        environment=environment | {"numba": numba.__version__, "kernel_version": KERNEL_VERSION},
    )

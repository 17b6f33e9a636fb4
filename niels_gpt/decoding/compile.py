"""Compile the kernels for this processor, once: `python -m niels_gpt.decoding.compile [--weights int8]`.

A chat compiles them behind its first prompt; this command does it beforehand. Kernels for int8 weights are
compiled only on request.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, get_args

from niels_gpt import program
from niels_gpt.kernels import WeightForm, why_unavailable
from niels_gpt.kernels.cache import cache_folder, forget_other_versions, is_prepared, mark_prepared

if TYPE_CHECKING:
    from niels_gpt.kernels.bdh_packing import PackedBDH
    from niels_gpt.kernels.gpt_packing import PackedModel
    from niels_gpt.model.config import ModelConfig

PREPARING = "preparing the kernels for this processor (once)"


def main(argv: Sequence[str] | None = None) -> int:
    """Compile the missing kernels; return 0 even if the kernels cannot run, since torch can."""
    return program.run("niels_gpt.decoding.compile", lambda: _compile(argv))


def _compile(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m niels_gpt.decoding.compile", description="Compile the kernels."
    )
    parser.add_argument(
        "--weights", choices=get_args(WeightForm), default="float32", help="default %(default)s"
    )
    form: WeightForm = parser.parse_args(argv).weights
    if is_prepared(form):
        return 0
    fault = why_unavailable()
    if fault is not None:  # not an error: the chat still works
        instead = "torch will answer" if form == "float32" else f"{form} weights cannot be used"
        _say(f"{PREPARING}: not possible here ({fault}); {instead}\n")
        return 0
    began = time.perf_counter()
    compile_kernels(form, on_progress=_show)
    _say(f"{PREPARING}: {time.perf_counter() - began:.0f} s, in {cache_folder()}\n")
    return 0


def _show(done: int, total: int) -> None:
    # In a log the first and the last line are enough.
    if sys.stderr.isatty():
        _say(f"{PREPARING}: {done} of {total}")
    elif done == 0:
        _say(f"{PREPARING} ...\n")


def _say(line: str) -> None:
    over = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{over}{line}", end="", flush=True, file=sys.stderr)


def compile_kernels(
    form: WeightForm = "float32",
    *,
    arch: str = "gpt",
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compile all kernels of an architecture by generating one token with a model of the smallest size.

    `on_progress` is called with (large kernels compiled, large kernels in all), first with none compiled, and
    not at all if none has to be compiled.
    """
    from niels_gpt.decoding.kernel_decoder import KernelDecoder  # noqa: PLC0415
    from niels_gpt.decoding.request import GenerationRequest  # noqa: PLC0415
    from niels_gpt.kernels.compile_progress import compilation  # noqa: PLC0415
    from niels_gpt.model.config import ModelConfig  # noqa: PLC0415 - numba, only when it is needed
    from niels_gpt.sampling import Sampling  # noqa: PLC0415
    from niels_gpt.text.tokenizer import ByteTokenizer  # noqa: PLC0415

    packed = _smallest(ModelConfig(T=16, C=16, L=1, H=1, d_ff=16, arch=arch), form)
    decoder = KernelDecoder(packed, ByteTokenizer(), threads=1)
    request = GenerationRequest(
        prompt_ids=(0,), max_new_tokens=1, sampling=Sampling(), seed=0,
        stop_ids=frozenset(), stop_sequences=(), banned_ids=frozenset(),
    )  # fmt: skip
    sequence = decoder.admit(request)
    with compilation(arch, on_progress):
        step = decoder.advance([sequence])[0]
    decoder.release(sequence)
    if step.error is not None:
        raise step.error
    if arch == "gpt":  # the architecture that `is_prepared` is about
        mark_prepared(form)
    forget_other_versions()


def _smallest(cfg: ModelConfig, form: WeightForm) -> PackedModel | PackedBDH:
    import numpy as np  # noqa: PLC0415

    from niels_gpt.kernels.packing import pack_model, pack_state  # noqa: PLC0415
    from niels_gpt.model.state import state_shapes  # noqa: PLC0415

    if cfg.arch == "gpt":
        return pack_state(
            cfg, {name: np.ones(shape, np.float32) for name, shape in state_shapes(cfg).items()}, form
        )
    from niels_gpt.model.registry import build_model  # noqa: PLC0415 - torch

    return pack_model(build_model(cfg), form)


if __name__ == "__main__":
    program.run_process(main)

"""Compile the kernels for this processor, once: `python -m niels_gpt.infer.prepare`.

A chat does the same behind its first prompt; this is for those who would rather wait before it. Knows no
checkpoint: compiled code does not depend on a model's size.
"""

from __future__ import annotations

import sys
import time

from niels_gpt.kernels.cache import cache_folder, forget_other_versions, is_prepared


def main() -> int:
    """Compile what is not compiled yet; 0, also where the kernels cannot run: torch answers there."""
    if is_prepared():
        return 0
    print("preparing the kernels for this processor (once) ...", end="", flush=True, file=sys.stderr)
    began = time.perf_counter()
    try:
        compile_kernels()
    except Exception as error:  # noqa: BLE001 - whatever Numba cannot do here, the chat still works
        print(f" not possible here ({type(error).__name__}: {error}); torch will answer", file=sys.stderr)
        return 0
    print(f" {time.perf_counter() - began:.0f} s, in {cache_folder()}", file=sys.stderr)
    return 0


def compile_kernels() -> None:
    """Run one token through everything there is, in a model of the smallest size."""
    from niels_gpt.config import ModelConfig  # noqa: PLC0415 - torch and numba, only when they are needed
    from niels_gpt.infer.kernel_decoder import KernelDecoder  # noqa: PLC0415
    from niels_gpt.infer.request import GenerationRequest  # noqa: PLC0415
    from niels_gpt.kernels.layout import pack_gpt  # noqa: PLC0415
    from niels_gpt.model.gpt import GPT  # noqa: PLC0415
    from niels_gpt.sampling import Sampling  # noqa: PLC0415
    from niels_gpt.tokenizer import ByteTokenizer  # noqa: PLC0415

    model = GPT(ModelConfig(T=16, C=16, L=1, H=1, d_ff=16))
    decoder = KernelDecoder(pack_gpt(model), ByteTokenizer())
    request = GenerationRequest(
        prompt_ids=(0,), max_new_tokens=1, sampling=Sampling(), seed=0,
        stop_ids=frozenset(), stop_sequences=(), banned_ids=frozenset(),
    )  # fmt: skip
    sequence = decoder.admit(request)
    step = decoder.advance([sequence])[0]
    decoder.release(sequence)
    if step.error is not None:
        raise step.error
    forget_other_versions()


if __name__ == "__main__":
    sys.exit(main())

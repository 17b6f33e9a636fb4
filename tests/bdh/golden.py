"""What a BDH's kernels make of fixed inputs, as hashes: `python -m tests.bdh.golden` prints JSON."""

from __future__ import annotations

import hashlib
import json

from niels_gpt.kernels import KERNEL_VERSION
from niels_gpt.kernels.bdh_packing import PackedBDH
from niels_gpt.model.config import ModelConfig
from tests.bdh.reading import read
from tests.kernels.golden import numbers, whole_numbers

CONFIGS = {
    "whole vectors": (97, 32, 2, 2, 64),
    "odd widths": (61, 20, 3, 2, 36),
}


def golden() -> dict[str, object]:
    """The hash of a prompt's logits for each size."""
    hashes: dict[str, object] = {"kernel_version": KERNEL_VERSION}
    for name, (V, C, L, H, width) in CONFIGS.items():
        cfg = ModelConfig(V=V, C=C, L=L, H=H, d_ff=width, arch="bdh")
        N = width // H
        state = {
            "encoder": numbers(1, H, C, N),
            "encoder_v": numbers(2, H, C, N),
            "decoder": numbers(3, width, C),
            "embed.weight": numbers(4, V, C),
            "lm_head": numbers(5, C, V),
            "attn.freqs": abs(numbers(6, 1, 1, 1, N)),
        }
        ids = (whole_numbers(99, 40) % V).tolist()
        hashes[name] = hashlib.sha256(read(PackedBDH(cfg, state), ids, [1, 19, 20]).tobytes()).hexdigest()
    return hashes


if __name__ == "__main__":
    print(json.dumps(golden(), indent=2))

"""Import path that users of the original project call; the code is in `niels_gpt.model.kv_cache`."""

from niels_gpt.model.kv_cache import (
    KVCache,
    allocate_kv_cache,
    decode_step,
    prefill,
)

__all__ = [
    "KVCache",
    "allocate_kv_cache",
    "decode_step",
    "prefill",
]

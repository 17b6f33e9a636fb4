"""Import path that users of the original project call; the code is in `niels_gpt.generation.reference`."""

from niels_gpt.generation.reference import (
    generate_ids,
    generate_ids_cached,
    generate_ids_greedy_cached,
    generate_ids_greedy_full,
    generate_text,
    sample_next_token,
    top_k_filter,
)

__all__ = [
    "generate_ids",
    "generate_ids_cached",
    "generate_ids_greedy_cached",
    "generate_ids_greedy_full",
    "generate_text",
    "sample_next_token",
    "top_k_filter",
]

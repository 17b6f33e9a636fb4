"""The loss of a model on one stream of bytes, the same number for the same seed.

B windows a batch, T tokens a window, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from niels_gpt.model.mode import eval_mode
from niels_gpt.rng import make_generator


@torch.no_grad()
def eval_loss_on_stream(
    model: torch.nn.Module,
    *,
    stream: bytes | bytearray | memoryview,
    B: int,
    T: int,
    device: str,
    eval_steps: int,
    seed: int,
) -> float:
    """Return the mean cross-entropy, in nats a byte, over `eval_steps` batches of windows drawn with `seed`.

    The model is in evaluation mode meanwhile and has its own mode back afterwards, also after an exception.
    Raises ValueError for counts below 1, or a stream that is no longer than T.
    """
    for name, value in (("B", B), ("T", T), ("eval_steps", eval_steps)):
        if value < 1:
            raise ValueError(f"{name} is {value!r}, expected at least 1")
    if len(stream) <= T:
        raise ValueError(f"the stream has {len(stream)} bytes, expected more than T={T}; add text or lower T")
    tokens = np.frombuffer(stream, dtype=np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, T + 1)  # (len - T, T + 1), not copied
    generator = make_generator(seed)
    total = 0.0
    with eval_mode(model):
        for _ in range(eval_steps):
            starts = torch.randint(len(windows), (B,), generator=generator)
            batch = torch.from_numpy(windows[starts.numpy()].astype(np.int64)).to(device)  # (B, T + 1)
            logits = model(batch[:, :-1])  # (B, T, V)
            total += functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).item()
    return total / eval_steps

"""Train on streams of bytes: windows at random places, every byte of which is learned.

B windows a batch, T tokens a window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from niels_gpt.data.windows import Stream, get_batch
from niels_gpt.model.config import TrainConfig
from niels_gpt.model.mode import eval_mode
from niels_gpt.rng import make_generator
from niels_gpt.train.batch import Batch, Totals
from niels_gpt.train.errors import TrainingError
from niels_gpt.train.rng import step_seed

SAMPLE, SAMPLES = 4096, 64  # bytes of a place and places of a stream that its digest looks at


class WindowData:
    """Sources mixed by probability. The windows of a position depend on the streams and (seed, position)."""

    def __init__(
        self,
        train: Mapping[str, Stream],
        val: Mapping[str, Stream],
        *,
        p: Mapping[str, float],
        cfg: TrainConfig,
        T: int,
    ) -> None:
        """Mix the streams `train` with probabilities `p`.

        The held-out streams `val` are evaluated; wikitext comes first where there is one, else the likeliest.
        """
        self._train, self._p, self._cfg, self._T = train, p, cfg, T
        order = sorted(val, key=lambda name: (name != "wiki", -p[name], name))
        self._val = {name: val[name] for name in order if len(val[name]) > T}
        for name, stream in train.items():
            if len(stream) <= T:
                raise TrainingError(
                    f"the source {name!r} has {len(stream)} bytes, expected more than model.T={T}; add text "
                    "or lower model.T"
                )

    @property
    def digest(self) -> str:
        """SHA-256 over the sources' names, shares, sizes and samples of their content."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(self._train):
            stream = memoryview(self._train[name])
            digest.update(f"{name}\0{self._p[name]!r}\0{len(stream)}\0".encode())
            for n in range(SAMPLES):
                start = max(0, len(stream) - SAMPLE) * n // (SAMPLES - 1)
                digest.update(stream[start : start + SAMPLE])
        return digest.hexdigest()

    def from_position(self, position: int) -> Iterator[Batch]:
        """Yield the batches from a position on, endlessly."""
        B, T = self._cfg.B, self._T
        learned, prompt = torch.ones(B, T, dtype=torch.bool), torch.zeros(B, T, dtype=torch.bool)
        totals = Totals(replies=B * T, prompts=0)
        while True:
            generator = make_generator(step_seed(self._cfg.seed, position, purpose="windows"))
            x, y = get_batch(self._train, p=self._p, B=B, T=T, device="cpu", generator=generator)
            yield Batch(
                inputs=x, targets=y, learned=learned, prompt=prompt, tokens=B * T, dense=True, whole=totals
            )
            position += 1

    def evaluate(self, forward: nn.Module, *, device: str) -> dict[str, float]:
        """Return the loss a byte on each held-out stream."""
        cfg = self._cfg
        return {
            name: eval_loss_on_stream(
                forward,
                stream=stream,
                B=cfg.B,
                T=self._T,
                device=device,
                eval_steps=cfg.eval_steps,
                seed=cfg.seed,
            )
            for name, stream in self._val.items()
        }


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
    """Return the mean cross-entropy over `eval_steps` batches of B random windows of T bytes, in nats a byte.

    The same seed gives the same windows. The model is in evaluation mode meanwhile; its own mode is restored
    afterwards, also after an exception.

    Raises:
        ValueError: A count is below 1, or the stream has at most T bytes.

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


def mix(
    asked: Mapping[str, float] | None,
    available: Mapping[str, object],
    *,
    default: Mapping[str, float],
    folder_share: float,
) -> dict[str, float]:
    """Return the probabilities of the available sources, scaled to sum to 1.

    They are those of `asked`, or, where that is None, those of `default` with `folder_share` for each source
    that has no default.

    Raises:
        TrainingError: `asked` lacks an available source, or no available source has a probability above 0.

    """
    shares = default if asked is None else asked
    unnamed = [name for name in available if name not in shares]
    if asked is not None and unnamed:
        raise TrainingError(
            f"train.p_train is {dict(asked)!r} and has no {unnamed[0]!r}; give it a probability, or "
            "leave it out of the data's sources"
        )
    found = {name: shares.get(name, folder_share) for name in available}
    total = sum(found.values())
    if total <= 0.0:
        raise TrainingError(
            f"train.p_train is {dict(shares)!r}: none of the available sources {sorted(available)} has a "
            "probability above 0"
        )
    return {name: share / total for name, share in found.items()}

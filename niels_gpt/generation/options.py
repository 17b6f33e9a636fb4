"""What a call to a model's `generate` asks for, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from niels_gpt.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """A call's settings; ValueError for one out of range."""

    max_new_tokens: int
    sampling: Sampling
    num_return_sequences: int
    stop_ids: frozenset[int]
    """A row ends once one of these was chosen; the id is its last."""
    stop_sequences: tuple[bytes, ...]
    """A row ends once its new bytes hold one of these, and before it."""
    banned_ids: frozenset[int]
    num_beams: int
    """More than 1 searches with so many beams and draws nothing."""
    length_penalty: float
    """A beam's score is its log probability over its number of new tokens to this power."""

    def __post_init__(self) -> None:
        for name, lowest in (("max_new_tokens", 0), ("num_return_sequences", 1), ("num_beams", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ValueError(f"{name} is {value!r}, expected a whole number from {lowest}")
        if not all(self.stop_sequences):
            raise ValueError(f"stop_sequences is {self.stop_sequences!r}, expected no empty sequence")
        if self.num_beams > 1:
            if self.num_return_sequences > self.num_beams:
                raise ValueError(
                    f"num_return_sequences is {self.num_return_sequences!r}, expected at most "
                    f"num_beams={self.num_beams}"
                )
        elif self.sampling.is_greedy and self.num_return_sequences > 1:
            raise ValueError(
                f"num_return_sequences is {self.num_return_sequences!r}, expected 1: without sampling or "
                "beams all of them would be equal"
            )


def make_options(
    *,
    max_new_tokens: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float | None = 1.0,
    num_return_sequences: int = 1,
    do_sample: bool = True,
    eos_token_id: int | Iterable[int] | None = None,
    min_p: float | None = None,
    typical_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    banned_token_ids: Iterable[int] = (),
    stop_sequences: Iterable[str | bytes] = (),
    num_beams: int = 1,
    length_penalty: float = 1.0,
) -> GenerationOptions:
    """Return what the keywords of `generate` say; `do_sample=False` is temperature 0."""
    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        min_p=min_p,
        typical_p=typical_p,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
    )
    stops = () if eos_token_id is None else eos_token_id
    return GenerationOptions(
        max_new_tokens=max_new_tokens,
        sampling=sampling if do_sample else sampling.greedy(),
        num_return_sequences=num_return_sequences,
        stop_ids=frozenset((stops,) if isinstance(stops, int) else stops),
        stop_sequences=tuple(stop.encode() if isinstance(stop, str) else stop for stop in stop_sequences),
        banned_ids=frozenset(banned_token_ids),
        num_beams=num_beams,
        length_penalty=length_penalty,
    )

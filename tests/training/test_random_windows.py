from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from niels_gpt.data.windows import get_batch
from niels_gpt.rng import make_generator

COUNTING = bytes(range(200))
LETTERS = b"a" * 50
MIX = {"counting": 0.75, "letters": 0.25}


def batch(
    sources: dict[str, bytes], p: dict[str, float], *, seed: int = 0, B: int = 64, T: int = 8
) -> tuple[torch.Tensor, torch.Tensor]:
    return get_batch(sources, p=p, B=B, T=T, device="cpu", generator=make_generator(seed))


def test_targets_are_the_bytes_that_follow_the_inputs() -> None:
    x, y = batch({"counting": COUNTING}, {"counting": 1.0})
    assert x.shape == y.shape == (64, 8)
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(y, x + 1)


def test_every_place_of_a_stream_is_reached() -> None:
    x, y = batch({"counting": COUNTING}, {"counting": 1.0}, B=4096)
    assert x.min() == 0
    assert y.max() == 199
    assert set(x[:, 0].tolist()) == set(range(192))


def test_sources_come_as_often_as_their_probabilities_say() -> None:
    x, _ = batch({"counting": COUNTING, "letters": LETTERS}, MIX, B=4000)
    share = (x == ord("a")).all(dim=1).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.03)


def test_a_source_of_probability_0_is_never_drawn() -> None:
    x, _ = batch({"counting": COUNTING, "letters": LETTERS}, {"counting": 0.0, "letters": 1.0}, B=1000)
    assert (x == ord("a")).all()


def test_the_same_seed_gives_the_same_batch_and_another_another() -> None:
    sources = {"counting": COUNTING, "letters": LETTERS}
    x, _ = batch(sources, MIX)
    turned, _ = batch(dict(reversed(sources.items())), dict(reversed(MIX.items())))
    assert torch.equal(x, turned)
    assert not torch.equal(x, batch(sources, MIX, seed=1)[0])


def test_only_the_generator_that_is_handed_in_is_used() -> None:
    state = torch.random.get_rng_state()
    batch({"counting": COUNTING}, {"counting": 1.0})
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_mapped_file_gives_what_its_bytes_give(tmp_path: Path) -> None:
    path = tmp_path / "stream.bin"
    path.write_bytes(COUNTING)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        sources = {"counting": view}
        x, _ = get_batch(sources, p={"counting": 1.0}, B=64, T=8, device="cpu", generator=make_generator(0))
        view.release()
    assert torch.equal(x, batch({"counting": COUNTING}, {"counting": 1.0})[0])


@pytest.mark.parametrize(
    ("sources", "p", "said"),
    [
        ({}, {}, "no source"),
        ({"a": COUNTING}, {"b": 1.0}, r"\['a'\].*\['b'\]"),
        ({"a": COUNTING}, {"a": 0.999}, "sum to 0.999"),
        ({"a": COUNTING, "b": COUNTING}, {"a": 1.5, "b": -0.5}, "'b' is -0.5"),
        ({"a": COUNTING}, {"a": float("nan")}, "'a' is nan"),
        ({"a": b"12345678"}, {"a": 1.0}, "'a' has 8 bytes, expected more than T=8"),
    ],
)
def test_what_cannot_be_drawn_from_is_named(
    sources: dict[str, bytes], p: dict[str, float], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        batch(sources, p)

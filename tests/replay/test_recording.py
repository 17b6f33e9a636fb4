"""What a reply records of itself: the sum of every row of logits, the closest decision, forced tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.request import GenerationRequest, RequestError
from niels_gpt.decoding.sequence import logits_hash, row_sums
from niels_gpt.decoding.torch_decoder import TorchDecoder
from niels_gpt.kernels.gpt_packing import pack_gpt
from niels_gpt.sampling import Sampling
from niels_gpt.text.tokenizer import ByteTokenizer
from sessions import open_store
from tests.replay.recordings import integer_model, loaded, record_session, say

SAMPLINGS = {
    "greedy": Sampling(temperature=0.0),
    "default": Sampling(),
    "everything": Sampling(1.3, top_k=90, top_p=0.9, repetition_penalty=1.3),
}
LENGTH = 24


def wanted(**changes: Any) -> GenerationRequest:
    fields: dict[str, Any] = {
        "prompt_ids": tuple(b"who is niels?"), "max_new_tokens": LENGTH, "sampling": Sampling(), "seed": 7,
        "stop_ids": frozenset(), "stop_sequences": (), "banned_ids": frozenset(),
    }  # fmt: skip
    return GenerationRequest(**(fields | changes))


def run(decoder: Any, *requests: GenerationRequest) -> list[tuple[list[int], dict[str, Any]]]:
    """Ids and receipt of each, generated together."""
    live = {i: decoder.admit(request) for i, request in enumerate(requests)}
    ids: list[list[int]] = [[] for _ in requests]
    receipts: list[dict[str, Any]] = [{} for _ in requests]
    while live:
        for i, step in zip(list(live), decoder.advance(list(live.values())), strict=True):
            if step.error is not None:
                raise step.error
            ids[i] += [token_id for token_id, _ in step.tokens]
            if step.finish is not None:
                receipts[i] = decoder.release(live.pop(i))
    return list(zip(ids, receipts, strict=True))


@pytest.fixture(params=["torch", "kernels"])
def new_decoder(request: pytest.FixtureRequest) -> Callable[[], Any]:
    model = integer_model()
    if request.param == "torch":
        return lambda: TorchDecoder(model, ByteTokenizer(), prefill_chunk=5)
    return lambda: KernelDecoder(pack_gpt(model), ByteTokenizer(), prefill_chunk=5, threads=1)


@pytest.fixture
def kernels() -> KernelDecoder:
    return KernelDecoder(pack_gpt(integer_model()), ByteTokenizer(), threads=1)


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_a_fork_at_any_token_goes_on_as_the_original_did(
    new_decoder: Callable[[], Any], sampling: Sampling
) -> None:
    decoder = new_decoder()
    [(whole, _)] = run(decoder, wanted(sampling=sampling))
    for k in range(LENGTH):
        assert run(decoder, wanted(sampling=sampling, forced_ids=tuple(whole[:k])))[0][0] == whole


def test_forks_at_all_tokens_side_by_side_have_the_bits_that_each_has_alone(kernels: KernelDecoder) -> None:
    [(whole, _)] = run(kernels, wanted())
    forks = [wanted(forced_ids=tuple(whole[:k])) for k in range(LENGTH)]
    alone = [run(kernels, fork)[0][1]["logits_hash"] for fork in forks]
    random.Random(3).shuffle(forks)
    together = run(kernels, *forks)
    assert {tuple(ids) for ids, _ in together} == {tuple(whole)}
    by_fork = {
        fork.forced_ids: receipt["logits_hash"] for fork, (_, receipt) in zip(forks, together, strict=True)
    }
    assert [by_fork[tuple(whole[:k])] for k in range(LENGTH)] == alone


def test_a_fork_without_its_draws_spent_would_go_another_way(new_decoder: Callable[[], Any]) -> None:
    decoder = new_decoder()
    [(whole, _)] = run(decoder, wanted())
    as_prompt = wanted(prompt_ids=(*wanted().prompt_ids, *whole[:9]), max_new_tokens=LENGTH - 9)
    assert run(decoder, as_prompt)[0][0] != whole[9:]


def test_another_forced_token_stands_in_the_reply_and_in_its_text(new_decoder: Callable[[], Any]) -> None:
    decoder = new_decoder()
    sequence = decoder.admit(wanted(forced_ids=tuple("né".encode())))
    step = decoder.advance([sequence])[0]
    while not step.tokens:
        step = decoder.advance([sequence])[0]
    assert step.tokens[:3] == ((ord("n"), "n"), (0xC3, ""), (0xA9, "é"))


def test_a_fork_that_ends_before_its_first_draw_has_said_nothing(new_decoder: Callable[[], Any]) -> None:
    decoder = new_decoder()
    receipt = decoder.release(decoder.admit(wanted(forced_ids=(1, 2))))
    assert receipt["reply_tokens"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forced_ids": (1,) * LENGTH}, "fewer than max_new_tokens, which is 24"),
        ({"forced_ids": (5,), "banned_ids": frozenset({5})}, "no banned id"),
        ({"forced_ids": (256,)}, "the token id 256"),
        ({"forced_ids": (1, 5), "stop_ids": frozenset({5})}, "the 2 forced ids end the reply themselves"),
        ({"forced_ids": tuple(b"a\n"), "stop_sequences": (b"\n",)}, "end the reply themselves"),
        (
            {"forced_ids": (1,) * 40, "max_new_tokens": 50},
            "has 53 tokens, the context window holds 48",
        ),
    ],
)
def test_forced_ids_that_leave_nothing_to_draw_are_refused(
    kernels: KernelDecoder, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        kernels.admit(wanted(**changes))


def slow_sum(row: np.ndarray) -> int:
    """The definition, number by number."""
    total, state = 0, 0
    for word in row.view(np.uint32).tolist():
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        total += word * ((mixed ^ (mixed >> 31)) | 1)
    return total % 2**64


@pytest.mark.parametrize("V", [1, 2, 7, 64])
def test_a_rows_sum_is_what_its_definition_says(V: int) -> None:
    rows = np.random.default_rng(V).standard_normal((3, 2, V + 5)).astype(np.float32)[..., :V]
    assert row_sums(rows).tolist() == [[slow_sum(row) for row in pair] for pair in rows]


def test_every_bit_of_a_row_counts() -> None:
    row = np.random.default_rng(0).standard_normal(33).astype(np.float32)
    sums = {int(row_sums(row)), int(row_sums(-row))}
    for word in range(33):
        for bit in range(32):
            other = row.copy()
            other.view(np.uint32)[word] ^= np.uint32(1 << bit)
            sums.add(int(row_sums(other)))
    assert len(sums) == 2 + 33 * 32


def test_the_order_of_rows_counts() -> None:
    assert logits_hash([1, 2]) != logits_hash([2, 1])


def test_the_closest_decision_is_recorded_with_its_place(kernels: KernelDecoder) -> None:
    sequence = kernels.admit(wanted())
    rows: list[np.ndarray] = []
    sequence.reply.watch = lambda row: rows.append(row.copy())
    step = kernels.advance([sequence])[0]
    while step.finish is None:
        step = kernels.advance([sequence])[0]
    closest: Any = kernels.release(sequence)["smallest_margin"]
    uniforms = wanted_uniforms()
    distances = [boundary_distance(row, uniform) for row, uniform in zip(rows, uniforms, strict=True)]
    assert closest["index"] == int(np.argmin(distances))
    assert closest["value"] == pytest.approx(min(distances), rel=1e-3)


def wanted_uniforms() -> np.ndarray:
    import torch  # noqa: PLC0415

    return torch.rand(LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(7)).numpy()


def boundary_distance(row: np.ndarray, uniform: float) -> float:
    scaled = row.astype(np.float64) / 0.9
    scaled[np.argsort(-scaled, kind="stable")[50:]] = -np.inf
    weights = np.exp(scaled - scaled.max())
    bounds = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()
    return float(np.abs(bounds - uniform).min())


def test_torch_does_not_claim_to_know_its_margins() -> None:
    decoder = TorchDecoder(integer_model(), ByteTokenizer())
    assert run(decoder, wanted())[0][1]["smallest_margin"] is None


def test_past_its_window_a_conversation_reads_only_what_is_new(tmp_path: Path, checkpoint: Path) -> None:
    path, questions = tmp_path / "long.db", [f"question {n}, please" for n in range(24)]
    with closing(loaded(checkpoint)) as model:  # a cache of its own
        work = [lambda c: say(c, *questions)]
        anyio.run(lambda: record_session(path, model, "long", work, max_new_tokens=6))
    with open_store(path) as store:
        made = store.generations(store.session("long").id)
    late = [each.receipt for each in made if each.trimmed_turns and each.receipt]
    new = [each["prompt_tokens"] - each["reused_tokens"] for each in late]
    assert len(late) >= 15
    assert sorted(new)[len(new) // 2] < 80  # a question and a reply, of some 250 tokens

"""Both decoders of a BDH keep the engine's contract, and the backend picks one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.decoding.backend import BackendError, open_backend
from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.request import DecoderError, GenerationRequest
from niels_gpt.decoding.torch_recurrent_decoder import TorchStateDecoder
from niels_gpt.kernels.bdh_packing import pack_bdh
from niels_gpt.model.bdh import BDH
from niels_gpt.model.loading import load_model
from niels_gpt.sampling import Sampling
from niels_gpt.text.tokenizer import ByteTokenizer

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(params=["kernels", "torch"])
def decoder(request: pytest.FixtureRequest, byte_model: BDH) -> Any:
    if request.param == "torch":
        return TorchStateDecoder(byte_model, ByteTokenizer(), prefill_chunk=5)
    return KernelDecoder(pack_bdh(byte_model), ByteTokenizer(), prefill_chunk=5)


def request_for(text: bytes = b"who is it?", **changes: Any) -> GenerationRequest:
    fields: dict[str, Any] = {
        "prompt_ids": tuple(text), "max_new_tokens": 20, "sampling": Sampling(), "seed": 7,
        "stop_ids": frozenset(), "stop_sequences": (), "banned_ids": frozenset(),
    }  # fmt: skip
    return GenerationRequest(**(fields | changes))


def run(decoder: Any, wanted: Sequence[GenerationRequest]) -> list[tuple[list[int], str, Any, dict]]:
    live = {i: decoder.admit(request) for i, request in enumerate(wanted)}
    ids: list[list[int]] = [[] for _ in wanted]
    texts, finishes, receipts = [""] * len(wanted), {}, {}
    while live:
        for i, step in zip(list(live), decoder.advance(list(live.values())), strict=True):
            assert step.error is None
            ids[i] += [token_id for token_id, _ in step.tokens]
            texts[i] += "".join(text for _, text in step.tokens)
            if step.finish is not None:
                finishes[i] = step.finish
                receipts[i] = decoder.release(live.pop(i))
    return [(ids[i], texts[i], finishes[i], receipts[i]) for i in range(len(wanted))]


def replies() -> list[GenerationRequest]:
    chance = random.Random(5)
    return [
        request_for(
            bytes(chance.randrange(256) for _ in range(chance.randint(1, 30))),
            max_new_tokens=chance.randint(1, 17),
            sampling=GREEDY if i % 2 else Sampling(),
            seed=i,
        )
        for i in range(8)
    ]


def test_replies_together_are_what_each_is_alone(decoder: Any):
    assert [outcome[0] for outcome in run(decoder, replies())] == [
        run(decoder, [wanted])[0][0] for wanted in replies()
    ]


def test_a_reply_computed_anew_for_every_token_is_the_same(decoder: Any):
    cached, recomputed = run(decoder, [request_for(), request_for(use_cache=False)])
    assert cached[:3] == recomputed[:3]
    if isinstance(decoder, KernelDecoder):  # and to the last bit
        assert cached[3]["logits_hash"] == recomputed[3]["logits_hash"]


def test_a_prompt_like_one_before_is_read_like_it(decoder: Any):
    (first,), (second,) = (run(decoder, [request_for(b"the same beginning of it")]) for _ in range(2))
    assert first[:3] == second[:3]


def test_both_arithmetics_choose_the_same_greedy_text(byte_model: BDH):
    wanted = [request_for(sampling=GREEDY, max_new_tokens=40)]
    torch = TorchStateDecoder(byte_model, ByteTokenizer())
    kernels = KernelDecoder(pack_bdh(byte_model), ByteTokenizer())
    assert run(torch, wanted)[0][:3] == run(kernels, wanted)[0][:3]


def test_threads_do_not_change_a_reply(byte_model: BDH):
    hashes = set()
    for threads in (1, 2, 3):
        decoder = KernelDecoder(pack_bdh(byte_model), ByteTokenizer(), threads=threads)
        hashes |= {str(outcome[3]["logits_hash"]) for outcome in run(decoder, [request_for()])}
        decoder.close()
    assert len(hashes) == 1


def test_a_reply_stops_at_a_stop_id_and_at_a_sequence(decoder: Any):
    ids = run(decoder, [request_for()])[0][0]
    assert run(decoder, [request_for(stop_ids=frozenset({ids[3]}))])[0][2] == "stop"
    stop = bytes(ids[2:4])
    assert run(decoder, [request_for(stop_sequences=(stop,))])[0][2] == "stop"


def test_a_prompt_may_be_longer_than_the_texts_of_training(decoder: Any, byte_model: BDH):
    long = b"word " * (byte_model.cfg.T // 4)
    assert len(long) > byte_model.cfg.T
    assert run(decoder, [request_for(long, max_new_tokens=2)])[0][2] == "length"


def test_a_sequence_can_be_released_in_the_middle(decoder: Any):
    sequence = decoder.admit(request_for())
    decoder.advance([sequence])
    decoder.release(sequence)
    assert run(decoder, [request_for()])[0][2] == "length"


def test_another_vocabulary_is_refused(model: BDH):
    for make in (
        lambda: TorchStateDecoder(model, ByteTokenizer()),
        lambda: KernelDecoder(pack_bdh(model), ByteTokenizer()),
    ):
        with pytest.raises(DecoderError, match="256 ids, expected the model's V=61"):
            make()


def test_the_backend_decodes_a_saved_bdh_with_the_kernels(byte_model: BDH, tmp_path: Path):
    byte_model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    backend = open_backend(loaded)
    assert backend.environment["path"] == "kernels"
    assert run(backend.decoder, [request_for()])[0][2] == "length"
    with pytest.raises(BackendError, match="no int8 weights"):
        open_backend(loaded, weights="int8")
    backend.close()


def test_its_frequencies_count_in_the_fingerprint(byte_model: BDH, tmp_path: Path):
    byte_model.save_pretrained(tmp_path / "one")
    first = load_model(tmp_path / "one")
    first.model.state_dict()["attn.freqs"][..., 3] *= 1.5
    first.model.save_pretrained(tmp_path / "two")
    second = load_model(tmp_path / "two")
    assert first.fingerprint.weights != second.fingerprint.weights

"""What the GPU's decoder adds to the contract of decoders, on the shim: memory, graphs, its backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from niels_gpt.decoding import cuda_decoder, nvidia
from niels_gpt.decoding.backend import BackendError, open_backend
from niels_gpt.decoding.cuda_decoder import GRAPH_AFTER, CudaDecoder, CudaSequence
from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.pages import PAGE, PagePool
from niels_gpt.decoding.request import DecoderError, GenerationRequest, RequestError
from niels_gpt.device import DEVICES, DeviceError, device_named, gpu_number, torch_device
from niels_gpt.kernels import KERNEL_VERSION
from niels_gpt.kernels.cuda import model as cuda_model
from niels_gpt.kernels.cuda.nvrtc import CudaError
from niels_gpt.kernels.gpt_packing import PackedModel, pack_gpt
from niels_gpt.model.checkpoint import save_checkpoint
from niels_gpt.model.config import ModelConfig, TrainConfig
from niels_gpt.model.fingerprint import int8_weights_digest
from niels_gpt.model.gpt import GPT
from niels_gpt.model.loading import LoadedModel, load_model
from niels_gpt.sampling import Sampling
from niels_gpt.text.tokenizer import ByteTokenizer
from tests.kernels.cuda.shim import HostDriver, needs_compiler

pytestmark = needs_compiler
CFG = ModelConfig(V=256, T=64, C=16, L=1, H=1, d_ff=16)


@pytest.fixture
def packed(new_model: Callable[..., GPT]) -> PackedModel:
    return pack_gpt(new_model(CFG))


def page_bytes(packed: PackedModel) -> int:
    return PAGE * packed.token_bytes


def request(prompt: bytes = b"who are you?", **changes: Any) -> GenerationRequest:
    fields: dict[str, Any] = {
        "prompt_ids": tuple(prompt), "max_new_tokens": 12, "sampling": Sampling(), "seed": 3,
        "stop_ids": frozenset(), "stop_sequences": (), "banned_ids": frozenset(),
    }  # fmt: skip
    return GenerationRequest(**(fields | changes))


Result = tuple[list[int], dict[str, Any], int]
"""Ids, receipt, and the number of calls until the end."""


def finish(decoder: Any, requests: Sequence[GenerationRequest]) -> list[Result]:
    """Drive requests that are admitted together to their ends."""
    live = {i: decoder.admit(each) for i, each in enumerate(requests)}
    ids: list[list[int]] = [[] for _ in requests]
    done: dict[int, Result] = {}
    calls = 0
    while live:
        calls += 1
        for i, step in zip(list(live), decoder.advance(list(live.values())), strict=True):
            assert step.error is None
            ids[i] += [token_id for token_id, _ in step.tokens]
            if step.finish is not None:
                done[i] = ids[i], decoder.release(live.pop(i)), calls
    return [done[i] for i in range(len(requests))]


def on_cpu(packed: PackedModel, requests: Sequence[GenerationRequest]) -> list[tuple[list[int], object]]:
    with closing(KernelDecoder(packed, ByteTokenizer(), threads=1)) as decoder:
        return [(ids, receipt["logits_hash"]) for ids, receipt, _ in finish(decoder, requests)]


def test_logits_and_draws_are_those_of_the_cpu(packed: PackedModel) -> None:
    samplings = [Sampling(temperature=0), Sampling(top_p=0.9), Sampling(repetition_penalty=1.3, min_p=0.01)]
    requests = [request(b"a" * (5 + 9 * i), sampling=each, seed=i) for i, each in enumerate(samplings)]
    found = finish(CudaDecoder(packed, ByteTokenizer(), HostDriver()), requests)
    assert [(ids, receipt["logits_hash"]) for ids, receipt, _ in found] == on_cpu(packed, requests)
    margins = [receipt["smallest_margin"] for _, receipt, _ in found]
    with closing(KernelDecoder(packed, ByteTokenizer(), threads=1)) as decoder:
        assert margins == [receipt["smallest_margin"] for _, receipt, _ in finish(decoder, requests)]


def test_steps_become_a_graph_and_several_run_in_a_call(packed: PackedModel) -> None:
    driver = HostDriver()
    decoder = CudaDecoder(packed, ByteTokenizer(), driver)
    decoder._step_seconds = 0.001  # as on a GPU: several steps take less than a call may
    found = finish(decoder, [request(max_new_tokens=50), request(max_new_tokens=50, seed=4)])
    assert found[0][2] < 50
    assert driver.graphs > 0
    assert [(ids, receipt["logits_hash"]) for ids, receipt, _ in found] == on_cpu(
        packed, [request(max_new_tokens=50), request(max_new_tokens=50, seed=4)]
    )
    assert GRAPH_AFTER > 1, "a number of sequences that occurs once is not recorded"


def test_the_number_of_graphs_is_bounded(packed: PackedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_decoder, "MOST_GRAPHS", 2)
    driver = HostDriver()
    decoder = CudaDecoder(packed, ByteTokenizer(), driver)
    for count in (1, 2, 3, 1, 3):
        for _ in range(GRAPH_AFTER):
            decoder._graph(count, lambda: None)
    assert list(decoder._graphs) == [1, 3], "those used last"
    assert driver.graphs == 4, "the first one was recorded again"


def test_a_sequence_waits_for_memory_and_has_the_same_reply(packed: PackedModel) -> None:
    requests = [request(seed=i) for i in range(3)]
    limit = 3 * page_bytes(packed)  # one has two pages
    decoder = CudaDecoder(packed, ByteTokenizer(), HostDriver(), memory_bytes=limit)
    found = finish(decoder, requests)
    calls = [count for _, _, count in found]
    assert calls == sorted(calls)
    assert calls[0] < calls[1] < calls[2]
    assert [(ids, receipt["logits_hash"]) for ids, receipt, _ in found] == on_cpu(packed, requests)


def test_a_reply_that_memory_can_never_hold_is_refused(packed: PackedModel) -> None:
    decoder = CudaDecoder(packed, ByteTokenizer(), HostDriver(), memory_bytes=page_bytes(packed))
    with pytest.raises(RequestError, match="holds 16: lower max_new_tokens"):
        decoder.admit(request())
    with pytest.raises(DecoderError, match="expected"):
        CudaDecoder(packed, ByteTokenizer(), HostDriver(), memory_bytes=10)


def test_a_prompt_that_begins_like_an_earlier_one_reads_the_rest(packed: PackedModel) -> None:
    decoder = CudaDecoder(packed, ByteTokenizer(), HostDriver())
    first, second = request(b"0123456789abcdef!" * 2), request(b"0123456789abcdef!" * 2 + b"and more")
    assert finish(decoder, [first])[0][1]["reused_tokens"] == 0
    [(ids, receipt, _)] = finish(decoder, [second])
    assert receipt["reused_tokens"] == 2 * PAGE
    assert [(ids, receipt["logits_hash"])] == on_cpu(packed, [second])


def test_prompts_that_are_admitted_together_share_what_one_has_read(packed: PackedModel) -> None:
    decoder = CudaDecoder(packed, ByteTokenizer(), HostDriver(), prefill_chunk=20)
    requests = [request(b"0123456789abcdef!" * 2, seed=i) for i in range(3)]
    found = finish(decoder, requests)
    assert [receipt["reused_tokens"] for _, receipt, _ in found][-1] == 2 * PAGE
    assert [(ids, receipt["logits_hash"]) for ids, receipt, _ in found] == on_cpu(packed, requests)


@pytest.mark.parametrize("wrong_from", [3, 99])
def test_a_draft_changes_the_calls_alone(packed: PackedModel, wrong_from: int) -> None:
    [(ids, receipt, calls)] = finish(CudaDecoder(packed, ByteTokenizer(), HostDriver()), [request()])
    draft = tuple((each + 1) % 256 if n >= wrong_from else each for n, each in enumerate(ids))
    [(again, found, fewer)] = finish(
        CudaDecoder(packed, ByteTokenizer(), HostDriver()), [request(draft_ids=draft)]
    )
    assert (again, found["logits_hash"]) == (ids, receipt["logits_hash"])
    assert found["smallest_margin"] == receipt["smallest_margin"]
    assert fewer < calls or wrong_from == 3


def test_a_watched_reply_shows_its_rows(packed: PackedModel) -> None:
    seen: list[tuple[int, float]] = []
    watched = request(watch=lambda token_id, logits: seen.append((token_id, float(logits.sum()))))
    [(ids, _, _)] = finish(CudaDecoder(packed, ByteTokenizer(), HostDriver()), [watched])
    expected, seen = seen, []
    finish(KernelDecoder(packed, ByteTokenizer(), threads=1), [watched])
    assert [token_id for token_id, _ in expected] == ids
    assert expected == seen


def test_more_sequences_than_slots_and_all_memory_is_freed(packed: PackedModel) -> None:
    driver = HostDriver()
    free = driver.free_bytes()
    decoder = CudaDecoder(packed, ByteTokenizer(), driver)
    requests = [request(seed=i, max_new_tokens=3) for i in range(20)]
    assert [ids for ids, _, _ in finish(decoder, requests)] == [ids for ids, _ in on_cpu(packed, requests)]
    decoder.close()
    assert driver.free_bytes() == free


def test_pages_are_evicted_from_the_end_of_the_oldest_beginning() -> None:
    pool = PagePool(4)
    first = pool.take(range(32), 2)
    assert first is not None
    pool.publish(first, range(32))
    pool.release(first)
    assert pool.available == 4
    second = pool.take(range(100, 132), 3)
    assert second is not None, "the last page of the first one had to go"
    assert pool.take(range(16), 2) is None
    again = pool.take(range(16), 1)
    assert again is not None
    assert len(again.shared) == 1, "its first page was kept"


@pytest.fixture
def loaded(new_model: Callable[..., GPT], tmp_path: Path) -> LoadedModel:
    path, train = tmp_path / "a.pt", TrainConfig()
    save_checkpoint(
        path, model_cfg=CFG, train_cfg=train, model=new_model(CFG), optimizer=None, step=0, best_val_loss=None
    )
    return load_model(path)


def test_cuda_means_the_kernels_and_the_record_says_which_gpu(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, "NvidiaDriver", lambda index, **_: HostDriver(name=f"cuda:{index} (a GPU)"))
    for weights in ("float32", "int8"):
        with closing(open_backend(loaded, device="cuda:1", weights=weights)) as backend:
            assert isinstance(backend.decoder, CudaDecoder)
            names = ("device", "path", "kernel_version", "weights")
            expected = ["cuda:1 (a GPU)", "kernels", KERNEL_VERSION, weights]
            assert [backend.environment[name] for name in names] == expected
            digest = loaded.fingerprint.weights if weights == "float32" else int8_weights_digest(loaded.model)
            assert backend.fingerprint.weights == digest
            assert isinstance(backend.decoder.admit(request()), CudaSequence)


def test_without_a_gpu_one_line_says_what_to_do(loaded: LoadedModel) -> None:
    if nvidia.why_unavailable() is None:
        pytest.skip("there is a GPU")
    with pytest.raises(CudaError, match=r"cannot run here: .*; ") as refusal:
        open_backend(loaded, device="cuda")
    assert "\n" not in str(refusal.value)
    with pytest.raises(DeviceError, match=r"'cuda' is not available here \(.*\): use cpu"):
        device_named("cuda")


def test_a_model_that_does_not_fit_is_refused(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "NvidiaDriver", lambda index, **_: HostDriver(total_bytes=1000))
    with pytest.raises(BackendError, match="does not fit into the memory of cuda"):
        open_backend(loaded, device="cuda")


def test_names_of_devices() -> None:
    assert all(name in DEVICES for name in ("cpu", "cuda", "cuda:1", "torch:cuda", "torch:cuda:3", "mps"))
    assert not any(name in DEVICES for name in ("cuda:", "torch:cpu", "cuda:x", "tpu", ""))
    assert [gpu_number(name) for name in ("cuda", "cuda:2", "torch:cuda:1")] == [0, 2, 1]
    names = ("cpu", "cuda:1", "torch:cuda:1", "mps")
    assert [torch_device(name) for name in names] == ["cpu", "cpu", "cuda:1", "mps"]
    assert torch_device("cuda:1", kernels=False) == "cuda:1"


def test_a_model_that_the_gpu_kernels_do_not_compute_is_refused(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, "NvidiaDriver", lambda index, **_: HostDriver())
    monkeypatch.setattr(cuda_model, "WIDEST_HEAD", 8)
    with pytest.raises(BackendError, match="do not compute heads wider than 8; use --device cpu"):
        open_backend(loaded, device="cuda")

"""A tiny byte model, requests for it, and loops that drive a decoder to the end of its replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from niels_gpt.decoding.cuda_decoder import CudaDecoder
from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.request import GenerationRequest, Step
from niels_gpt.decoding.torch_decoder import TorchDecoder
from niels_gpt.kernels.gpt_packing import pack_gpt
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.sampling import Sampling
from niels_gpt.text.tokenizer import ByteTokenizer
from tests.kernels.cuda.shim import HostDriver, needs_compiler
from tests.kernels.models import dequantised

PROMPT = tuple(b"who is niels?")


@pytest.fixture
def model(new_model: Callable[..., GPT]) -> GPT:
    """Its window is 48 tokens, its embedding and its head are separate."""
    return new_model(ModelConfig(V=256, T=48, C=24, L=2, H=3, d_ff=40, tie_embeddings=False))


@pytest.fixture
def torch_decoder(model: GPT) -> TorchDecoder:
    return TorchDecoder(model, ByteTokenizer(), prefill_chunk=5)


@pytest.fixture(params=["torch", "float32", "int8", pytest.param("cuda", marks=needs_compiler)])
def arithmetic(request: pytest.FixtureRequest) -> Any:
    """Torch, the kernels with weights of this form, or the GPU's: every decoder keeps the same promises."""
    return request.param


@pytest.fixture
def twin(model: GPT, arithmetic: str) -> GPT:
    """The torch model with the weights that the decoder multiplies."""
    return dequantised(model) if arithmetic == "int8" else model


@pytest.fixture
def new_decoder(arithmetic: Any) -> Callable[[GPT], TorchDecoder | KernelDecoder]:
    """Makes a decoder for a model."""
    if arithmetic == "torch":
        return lambda model: TorchDecoder(model, ByteTokenizer(), prefill_chunk=5)
    if arithmetic == "cuda":
        return lambda model: CudaDecoder(pack_gpt(model), ByteTokenizer(), HostDriver(), prefill_chunk=5)
    return lambda model: KernelDecoder(pack_gpt(model, arithmetic), ByteTokenizer(), prefill_chunk=5)


@pytest.fixture
def decoder(model: GPT, new_decoder: Callable[[GPT], Any]) -> TorchDecoder | KernelDecoder:
    return new_decoder(model)


@pytest.fixture
def request_for() -> Callable[..., GenerationRequest]:
    return make_request


def make_request(prompt_ids: tuple[int, ...] = PROMPT, **changes: Any) -> GenerationRequest:
    fields: dict[str, Any] = {
        "prompt_ids": prompt_ids,
        "max_new_tokens": 20,
        "sampling": Sampling(),
        "seed": 7,
        "stop_ids": frozenset(),
        "stop_sequences": (),
        "banned_ids": frozenset(),
    }
    return GenerationRequest(**(fields | changes))


class Outcome:
    """What came of one request."""

    def __init__(self, steps: Sequence[Step], receipt: dict[str, object]) -> None:
        self.steps = steps
        self.receipt = receipt
        self.finish, self.error = steps[-1].finish, steps[-1].error
        self.ids = [token_id for step in steps for token_id, _ in step.tokens]
        self.text = "".join(text for step in steps for _, text in step.tokens)


@pytest.fixture
def run() -> Callable[[TorchDecoder, GenerationRequest], Outcome]:
    """Drive one request to its end."""
    return lambda decoder, wanted: run_together(decoder, [wanted])[0]


@pytest.fixture
def run_batch() -> Callable[[TorchDecoder, Sequence[GenerationRequest]], list[Outcome]]:
    """Drive requests that are all there from the start to their ends."""
    return run_together


def run_together(decoder: TorchDecoder, wanted: Sequence[GenerationRequest]) -> list[Outcome]:
    live = {i: decoder.admit(request) for i, request in enumerate(wanted)}
    steps: list[list[Step]] = [[] for _ in wanted]
    receipts: dict[int, dict[str, object]] = {}
    while live:
        for i, step in zip(list(live), decoder.advance(list(live.values())), strict=True):
            steps[i].append(step)
            if step.finish is not None or step.error is not None:
                receipts[i] = decoder.release(live.pop(i))
    return [Outcome(steps[i], receipts[i]) for i in range(len(wanted))]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave one random schedule and no recomputed reply to the GPU's kernels, which are slow on a CPU."""
    spared = [item for item in items if _is_spared(getattr(item, "callspec", None))]
    config.hook.pytest_deselected(items=spared)
    items[:] = [item for item in items if item not in spared]


def _is_spared(callspec: Any) -> bool:
    params = {} if callspec is None else callspec.params
    return params.get("arithmetic") == "cuda" and (
        params.get("schedule", 0) >= 1 or not params.get("use_cache", True)
    )

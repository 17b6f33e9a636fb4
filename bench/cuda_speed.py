"""Time the kernels on an NVIDIA GPU: decode steps, prompts and products; `python -m bench.cuda speed`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.cuda import random_weights
from bench.models import SHAPES, random_model, tokenizer_for
from niels_gpt.decoding import nvidia
from niels_gpt.decoding.cuda_decoder import CudaDecoder
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.kernels.cuda.model import Input, Part, launch_product
from niels_gpt.kernels.gpt_packing import PackedModel, pack_form, pack_gpt
from niels_gpt.kernels.processor import LANES, padded
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.form import Form, Rope
from niels_gpt.sampling import Sampling

if TYPE_CHECKING:
    from niels_gpt.kernels.cuda.driver import Driver

SHAPES_TIMED: dict[str, ModelConfig | Form] = {
    "tiny": SHAPES["tiny"],
    "3.2M": SHAPES["3.2M"],
    "27M": SHAPES["27M"],
    "135M": Form(
        V=49152, T=1024, C=576, L=30, H=9, KV=3, D=64, d_ff=1536, norm="rmsnorm", mlp="silu", gated=True,
        tied=True, rope=(Rope(1e5),),
    ),
    "500M": ModelConfig(V=32000, T=1024, C=1280, L=24, H=20, d_ff=5120),
}  # fmt: skip
CONTEXT = 128
"""The position at which steps are timed."""
PRODUCTS = (
    (1, 4096, 4096),
    (8, 4096, 4096),
    (32, 4096, 4096),
    (512, 4096, 4096),
    (4096, 4096, 4096),
    (4096, 512, 2048),
)
TURNS = 10  # of a product in a graph


class Processor(NamedTuple):
    """What a GPU's data sheet says."""

    name: str
    bytes_per_second: float
    multiprocessors: int
    clock: float
    lanes: int = 128
    """Fused multiply-adds of float32 that a multiprocessor finishes each cycle."""
    latency: int = 4
    """Cycles from a fused multiply-add to one that continues its chain."""


H100 = Processor("H100 SXM", 3.35e12, 132, 1.755e9)


class Bounds(NamedTuple):
    """Seconds that a decode step cannot fall short of, one limit at a time."""

    memory: float
    """Reading all weights once, and each stream's keys and values once."""
    arithmetic: float
    chains: float
    """The longest chains of the products and of attention, one after another."""


def step_bounds(shape: ModelConfig | Form, streams: int, gpu: Processor = H100) -> Bounds:
    """Compute the bounds of a step at position `CONTEXT`; nothing is measured."""
    (H, KV, D), gated = _heads(shape)
    inner, seen = 2 if gated else 1, CONTEXT + 1
    layer = (H + 2 * KV) * D * shape.C + H * D * shape.C + (inner + 1) * shape.d_ff * shape.C
    weights = shape.L * layer + shape.V * shape.C
    states = 2 * shape.L * KV * D * seen * streams
    fused = streams * (weights + 2 * shape.L * H * D * seen)
    chain = shape.L * (2 * shape.C + H * D + shape.d_ff + D + seen) + shape.C
    return Bounds(
        memory=4 * (weights + states) / gpu.bytes_per_second,
        arithmetic=fused / (gpu.multiprocessors * gpu.lanes * gpu.clock),
        chains=chain * gpu.latency / gpu.clock,
    )


def show_bounds(names: Sequence[str], streams: Sequence[int], gpu: Processor = H100) -> int:
    """Print what limits each decode step on a GPU by its data sheet; needs no GPU."""
    print(f"A MODEL, not a measurement: {gpu.name}, float32, position {CONTEXT}; launches cost nothing.\n")
    print(
        f"| model | streams | memory, µs | arithmetic, µs | chains, µs | at most, tokens/s |\n|{'---|' * 6}"
    )
    for name in names:
        for count in streams:
            bounds = step_bounds(SHAPES_TIMED[name], count, gpu)
            parts = " | ".join(f"{1e6 * each:,.1f}" for each in bounds)
            print(f"| {name} | {count:,} | {parts} | {count / max(bounds):,.0f} |")
    return 0


def _heads(shape: ModelConfig | Form) -> tuple[tuple[int, int, int], bool]:
    """Return (H, KV, D) and whether the MLP is gated."""
    if isinstance(shape, Form):
        return shape.heads, shape.gated
    return (shape.H, shape.H, shape.C // shape.H), shape.mlp == "swiglu"


def packed_shape(shape: ModelConfig | Form) -> PackedModel:
    """Pack a shape with random weights."""
    if isinstance(shape, Form):
        return pack_form(shape, random_weights(shape))
    return pack_gpt(random_model(shape))


def decode_seconds(packed: PackedModel, driver: Driver, streams: int) -> tuple[float, float]:
    """Return the seconds of a decode step, and of one token of a prompt while nothing else is decoded."""
    V = packed.shape.V
    decoder = CudaDecoder(packed, tokenizer_for(ModelConfig(V=V)), driver)
    ids = np.random.default_rng(4).integers(0, V, (1, 512)).tolist()[0]

    def request(prompt: list[int], tokens: int, seed: int) -> GenerationRequest:
        return GenerationRequest(
            prompt_ids=tuple(prompt), max_new_tokens=tokens, sampling=Sampling(), seed=seed,
            stop_ids=frozenset(), stop_sequences=(), banned_ids=frozenset(),
        )  # fmt: skip

    reading = []
    for turn in range(3):
        prompt = ids[turn:] + ids[:turn]  # nothing of it is known
        sequence, start = decoder.admit(request(prompt[: min(512, packed.T - 2)], 1, 0)), time.perf_counter()
        while decoder.advance([sequence])[0].finish is None:
            pass
        reading.append((time.perf_counter() - start) / min(512, packed.T - 2))
        decoder.release(sequence)
    rng = np.random.default_rng(5)  # no two prompts begin alike: nothing is shared between streams
    prompts = rng.integers(0, V, (streams, CONTEXT)).tolist()
    live = [decoder.admit(request(prompt, 96, n)) for n, prompt in enumerate(prompts)]
    times: list[float] = []
    while all(sequence.reply.reply_tokens < 60 for sequence in live):
        before = sum(sequence.reply.reply_tokens for sequence in live)
        start = time.perf_counter()
        decoder.advance(live)
        drawn = sum(sequence.reply.reply_tokens for sequence in live) - before
        if any(sequence.held is None for sequence in live):
            decoder.close()
            raise MemoryError("the keys and values of so many streams do not fit")
        if drawn >= streams:
            times.append((time.perf_counter() - start) / (drawn / streams))
    for sequence in live:
        decoder.release(sequence)
    decoder.close()
    return float(np.median(times[len(times) // 2 :])), min(reading)


def torch_seconds(shape: ModelConfig | Form, streams: int, device: str = "cuda") -> float:
    """Return the seconds of the same step in torch float32, on a GPU in a graph, without a sampler."""
    import torch  # noqa: PLC0415 - a second
    from torch.nn import functional as F  # noqa: PLC0415, N812

    torch.backends.cuda.matmul.allow_tf32 = False
    ((H, KV, D), gated), C, d_ff = _heads(shape), shape.C, shape.d_ff
    sizes = [((H + 2 * KV) * D, C), (C, H * D), (d_ff, C), (d_ff if gated else 0, C), (C, d_ff)]
    layers = [[torch.randn(size, device=device) * 0.02 for size in sizes] for _ in range(shape.L)]
    head, ones = torch.randn(shape.V, C, device=device) * 0.02, torch.ones(C, device=device)
    caches = [torch.zeros(2, streams, KV, CONTEXT + 1, D, device=device) for _ in range(shape.L)]
    first = torch.randn(streams, C, device=device)

    def step() -> Any:
        x = first
        for (qkv, proj, up, gate, down), cache in zip(layers, caches, strict=True):
            y = F.linear(F.layer_norm(x, (C,), ones), qkv).view(streams, H + 2 * KV, D)
            cache[0, :, :, CONTEXT], cache[1, :, :, CONTEXT] = y[:, H : H + KV], y[:, H + KV :]
            mixed = F.scaled_dot_product_attention(y[:, :H, None], cache[0], cache[1], enable_gqa=KV != H)
            x = x + F.linear(mixed.reshape(streams, H * D), proj)
            y = F.layer_norm(x, (C,), ones)
            inner = F.silu(F.linear(y, gate)) * F.linear(y, up) if gated else F.gelu(F.linear(y, up))
            x = x + F.linear(inner, down)
        return F.linear(F.layer_norm(x, (C,), ones), head)

    with torch.inference_mode():
        return _graph_seconds(step, device)


def _graph_seconds(step: Callable[[], Any], device: str) -> float:
    import torch  # noqa: PLC0415 - a second

    if device == "cpu":  # so that the tests can run all of this
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times = []
    for _ in range(20):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return float(np.median(times))


def product_seconds(driver: Driver, M: int, N: int, K: int, device: str = "cuda") -> tuple[float, float]:
    """Return the seconds of a product of the kernels and of cuBLAS."""
    import torch  # noqa: PLC0415 - a second

    row = padded(K) + LANES
    sizes = {"x": M * row, "w": padded(N) * K, "start": N, "y": M * padded(N)}
    places = {name: driver.allocate(4 * size) for name, size in sizes.items()}
    x, w = torch.randn(M, K, device=device), torch.randn(N, K, device=device)

    rows = Input(places["x"], row, K)
    part = Part(places["w"], places["start"], 0, places["y"], padded(N), N)

    def work() -> None:
        for _ in range(TURNS):
            launch_product(driver, "float32", rows, [part], M)

    work()  # a kernel must be loaded before a graph is recorded
    run, end = driver.graph(work), np.zeros(1, np.float32)
    times = []
    for _ in range(10):
        driver.download(places["y"], end)
        start = time.perf_counter()
        run()
        driver.download(places["y"], end)
        times.append((time.perf_counter() - start) / TURNS)
    for address in places.values():
        driver.free(address)
    with torch.inference_mode():
        theirs = (
            _graph_seconds(lambda: [torch.nn.functional.linear(x, w) for _ in range(TURNS)], device) / TURNS
        )
    return float(np.median(times)), theirs


def speed(
    names: Sequence[str],
    streams: Sequence[int],
    *,
    driver: Driver | None = None,
    device: str = "cuda",
    products: Sequence[tuple[int, int, int]] = PRODUCTS,
) -> int:
    """Print the tables of speed; `driver` and torch's `device` are those of the GPU unless given."""
    import torch  # noqa: PLC0415 - a second

    driver = driver or nvidia.NvidiaDriver()
    print(f"{driver.name}, torch {torch.__version__}, position {CONTEXT}, float32\n")
    print(f"| model | streams | tokens/s | torch in a graph, tokens/s | times torch |\n|{'---|' * 5}")
    prompts = []
    for name in names:
        packed = packed_shape(SHAPES_TIMED[name])
        for count in streams:
            try:
                ours, reading = decode_seconds(packed, driver, count)
                if device != "cpu":
                    torch.cuda.empty_cache()
                theirs = torch_seconds(SHAPES_TIMED[name], count, device)
            except (MemoryError, torch.cuda.OutOfMemoryError) as error:
                print(f"| {name} | {count:,} | {str(error).splitlines()[0][:60]} | | |")
                continue
            rates = f"{count / ours:,.0f} | {count / theirs:,.0f} | {theirs / ours:.2f}"
            print(f"| {name} | {count:,} | {rates} |", flush=True)
            prompts.append((name, 1 / reading))
    for name, rate in dict(prompts).items():
        print(f"prompt of {name}, 512 tokens at once: {rate:,.0f} tokens/s")
    print(f"\n| product M x N x K | TFLOP/s | cuBLAS | times cuBLAS |\n|{'---|' * 4}")
    for M, N, K in products:
        ours, theirs = product_seconds(driver, M, N, K, device)
        done = 2e-12 * M * N * K
        print(
            f"| {M} x {N} x {K} | {done / ours:.2f} | {done / theirs:.2f} | {theirs / ours:.2f} |", flush=True
        )
    return 0

"""Compare the kernels on an NVIDIA GPU with those on the CPU, bit for bit, and time them.

    python -m bench.cuda check [--scale 1.0]
    python -m bench.cuda speed [--models 3.2M,27M,135M,500M] [--streams 1,8,64,512,2048]
    python -m bench.cuda model [--models ...] [--streams ...]

Needs torch with CUDA, numba, numpy, tokenizers, safetensors and cuda-core,
and a plain copy of the repository.

check: every form of model and of weights. Rows of logits, read in portions by mixtures of sequences, are
compared with the CPU's number by number. Replies with every kind of sampling, in batches of 1 to 512, in
chunks, with and without the cache, with and without a draft, are compared by tokens, hash of the logits and
margin. The control is torch on the same GPU, which must differ. Status 1 if anything is not as it must be.

speed: decode tokens a second beside the same step of torch float32 in a CUDA graph; prompts; products beside
cuBLAS in float32 without TF32 (`bench/cuda_speed.py`). Nothing is judged.

model: what a decode step cannot fall short of on an H100, from its data sheet. It needs no GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.models import random_model, tokenizer_for
from niels_gpt.decoding import nvidia
from niels_gpt.decoding.cuda_decoder import CudaDecoder
from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.pacing import default_threads
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.kernels import GroupForm, WeightForm
from niels_gpt.kernels.bdh_packing import PackedBDH
from niels_gpt.kernels.cuda.model import PAGE, CudaModel, Pages, Rows
from niels_gpt.kernels.fp_env import ieee_arithmetic
from niels_gpt.kernels.gpt import forward
from niels_gpt.kernels.gpt_layout import Rows as HostRows
from niels_gpt.kernels.gpt_packing import PackedModel, pack_form, pack_gpt
from niels_gpt.kernels.packing import pack_model
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.form import Form, Rope
from niels_gpt.model.registry import build_model
from niels_gpt.model.weights import Weight, WeightKind, float32_weight, shapes_of
from niels_gpt.sampling import Sampling

if TYPE_CHECKING:
    from niels_gpt.kernels.cuda.driver import Driver

LLAMA = Form(
    V=300, T=256, C=96, L=2, H=6, KV=2, D=16, d_ff=160, norm="rmsnorm", mlp="silu", gated=True, tied=True
)
BIASED = replace(LLAMA, norm="layernorm", biases=frozenset({"norm", "qkv", "proj", "up", "down", "head"}))
FORMS: dict[str, Form] = {
    "grouped heads": LLAMA,
    "learned positions, biases": replace(
        BIASED, rope=(), positions="learned", mlp="gelu_tanh", gated=False, tied=False
    ),
    "parallel layers": replace(BIASED, parallel="two", rope=(Rope(dims=6),), mlp="gelu", gated=False),
    "windows, caps, four norms": replace(
        LLAMA, norms=("attn_in", "attn_out", "mlp_in", "mlp_out"), windows=(21, 0), kinds=(0, 1),
        rope=(Rope(), Rope(1e6, scaling=("linear", 8.0))), score_cap=2.0, head_cap=4.0, embed_scale=6.9,
        score_scale=0.3, qk_norm="head", mlp="gelu_tanh",
    ),
    "norms after the rotation": replace(
        LLAMA, norms=("attn_in", "mlp_in", "embed"), qk_norm="after", qk_scale=1.2, mlp="relu2", gated=False
    ),
    "row norms, scales": replace(
        LLAMA, norms=("attn_out", "mlp_out"), qk_norm="row", residual_scale=0.3, head_scale=0.2
    ),
    "odd heads": replace(LLAMA, H=4, KV=1, D=6, C=30, d_ff=29, tied=False),
}  # fmt: skip
OURS: dict[str, ModelConfig] = {
    "LayerNorm, GELU": ModelConfig(V=256, T=256, C=128, L=2, H=4, d_ff=256),
    "RMSNorm, SwiGLU": ModelConfig(V=300, T=256, C=96, L=3, H=3, d_ff=224, norm="rmsnorm", mlp="swiglu"),
    "odd widths": ModelConfig(V=97, T=256, C=30, L=2, H=3, d_ff=50, tie_embeddings=False),
}
SAMPLINGS = (
    Sampling(temperature=0), Sampling(temperature=1, top_k=None), Sampling(), Sampling(top_k=None, top_p=0.9),
    Sampling(min_p=0.05), Sampling(typical_p=0.8, top_k=None), Sampling(repetition_penalty=1.3),
    Sampling(frequency_penalty=0.4, presence_penalty=-0.3, top_p=0.95),
    Sampling(temperature=0, presence_penalty=1.0), Sampling(logit_bias=((3, 4.0), (70, -2.0))),
)  # fmt: skip
GROUPS = (1, 2, 5, 33, 128, 512)
"""Sequences that decode together."""


@dataclass(frozen=True)
class Case:
    """A model to check."""

    name: str
    packed: PackedModel | PackedBDH
    torch: Any = None
    """The torch module with the same weights, for the control; or None."""


def random_weights(form: Form, kind: WeightKind = "f32") -> dict[str, Weight]:
    """Make weights that matter for a form, in float32, bf16 or f16."""
    rng, out = np.random.default_rng(0), {}
    for name, shape in shapes_of(form).items():
        scale = np.float32(0.3 if len(shape) == 1 else 1.5 / shape[-1] ** 0.5)
        values = rng.standard_normal(shape, np.float32) * scale
        if name.endswith("weight") and len(shape) == 1:
            values += 1
        if kind == "f32":
            out[name] = float32_weight(values)
            continue
        words = values.astype("<f2").view("<u2") if kind == "f16" else values.view("<u4") >> 16
        out[name] = Weight(kind, shape, words.astype("<u2").reshape(-1).view(np.uint8))
    return out


def cases() -> Iterator[Case]:
    """Every form of model and weights that the GPU kernels compute."""
    forms: tuple[WeightForm, ...] = ("float32", "int8")
    for name, cfg in OURS.items():
        for weights in forms:
            model = random_model(cfg)
            yield Case(
                f"{name}, {weights}", pack_gpt(model, weights), model if weights == "float32" else None
            )
    for name, form in FORMS.items():
        yield Case(f"{name}, float32", pack_form(form, random_weights(form)))
    integers: tuple[GroupForm, ...] = ("q8", "q4")
    for weight_form in integers:
        for name in ("grouped heads", "parallel layers", "odd heads"):
            yield Case(
                f"{name}, {weight_form}", pack_form(FORMS[name], random_weights(FORMS[name]), weight_form)
            )
    cfg = ModelConfig(V=256, T=256, C=48, L=2, H=2, d_ff=256, arch="bdh")
    yield Case("BDH, float32", pack_model(build_model(cfg)))
    halves: tuple[WeightKind, ...] = ("bf16", "f16")
    for kind in halves:
        yield Case(f"grouped heads, {kind}", pack_form(LLAMA, random_weights(LLAMA, kind)))


def rows_on_cpu(packed: PackedModel, ids: np.ndarray) -> np.ndarray:
    """Return the logits (B, n, V) of sequences ids (B, n), each read on its own, on all processors."""
    B, n = ids.shape
    out = np.empty((B, n, packed.shape.head_row), np.float32)

    def read(i: int) -> None:
        state, room = packed.new_state(n)
        memory = packed.new_memory(rows=64, room=room, parts=1)
        for first in range(0, n, 64):
            part = ids[i, first : first + 64]
            count = len(part)
            rows = HostRows(
                part, np.arange(first, first + count), np.full(count, state.ctypes.data), np.full(count, room)
            )
            with ieee_arithmetic():
                forward(
                    packed.shape, packed.weights, memory.work, rows, np.arange(count),
                    out[i, first:].ctypes.data, 0, 1,
                )  # fmt: skip

    read(0)  # compiles
    with ThreadPoolExecutor() as threads:
        list(threads.map(read, range(1, B)))
    return out[:, :, : packed.shape.V]


class GpuRows:
    """Reads sequences on the GPU in mixtures of portions, and returns all rows of logits."""

    def __init__(self, packed: PackedModel, driver: Driver, ids: np.ndarray) -> None:
        self._ids, self._driver, self._packed = ids, driver, packed
        self._model = CudaModel(packed, driver)
        B, n = ids.shape
        most = -(-n // PAGE)
        table = np.random.default_rng(1).permutation(B * most).astype(np.int32).reshape(B, most)
        self._pages = Pages(
            driver.allocate(4 * B * most * self._model.page_floats), self._upload(table), most
        )

    def _upload(self, array: np.ndarray) -> int:
        address = self._driver.allocate(max(array.nbytes, 1))
        self._driver.upload(address, np.ascontiguousarray(array))
        return address

    def read(self, portions: Sequence[int]) -> np.ndarray:
        """Read portions of all sequences in turn; each step has the next portion of every sequence."""
        B, n = self._ids.shape
        out = np.empty((B, n, self._packed.shape.V), np.float32)
        row, first, turn = self._packed.shape.head_row, 0, 0
        while first < n:
            count = min(portions[turn % len(portions)], n - first)
            turn += 1
            lines = [
                self._ids[:, first : first + count], np.tile(np.arange(first, first + count), (B, 1)),
                np.repeat(np.arange(B), count), np.arange(B * count),
            ]  # fmt: skip
            places = [self._upload(line.astype(np.int32).reshape(-1)) for line in lines]
            asked, positions, slots, wanted = places
            logits = self._driver.allocate(4 * B * count * row)
            self._model.reserve(B * count)
            rows = Rows(asked, positions, slots, B * count, count)
            self._model.forward(rows, self._pages, wanted, B * count, logits)
            got = np.empty((B, count, row), np.float32)
            self._driver.download(logits, got)
            out[:, first : first + count] = got[:, :, : self._packed.shape.V]
            for address in (*places, logits):
                self._driver.free(address)
            first += count
        return out

    def close(self) -> None:
        """Free the memory."""
        self._model.close()
        for address in (self._pages.memory, self._pages.table):
            self._driver.free(address)


def different_rows(a: np.ndarray, b: np.ndarray) -> int:
    """Return how many rows differ in a bit."""
    return int((a.view(np.uint32) != b.view(np.uint32)).any(axis=-1).sum())


def check_rows(case: Case, driver: Driver, scale: float) -> tuple[int, int, int]:
    """Compare rows of logits; return (compared, different, of the control's rows different or -1)."""
    if isinstance(case.packed, PackedBDH):  # its replies are compared, whose hashes hold rows of logits too
        return 0, 0, -1
    B, n = max(2, int(24 * scale)), max(20, int(160 * scale))
    ids = np.random.default_rng(2).integers(0, case.packed.shape.V, (B, n))
    expected = rows_on_cpu(case.packed, ids)
    compared = different = 0
    for portions in ([n], [1, 7, 2, 40], [33]):
        reader = GpuRows(case.packed, driver, ids)
        different += different_rows(reader.read(portions), expected)
        compared += B * n
        reader.close()
    control = -1 if case.torch is None else different_rows(torch_logits(case.torch, ids), expected)
    return compared, different, control


def torch_logits(model: Any, ids: np.ndarray) -> np.ndarray:
    """Return the logits (B, n, V) of a torch model, on the GPU where there is one."""
    import torch  # noqa: PLC0415 - a second

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.inference_mode():
        return model.to(device)(torch.as_tensor(ids, device=device)).float().cpu().numpy()


Reply = tuple[tuple[int, ...], object, object]
"""Token ids, hash of the logits, smallest margin."""


def replies(decoder: Any, requests: Sequence[GenerationRequest], together: int) -> list[Reply]:
    """Drive requests, at most `together` at a time."""
    waiting, live = list(enumerate(requests))[::-1], {}
    ids: list[list[int]] = [[] for _ in requests]
    out: dict[int, Reply] = {}
    while waiting or live:
        while waiting and len(live) < together:
            i, request = waiting.pop()
            live[i] = decoder.admit(request)
        for i, step in zip(list(live), decoder.advance(list(live.values())), strict=True):
            ids[i] += [token_id for token_id, _ in step.tokens]
            if step.error is not None:
                raise step.error
            if step.finish is not None:
                receipt = decoder.release(live.pop(i))
                out[i] = tuple(ids[i]), receipt["logits_hash"], receipt["smallest_margin"]
    return [out[i] for i in range(len(requests))]


def check_replies(case: Case, driver: Driver, scale: float) -> tuple[int, int]:
    """Compare sampled replies in every circumstance; return (tokens compared, replies that differ)."""
    V, rng = case.packed.shape.V, np.random.default_rng(3)
    count, tokens = max(len(SAMPLINGS), int(max(GROUPS) * scale)), max(3, int(12 * scale))
    longest = max(4, int(60 * scale))
    common = rng.integers(0, V, longest).tolist()
    requests = []
    for i in range(count):
        own = rng.integers(0, V, int(rng.integers(1, longest))).tolist()
        requests.append(
            GenerationRequest(
                prompt_ids=(*(common if i % 3 else ()), *own), max_new_tokens=tokens, seed=i,
                sampling=SAMPLINGS[i % len(SAMPLINGS)], stop_ids=frozenset(), stop_sequences=(),
                banned_ids=frozenset({1, 2}),
            )
        )  # fmt: skip
    words = tokenizer_for(ModelConfig(V=V))
    cpu = KernelDecoder(case.packed, words, threads=default_threads())
    expected = replies(cpu, requests, 32)
    cpu.close()
    compared = different = 0
    drafted = [replace(each, draft_ids=ids) for each, (ids, _, _) in zip(requests, expected, strict=True)]
    recomputed = [replace(each, use_cache=False) for each in requests[: len(SAMPLINGS)]]
    runs = [
        (requests[: max(4 * len(SAMPLINGS), 2 * group)], group, 7 if group == 5 else None)
        for group in GROUPS
        if group <= count
    ]
    for asked, group, chunk in [*runs, (drafted[:64], 8, None), (recomputed, 3, None)]:
        gpu = CudaDecoder(case.packed, words, driver, prefill_chunk=chunk, memory_bytes=MEMORY_BYTES)
        found = replies(gpu, asked, group)
        gpu.close()
        different += sum(a != b for a, b in zip(found, expected, strict=False))
        compared += sum(len(ids) for ids, _, _ in found)
    return compared, different


MEMORY_BYTES = 64 * 2**20
"""Of keys and values while replies are compared."""


def check(
    open_driver: Callable[[str], Driver],
    *,
    scale: float = 1.0,
    found: Iterable[Case] | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Check all cases; return the status. `open_driver` opens the GPU for a kind of weights."""
    began, rows, tokens, bad, controls = time.monotonic(), 0, 0, 0, [0, 0]
    say(f"| model | rows of logits | differ | sampled tokens | replies that differ | s |\n|{'---|' * 6}")
    for case in found or cases():
        start, driver = time.monotonic(), open_driver(case.packed.kind)
        compared, different, control = check_rows(case, driver, scale)
        drawn, wrong = check_replies(case, driver, scale)
        rows, tokens, bad = rows + compared, tokens + drawn, bad + different + wrong
        if control >= 0:
            controls = [controls[0] + 1, controls[1] + (control > 0)]
        took = time.monotonic() - start
        say(f"| {case.name} | {compared:,} | {different} | {drawn:,} | {wrong} | {took:.0f} |")
    say(f"\n{rows:,} rows and {tokens:,} sampled tokens in {time.monotonic() - began:.0f} s: {bad} differ")
    say(f"control: torch differs from the CPU for {controls[1]} of {controls[0]} models")
    return int(bad > 0 or controls[1] < controls[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands; return the status."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="compare with the CPU, bit for bit")
    checking.add_argument("--scale", type=float, default=1.0, help="how much is compared (default: 1)")
    for name, text in (
        ("speed", "time decode steps and prompts"),
        ("model", "compute bounds of decode steps"),
    ):
        timing = commands.add_parser(name, help=text)
        timing.add_argument("--models", default="3.2M,27M,135M,500M", help="default: %(default)s")
        timing.add_argument("--streams", default="1,8,64,512,2048", help="default: %(default)s")
    flags = parser.parse_args(argv)
    if flags.command == "model":
        from bench.cuda_speed import show_bounds  # noqa: PLC0415 - only where it is asked for

        return show_bounds(flags.models.split(","), _numbers(flags.streams))
    fault = nvidia.why_unavailable()
    if fault is not None:
        print(f"bench.cuda: the GPU kernels cannot run here: {fault}", file=sys.stderr)
        return 2
    if flags.command == "check":
        return check(lambda kind: nvidia.NvidiaDriver(weights=kind), scale=flags.scale)
    from bench.cuda_speed import speed  # noqa: PLC0415 - as above

    return speed(flags.models.split(","), _numbers(flags.streams))


def _numbers(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())

"""Time models of other projects next to llama.cpp on the same GGUF file; `bench.decode` knows their names.

"smollm2" is the file that `niels-chat models get smollm2` fetches. The others have the shapes of published
models and random weights in Q4_0, their embeddings in Q8_0. Every candidate is a process of its own and they
take turns. Each turn gives wall time and processor time; on a busy machine compare the latter. A floor is the
time of reading the packed weights once at the measured speed of reading that much.

B streams, V vocabulary, C width, L layers, H and KV heads, D head width, F MLP width, T context window.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import measure

PROMPTS = (128, 512, 2048)
T = 2304
AVX2 = "+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt"
LIMITS = {"avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2}}
"""Environments that limit the kernels to an instruction set."""


class FileShape(NamedTuple):
    """The sizes of a model with random weights."""

    arch: str
    V: int
    C: int
    L: int
    H: int
    KV: int
    F: int
    theta: float


FILES: dict[str, FileShape | None] = {
    "smollm2": None,
    "360M": FileShape("llama", 49152, 960, 32, 15, 5, 2560, 1e5),
    "500M": FileShape("qwen2", 151936, 896, 24, 14, 2, 4864, 1e6),
    "tiny file": FileShape("llama", 64, 64, 2, 2, 1, 96, 1e4),
}


def write_file(shape: FileShape, path: Path) -> None:
    """Write a GGUF file with random weights."""
    import gguf  # noqa: PLC0415  # pyright: ignore[reportMissingImports]  # an extra

    chance, types = np.random.default_rng(0), gguf.GGMLQuantizationType
    D = shape.C // shape.H
    writer = gguf.GGUFWriter(path, shape.arch)
    writer.add_vocab_size(shape.V)
    writer.add_tokenizer_model("none")
    writer.add_context_length(T)
    writer.add_embedding_length(shape.C)
    writer.add_block_count(shape.L)
    writer.add_feed_forward_length(shape.F)
    writer.add_head_count(shape.H)
    writer.add_head_count_kv(shape.KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(D)
    writer.add_rope_freq_base(shape.theta)

    def blocks(name: str, rows: int, columns: int, kind: Any, size: int) -> None:
        raw = chance.integers(0, 256, (rows, columns // 32, size), np.uint8)
        if size == 34:
            raw[raw == 128] = 127
        raw[..., :2] = np.array([1.0 / 64 / columns**0.5 * (8 if size == 18 else 0.5)], "<f2").view(np.uint8)
        writer.add_tensor(name, raw.reshape(rows, -1), raw_dtype=kind)

    def ones(name: str, count: int, value: float = 1.0) -> None:
        writer.add_tensor(name, np.full(count, value, np.float32))

    blocks("token_embd.weight", shape.V, shape.C, types.Q8_0, 34)
    ones("output_norm.weight", shape.C)
    for i in range(shape.L):
        layer = f"blk.{i}."
        sizes = {
            "attn_q": (shape.H * D, shape.C), "attn_k": (shape.KV * D, shape.C),
            "attn_v": (shape.KV * D, shape.C), "attn_output": (shape.C, shape.H * D),
            "ffn_up": (shape.F, shape.C), "ffn_gate": (shape.F, shape.C), "ffn_down": (shape.C, shape.F),
        }  # fmt: skip
        for name, (rows, columns) in sizes.items():
            blocks(f"{layer}{name}.weight", rows, columns, types.Q4_0, 18)
        if shape.arch == "qwen2":
            for name in ("attn_q", "attn_k", "attn_v"):
                ones(f"{layer}{name}.bias", sizes[name][0], 0.01)
        for name in ("attn_norm", "ffn_norm"):
            ones(f"{layer}{name}.weight", shape.C)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Decode `count` streams after prompts of 64, or read a prompt of `count` tokens."""

    kind: str
    count: int


Times = tuple[float, float]
"""Seconds by the clock and of processors."""


def _timed(work: Callable[[], object]) -> Times:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


class KernelFile:
    """The kernels behind their decoder."""

    def __init__(self, path: Path, threads: int) -> None:
        from niels_gpt.kernels.gpt_packing import pack_form  # noqa: PLC0415
        from niels_gpt.model.families import FAMILIES  # noqa: PLC0415
        from niels_gpt.model.families.gguf import gguf_config, gguf_layout  # noqa: PLC0415
        from niels_gpt.model.families.mapping import map_weights  # noqa: PLC0415
        from niels_gpt.model.families.opening import GGUF_ARCHITECTURES  # noqa: PLC0415
        from niels_gpt.model.gguf_file import read_gguf  # noqa: PLC0415

        file = read_gguf(path)
        arch = str(file.metadata["general.architecture"])
        family = FAMILIES[GGUF_ARCHITECTURES[arch]]
        form, weights = map_weights(
            family.form(gguf_config(file, arch, family)), gguf_layout(family), file.tensors, where=str(path)
        )
        self.packed, self._threads = pack_form(form, weights), threads
        self.facts = {"V": form.V, "bytes": self.packed.nbytes, "token bytes": self.packed.token_bytes}

    def decode(self, prompts: np.ndarray, tokens: int) -> Times:
        """Draw `tokens` greedy tokens for each of (B, t) prompts; the first ones are not timed."""
        from bench.kernel_candidate import advance, release  # noqa: PLC0415

        decoder = self._decoder(prompts.size)
        live = [decoder.admit(_request(prompt.tolist(), tokens + 1)) for prompt in prompts]
        advance(decoder, live)

        def rest() -> None:
            while not advance(decoder, live):
                pass

        took = _timed(rest)
        release(decoder, live)
        decoder.close()
        return took

    def prompt(self, ids: np.ndarray) -> Times:
        """Read a prompt (t,) and draw a token."""
        from bench.kernel_candidate import advance, release  # noqa: PLC0415

        decoder = self._decoder(None)
        live = [decoder.admit(_request(ids.tolist(), 2))]

        def read() -> None:
            while not live[0].reply.reply_tokens:
                advance(decoder, live)

        took = _timed(read)
        release(decoder, live)
        decoder.close()
        return took

    def _decoder(self, chunk: int | None) -> Any:
        from bench.models import letters  # noqa: PLC0415
        from niels_gpt.decoding.kernel_decoder import KernelDecoder  # noqa: PLC0415

        tokenizer = letters(self.packed.shape.V)
        return KernelDecoder(
            self.packed, tokenizer, prefill_chunk=chunk, threads=self._threads, prefix_cache_bytes=0
        )


def _request(ids: list[int], new_tokens: int) -> Any:
    from niels_gpt.decoding.request import GenerationRequest  # noqa: PLC0415
    from niels_gpt.sampling import Sampling  # noqa: PLC0415

    return GenerationRequest(
        prompt_ids=tuple(ids), max_new_tokens=new_tokens, sampling=Sampling(temperature=0.0), seed=0,
        stop_ids=frozenset(), stop_sequences=(), banned_ids=frozenset(),
    )  # fmt: skip


class LlamaFile:
    """llama.cpp, with its own choice of everything but the threads."""

    def __init__(self, path: Path, threads: int) -> None:
        from bench.peers.llama_cpp import LlamaCandidate  # noqa: PLC0415

        self._candidate = LlamaCandidate.of_file(path, T=T, threads=threads)
        self.facts: dict[str, int] = {}

    def decode(self, prompts: np.ndarray, tokens: int) -> Times:
        """Draw greedy tokens; see `KernelFile.decode`."""
        return self._candidate.decode_timed(prompts.tolist(), tokens + 1)

    def prompt(self, ids: np.ndarray) -> Times:
        """Read a prompt and draw a token."""
        self._candidate.prepare(1)
        return _timed(lambda: self._candidate.first_token(ids.tolist()))


class FileWorker:
    """A candidate in a process of its own."""

    def __init__(self, kind: str, path: Path, threads: int) -> None:
        self.kind, self.threads = kind, threads
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        limits = LIMITS.get(kind.partition(" ")[2], {})
        before = dict(os.environ)
        os.environ.update(limits)
        self._process = context.Process(target=_serve, args=(theirs, kind, path, threads), daemon=True)
        self._process.start()
        os.environ.clear()
        os.environ.update(before)
        theirs.close()

    def facts(self) -> dict[str, int]:
        """Wait until the candidate has opened the file; return what it says about it."""
        return self._pipe.recv()

    def ask(self, turn: Turn) -> Times:
        """Take a turn; return seconds a token (or of the prompt)."""
        self._pipe.send(turn)
        return self._pipe.recv()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _serve(pipe: Any, kind: str, path: Path, threads: int) -> None:
    candidate = (LlamaFile if kind == "llama.cpp" else KernelFile)(path, threads)
    pipe.send(candidate.facts)
    chance = np.random.default_rng(1)
    while True:
        try:
            turn: Turn = pipe.recv()
        except EOFError:
            return
        if turn.kind == "prompt":
            pipe.send(candidate.prompt(chance.integers(0, 64, turn.count)))
        else:
            tokens = max(4, 32 // turn.count)
            wall, cpu = candidate.decode(chance.integers(0, 64, (turn.count, 64)), tokens)
            pipe.send((wall / (tokens * turn.count), cpu / (tokens * turn.count)))


def measure_file(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Let the candidates take turns on one file, print a table, and return what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        shape, path = FILES[name], Path(folder) / "model.gguf"
        if shape is None:
            from niels_gpt.model.catalogue import resolve  # noqa: PLC0415

            path = resolve(Path(name))
        else:
            write_file(shape, path)
        has_peer = options.peers == "auto" and importlib.util.find_spec("llama_cpp") is not None
        kinds = ["kernels", *(f"kernels {limit}" for limit in options.limits), *["llama.cpp"] * has_peer]
        workers = [FileWorker(kind, path, threads) for kind in kinds for threads in options.threads]
        facts, *_ = [worker.facts() for worker in workers]
        turns = [Turn(kind="decode", count=n) for n in options.streams]
        turns += [Turn(kind="prompt", count=n) for n in options.prompts]
        rows, measured = [], []
        for turn in turns:
            for worker in workers:
                worker.ask(turn)
            taken = [[worker.ask(turn) for worker in workers] for _ in range(options.repetitions)]
            for i, worker in enumerate(workers):
                wall, cpu = (statistics.median(each[i][n] for each in taken) for n in range(2))
                measured.append(
                    {**asdict(turn), "by": worker.kind, "threads": worker.threads, "wall": wall, "cpu": cpu}
                )
        for turn in turns:
            for each in [m for m in measured if (m["kind"], m["count"]) == (turn.kind, turn.count)]:
                peer = [
                    m for m in measured
                    if (m["kind"], m["count"], m["threads"], m["by"])
                    == (turn.kind, turn.count, each["threads"], "llama.cpp")
                ]  # fmt: skip
                tokens = turn.count if turn.kind == "prompt" else 1
                what = "prompt of" if turn.kind == "prompt" else "decode, streams:"
                floor = ""
                if turn.kind == "decode" and each["by"] != "llama.cpp":
                    size = facts["bytes"] + turn.count * 96 * facts["token bytes"]
                    reading = size / measure.read_bandwidth(size, each["threads"])
                    floor = f"{reading / (each['wall'] * turn.count):.0%}"
                rows.append([
                    f"{what} {turn.count}", each["by"], each["threads"], f"{tokens / each['wall']:,.0f}",
                    *(f"{peer[0][of] / each[of]:.2f}" if peer else "" for of in ("wall", "cpu")), floor,
                ])  # fmt: skip
        for worker in workers:
            worker.close()
    header = ["", "candidate", "threads", "tokens/s", "of llama.cpp's", "by processor time", "reading floor"]
    print(f"\n## {name}\n\n{measure.table(header, rows)}\n", flush=True)
    return {"model": name, "measured": measured}


def split(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide names of models into those of files and the others."""
    return [name for name in names if name in FILES], [name for name in names if name not in FILES]

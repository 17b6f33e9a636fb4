"""llama.cpp with the same weights, as a GPT-NeoX in a GGUF file: a peer of the decode benchmark.

In float32 with a float32 cache and without its flash attention, which goes through half-precision numbers
(logits of the larger model were off by 1.4e-3) and was slower, too; or with weights of eight bits (q8_0) and
all else as the library chooses, which was fastest there. All streams' tokens go in one batch a step, and the
likeliest id is taken from the logits that come back. Needs `llama-cpp-python` (tried with 0.3.36) and `gguf`,
which nothing else here does.

B streams, V vocabulary, C width, H heads, D head width.
"""

from __future__ import annotations

import ctypes
import importlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.candidates import Prompts
from niels_gpt.kernels import WeightForm
from niels_gpt.model.blocks import NORM_EPS
from niels_gpt.model.gpt import GPT
from niels_gpt.model.hf.weights import half_split

FLOAT32_CACHE = 0  # GGML_TYPE_F32
NO_FLASH_ATTENTION = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED
READ_AT_ONCE = 512


class Batch:
    """Tokens for one call of the library: every stream's tokens of one step, or of a whole prompt."""

    def __init__(self, library: Any, *, streams: int, tokens: int) -> None:
        size = streams * tokens
        self.raw = library.llama_batch_init(size, 0, 1)
        self.raw.n_tokens = size
        self.ids = np.ctypeslib.as_array(self.raw.token, (size,)).reshape(streams, tokens)
        self.positions = np.ctypeslib.as_array(self.raw.pos, (size,)).reshape(streams, tokens)
        np.ctypeslib.as_array(self.raw.n_seq_id, (size,))[:] = 1
        for i in range(size):
            self.raw.seq_id[i][0] = i // tokens
        wanted = np.ctypeslib.as_array(self.raw.logits, (size,)).reshape(streams, tokens)
        wanted[:] = 0
        wanted[:, -1] = 1


class LlamaCandidate:
    """A model in a file and a context in the library; see `bench.candidates.Candidate`."""

    def __init__(self, path: Path, *, V: int, T: int, threads: int, float32: bool, mapped: bool) -> None:
        llama_cpp: Any = importlib.import_module("llama_cpp")  # an extra, and named like this file
        self._library, self._V, self._T, self._threads, self._float32 = llama_cpp, V, T, threads, float32
        self._log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.use_mmap = mapped
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise RuntimeError(f"llama.cpp did not load {str(path)!r}")
        self._V = V or llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._context, self._streams = None, 0

    @classmethod
    def of_model(cls, model: GPT, *, threads: int, form: WeightForm) -> LlamaCandidate:
        """Write a model as a GPT-NeoX and open that file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            write_gguf(model, path, form=form)
            return cls(  # not mapped: the file is deleted afterwards
                path, V=model.cfg.V, T=model.cfg.T, threads=threads, float32=form == "float32", mapped=False
            )  # fmt: skip

    @classmethod
    def of_file(cls, path: Path, *, T: int, threads: int) -> LlamaCandidate:
        """Open any file, with room for T positions a stream; all else as the library chooses."""
        return cls(path, V=0, T=T, threads=threads, float32=False, mapped=False)

    def logits(self, prompts: Prompts) -> np.ndarray:
        """(B, V) after a prompt and one step."""
        ids = np.array(prompts)
        self._start(ids[:, :-1])
        return self._step(self._new_batch(ids[:, -1:], ids.shape[1] - 1)).copy()

    def first_token(self, prompt: Sequence[int]) -> float:
        """The prompt in portions of the library's usual size."""
        self._new_context(1)
        began = time.perf_counter()
        self._start(np.array([prompt])).argmax(axis=1)
        return time.perf_counter() - began

    def decode(self, prompts: Prompts, new_tokens: int) -> float:
        """One call a step for all streams."""
        return self.decode_timed(prompts, new_tokens)[0]

    def prepare(self, streams: int) -> None:
        """Make the context for a number of streams, which a timed call would otherwise do."""
        self._new_context(streams)

    def decode_timed(self, prompts: Prompts, new_tokens: int) -> tuple[float, float]:
        """Decode; return the time by the clock and that of processors."""
        ids = np.array(prompts)
        drawn = self._start(ids).argmax(axis=1)
        batch = self._new_batch(drawn[:, None], ids.shape[1])
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(new_tokens - 1):
            batch.ids[:, 0] = drawn
            drawn = self._step(batch).argmax(axis=1)
            batch.positions += 1
        took = time.perf_counter() - began, time.process_time() - cpu
        self._library.llama_batch_free(batch.raw)
        return took

    def _start(self, ids: np.ndarray) -> np.ndarray:
        """Forget everything and read prompts (B, t); the logits (B, V) after them."""
        self._new_context(len(ids))
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)  # noqa: FBT003
        batch = self._new_batch(ids, 0)
        logits = self._step(batch)
        self._library.llama_batch_free(batch.raw)
        return logits

    def _new_batch(self, ids: np.ndarray, position: int) -> Batch:
        batch = Batch(self._library, streams=len(ids), tokens=ids.shape[1])
        batch.ids[:] = ids
        batch.positions[:] = position + np.arange(ids.shape[1])
        return batch

    def _step(self, batch: Batch) -> np.ndarray:
        """The logits (B, V) of the batch's last tokens, in the library's own memory."""
        result = self._library.llama_decode(self._context, batch.raw)
        if result != 0:
            raise RuntimeError(f"llama_decode answered {result!r}, expected 0")
        return np.ctypeslib.as_array(self._library.llama_get_logits(self._context), (len(batch.ids), self._V))

    def _new_context(self, streams: int) -> None:
        if streams == self._streams:
            return
        library = self._library
        if self._context is not None:
            library.llama_free(self._context)
        parameters = library.llama_context_default_params()
        parameters.n_ctx = self._T * streams
        parameters.n_seq_max = streams
        parameters.n_batch = max(READ_AT_ONCE, self._T * streams)
        parameters.n_ubatch = READ_AT_ONCE
        parameters.n_threads = parameters.n_threads_batch = self._threads
        if self._float32:
            parameters.type_k = parameters.type_v = FLOAT32_CACHE
            parameters.flash_attn_type = NO_FLASH_ATTENTION
        self._context, self._streams = library.llama_init_from_model(self._model, parameters), streams


def make(model: GPT, *, threads: int, form: WeightForm) -> LlamaCandidate:
    """The candidate of this module."""
    return LlamaCandidate.of_model(model, threads=threads, form=form)


def write_gguf(model: GPT, path: Path, *, form: WeightForm) -> None:
    """Write the model as a GPT-NeoX; matrices in float32 or q8_0, all else in float32."""
    import gguf  # noqa: PLC0415  # pyright: ignore[reportMissingImports]  # an extra

    cfg, writer = model.cfg, gguf.GGUFWriter(path, "gptneox")
    writer.add_vocab_size(cfg.V)
    writer.add_tokenizer_model("none")
    writer.add_context_length(cfg.T)
    writer.add_embedding_length(cfg.C)
    writer.add_block_count(cfg.L)
    writer.add_feed_forward_length(cfg.d_ff)
    writer.add_head_count(cfg.H)
    writer.add_parallel_residual(use=False)
    writer.add_layer_norm_eps(NORM_EPS)
    writer.add_rope_dimension_count(cfg.D)
    writer.add_rope_freq_base(cfg.rope_theta)
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    for name, array in tensors(model):
        if form == "int8" and array.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(array, q8_0), raw_dtype=q8_0)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(model: GPT) -> Iterator[tuple[str, np.ndarray]]:
    """The parameters by GGUF's names for a GPT-NeoX, whose attention has biases: zeros."""
    cfg, state = model.cfg, model.state_dict()
    yield "token_embd.weight", state["tok_emb.weight"].numpy()
    yield "output.weight", state["lm_head.weight"].numpy()
    for part in ("weight", "bias"):
        yield f"output_norm.{part}", state[f"ln_f.{part}"].numpy()
    for i in range(cfg.L):
        block, layer = f"blocks.{i}.", f"blk.{i}."
        qkv = half_split(state[f"{block}attn.qkv.weight"], cfg).reshape(3 * cfg.C, cfg.C)
        yield f"{layer}attn_qkv.weight", qkv.numpy()
        yield f"{layer}attn_qkv.bias", np.zeros(3 * cfg.C, np.float32)
        yield f"{layer}attn_output.weight", state[f"{block}attn.proj.weight"].numpy()
        yield f"{layer}attn_output.bias", np.zeros(cfg.C, np.float32)
        for part in ("weight", "bias"):
            yield f"{layer}attn_norm.{part}", state[f"{block}ln1.{part}"].numpy()
            yield f"{layer}ffn_norm.{part}", state[f"{block}ln2.{part}"].numpy()
            yield f"{layer}ffn_up.{part}", state[f"{block}mlp.fc1.{part}"].numpy()
            yield f"{layer}ffn_down.{part}", state[f"{block}mlp.fc2.{part}"].numpy()

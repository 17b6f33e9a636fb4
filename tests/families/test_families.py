"""Tiny random models that transformers made, opened from their folders and as GGUF: the same logits."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.kernels.gpt_packing import pack_form
from niels_gpt.model.checkpoint import CheckpointError
from niels_gpt.model.hf.text import byte_pieces
from niels_gpt.model.loading import LoadedModel, load_model
from niels_gpt.model.weights import dequantise
from niels_gpt.sampling import Sampling
from niels_gpt.text.bpe import BYTE_OF_LETTER

with warnings.catch_warnings():  # of its own dependencies, at import
    warnings.simplefilter("ignore")
    gguf = pytest.importorskip("gguf")

LLAMA: dict[str, Any] = {
    "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 96, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
GPT2 = {"vocab_size": 256, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "bos_token_id": 0,
        "eos_token_id": 0}  # fmt: skip
SHARED = LLAMA | {"num_key_value_heads": 2}
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
               "original_max_position_embeddings": 64}  # fmt: skip
GRANITE = {"embedding_multiplier": 2.0, "residual_multiplier": 0.7, "attention_multiplier": 0.2,
           "logits_scaling": 3.0}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2),
    "pythia": ("GPTNeoX", LLAMA),
    "neox-in-turn": ("GPTNeoX", LLAMA | {"use_parallel_residual": False, "attention_bias": False}),
    "llama": ("Llama", LLAMA),
    "smollm2": ("Llama", SHARED | {"tie_word_embeddings": True, "head_dim": 32}),
    "llama3.2": ("Llama", SHARED | {"rope_scaling": LLAMA3_ROPE}),
    "llama-linear": ("Llama", LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "llama-yarn": ("Llama", LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0,
                                                      "original_max_position_embeddings": 64}}),
    "llama-biases": ("Llama", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", SHARED | {"sliding_window": 16}),
    "qwen2": ("Qwen2", SHARED),
    "qwen2-window": ("Qwen2", SHARED | {"use_sliding_window": True, "sliding_window": 16,
                                        "max_window_layers": 1}),
    "qwen3": ("Qwen3", SHARED | {"head_dim": 32}),
    "gemma": ("Gemma", LLAMA | {"num_key_value_heads": 1, "head_dim": 32}),
    "gemma2": ("Gemma2", SHARED | {"head_dim": 32, "sliding_window": 16}),
    "gemma3": ("Gemma3", LLAMA | {"num_key_value_heads": 1, "head_dim": 32, "sliding_window": 16,
                                  "num_hidden_layers": 7, "query_pre_attn_scalar": 32}),
    "phi-1.5": ("Phi", LLAMA),
    "phi3": ("Phi3", SHARED),
    "olmo": ("Olmo", LLAMA),
    "olmo2": ("Olmo2", SHARED),
    "stablelm": ("StableLm", LLAMA | {"num_key_value_heads": 4}),
    "smollm3": ("SmolLM3", SHARED | {"num_hidden_layers": 5}),
    "nanochat": ("NanoChat", LLAMA),
    "granite": ("Granite", LLAMA | GRANITE),
}  # fmt: skip
NEW_TOKENS = 200
Made = tuple[Path, Any]
IDS = torch.randint(0, 256, (2, 48), generator=torch.Generator().manual_seed(3))


def random_model(transformers: Any, kind: str, config: dict[str, Any]) -> Any:
    text = "Text" if kind == "Gemma3" else ""
    made = getattr(transformers, f"{kind}{text}Config")(**config)
    made._attn_implementation = "eager"
    head = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, kind + head)(made)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data += 0.08 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, transformers: Any) -> Callable[[str], Made]:
    """Return a maker of folders with tokenizers of bytes; each is made once."""
    root, found = tmp_path_factory.mktemp("families"), {}

    def make(name: str) -> Made:
        if name not in found:
            model = random_model(transformers, *CASES[name])
            model.save_pretrained(root / name)
            (root / name / "tokenizer.json").write_text(byte_pieces(), encoding="utf-8")
            found[name] = (root / name, model)
        return found[name]

    return make


def assert_same(loaded: LoadedModel, expected: torch.Tensor, relative: float = 1e-5) -> None:
    with torch.inference_mode():
        logits = loaded.model(IDS)
    error = (logits - expected).abs().max() / expected.abs().max()
    assert error < relative
    top = expected.topk(2).values
    clear = top[..., 0] - top[..., 1] > 2 * relative * expected.abs().max()
    assert torch.equal(logits.argmax(-1)[clear], expected.argmax(-1)[clear])


@pytest.mark.parametrize("name", CASES)
def test_a_folder_gives_the_logits_of_transformers(made: Callable[[str], Made], name: str) -> None:
    folder, theirs = made(name)
    with torch.inference_mode():
        assert_same(load_model(folder), theirs(IDS).logits)


def replies_of(decoder: KernelDecoder, prompts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Greedy replies side by side, each of NEW_TOKENS tokens."""
    sequences = [decoder.admit(greedy_request(prompt)) for prompt in prompts]
    live = sequences
    while live:
        steps = decoder.advance(live)
        live = [sequence for sequence, step in zip(live, steps, strict=True) if step.finish is None]
    found = [tuple(each.reply.ids[len(prompt) :]) for each, prompt in zip(sequences, prompts, strict=True)]
    for sequence in sequences:
        decoder.release(sequence)
    return found


def greedy_request(prompt: Sequence[int]) -> GenerationRequest:
    return GenerationRequest(
        prompt_ids=tuple(prompt), max_new_tokens=NEW_TOKENS, sampling=Sampling(temperature=0.0), seed=0,
        stop_ids=frozenset(), stop_sequences=(), banned_ids=frozenset(),
    )  # fmt: skip


def is_greedy(model: Any, prompt: list[int], reply: Sequence[int]) -> bool:
    """Whether each token is the likeliest one behind those before it: then the whole is the greedy reply."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + list(reply)])).logits[0, len(prompt) - 1 : -1]
    return logits.argmax(-1).tolist() == list(reply)


@pytest.mark.parametrize("name", CASES)
def test_greedy_replies_are_those_of_transformers(made: Callable[[str], Made], name: str) -> None:
    folder, theirs = made(name)
    loaded = load_model(folder)
    packed = pack_form(loaded.form, loaded.weights, "float32")
    prompts = [IDS[0, :9].tolist(), IDS[1, :30].tolist()]
    with closing(KernelDecoder(packed, loaded.tokenizer, threads=1)) as decoder:
        replies = replies_of(decoder, prompts)
    for prompt, reply in zip(prompts, replies, strict=True):
        assert len(reply) == NEW_TOKENS
        assert is_greedy(theirs, prompt, reply)
        assert not is_greedy(theirs, prompt, (*reply[:-1], (reply[-1] + 1) % 256))
    with closing(KernelDecoder(packed, loaded.tokenizer, threads=1, prefill_chunk=7)) as decoder:
        assert [replies_of(decoder, [prompt])[0] for prompt in prompts] == replies


@pytest.mark.parametrize(("dtype", "shard"), [(torch.bfloat16, None), (torch.float16, "60KB")])
def test_half_precision_and_shards_are_widened_exactly(
    transformers: Any, tmp_path: Path, dtype: torch.dtype, shard: str | None
) -> None:
    model = random_model(transformers, *CASES["smollm2"]).to(dtype)
    model.save_pretrained(tmp_path, **({"max_shard_size": shard} if shard else {}))
    (tmp_path / "tokenizer.json").write_text(byte_pieces(), encoding="utf-8")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.inference_mode():
        assert_same(load_model(tmp_path), theirs(IDS).logits)


def test_a_head_that_differs_from_a_tied_embedding_is_kept(
    made: Callable[[str], Made], tmp_path: Path
) -> None:
    folder, _ = made("llama")
    shutil.copytree(folder, tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    loaded, plain = load_model(tmp_path / "folder"), load_model(folder)
    assert not loaded.form.tied
    assert np.array_equal(dequantise(loaded.weights["head.weight"]), dequantise(plain.weights["head.weight"]))


# GGUF, written as llama.cpp's converter does


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


BLOCK = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.qkv_proj": "attn_qkv", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "ln_1": "attn_norm", "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
}  # fmt: skip
GEMMA_BLOCK = BLOCK | {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
TOP = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm", "embed_out": "output",
}  # fmt: skip


def gguf_tensors(model: Any, arch: str) -> dict[str, np.ndarray]:
    c, found = model.config, {}
    heads, shared = c.num_attention_heads, getattr(c, "num_key_value_heads", None) or c.num_attention_heads
    for name, tensor in model.state_dict().items():
        value, (owner, _, end) = tensor.numpy(), name.rpartition(".")
        if name.startswith("lm_head") and c.tie_word_embeddings:
            continue
        layer = next((part for part in owner.split(".") if part.isdigit()), None)
        if layer is None:
            target = TOP[owner]
        else:
            part = owner.split(f".{layer}.", 1)[1]
            target = f"blk.{layer}.{(GEMMA_BLOCK if arch == 'gemma3' else BLOCK)[part]}"
            if arch == "llama" and part.endswith(("q_proj", "k_proj")):
                value = permuted(value, heads if part.endswith("q_proj") else shared)
            if arch == "gpt2" and value.ndim == 2:
                value = value.T
            if part == "attention.query_key_value":
                split = value.reshape(heads, 3, -1, *value.shape[1:])
                value = np.concatenate([split[:, i].reshape(-1, *value.shape[1:]) for i in range(3)])
        if arch == "gemma3" and "norm" in owner.rpartition(".")[2]:
            value = value + 1
        found[f"{target}.{end}"] = np.ascontiguousarray(value)
    return found


def write_gguf(path: Path, model: Any, arch: str, form: str = "F32", template: str | None = None) -> Path:
    c, writer = model.config, gguf.GGUFWriter(path, arch)
    heads = c.num_attention_heads
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // heads
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(getattr(c, "intermediate_size", None) or 4 * c.hidden_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(c, "num_key_value_heads", None) or heads)
    writer.add_key_length(head_dim)
    rope = getattr(c, "rope_parameters", None) or {}
    if arch == "gemma3":
        writer.add_sliding_window(c.sliding_window)
        rope = rope["full_attention"]
    if rope:
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    if arch == "gptneox":
        writer.add_parallel_residual(c.use_parallel_residual)
    writer.add_layer_norm_rms_eps(getattr(c, "rms_norm_eps", 1e-5))
    writer.add_layer_norm_eps(getattr(c, "layer_norm_eps", None) or getattr(c, "layer_norm_epsilon", 1e-5))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    letters = sorted(BYTE_OF_LETTER, key=BYTE_OF_LETTER.__getitem__)
    writer.add_token_list(letters)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    if template is not None:
        writer.add_chat_template(template)
    kind = gguf.GGMLQuantizationType[form]
    for name, value in gguf_tensors(model, arch).items():
        if value.ndim == 2 and form not in {"F32", "F16"}:
            writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value.astype(np.float16) if form == "F16" and value.ndim == 2 else value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("smollm2", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3"), ("gemma3", "gemma3"), ("gpt2", "gpt2"),
        ("pythia", "gptneox"), ("phi3", "phi3"),
    ],
)  # fmt: skip
def test_a_gguf_file_gives_the_logits_of_transformers(
    made: Callable[[str], Made], tmp_path: Path, name: str, arch: str
) -> None:
    _, theirs = made(name)
    with torch.inference_mode():
        assert_same(load_model(write_gguf(tmp_path / "model.gguf", theirs, arch)), theirs(IDS).logits)


@pytest.mark.parametrize("form", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_a_quantised_file_gives_the_weights_that_gguf_reads_from_it(
    made: Callable[[str], Made], tmp_path: Path, form: str
) -> None:
    _, theirs = made("smollm2")
    loaded = load_model(write_gguf(tmp_path / "model.gguf", theirs, "llama", form))
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for ours, name in (("tok_emb.weight", "token_embd.weight"), ("blocks.1.k.weight", "blk.1.attn_k.weight")):
        weight = loaded.weights[ours]
        expected = gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type)
        assert np.array_equal(dequantise(weight), expected)
        assert weight.kind == form.lower()
        assert not weight.data.flags.writeable  # still the mapped file


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantization_config \(gptq\) is not supported"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'"),
        (
            {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1.0}},
            "'longrope', which is not supported",
        ),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\], expected an object"),
        ({"rope_parameters": {"rope_theta": []}}, r"rope_theta is \[\], expected a finite number"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', expected an object"),
        ({"eos_token_id": {}}, "eos_token_id is {}, expected a whole number or a list"),
        ({"eos_token_id": 999}, "eos_token_id is 999, expected 0 to 255"),
        ({"num_key_value_heads": 3}, "KV is 3, expected a divisor of H=4"),
        ({"num_hidden_layers": 3}, "has no weight 'model.layers.2"),
        ({"num_hidden_layers": 1}, "weights that its config does not explain"),
        ({"vocab_size": 10**12}, "V is 1000000000000, expected a whole number"),
        ({"max_position_embeddings": 10**9}, "T is 1000000000, expected at most"),
        ({"num_hidden_layers": 10**9}, "L is 1000000000, expected at most"),
        ({"hidden_size": "64"}, "hidden_size is '64', expected a whole number"),
        ({"intermediate_size": 128}, r"has the shape \(96, 64\), its config asks for \(128, 64\)"),
    ],
)
def test_what_a_config_asks_for_and_cannot_have_is_one_line(
    made: Callable[[str], Made], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    folder, _ = made("llama")
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(folder / name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    with pytest.raises(CheckpointError, match=said) as raised:
        load_model(tmp_path)
    assert "\n" not in str(raised.value)

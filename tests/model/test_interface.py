"""The names, parameters, kinds and defaults that existing users call, written out and compared."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from niels_gpt import (
    chat_format,
    checkpoint,
    config,
    device,
    generate,
    lr_schedule,
    paths,
    rng,
    tokenizer,
)
from niels_gpt import eval as evaluation
from niels_gpt.infer import kv_cache
from niels_gpt.model import blocks, gpt, rope

# One line a function: what stands before "*" may be positional; "=" gives the default.
SIGNATURES = {
    tokenizer.encode: "text",
    tokenizer.decode: "ids",
    chat_format.format_chat: "messages",
    chat_format.extract_assistant_reply: "generated_text",
    device.get_device: "",
    config.default_p_train: "",
    config.load_config_from_json: "path",
    rng.set_seed: "seed",
    rng.make_generator: "seed, device=None",
    paths.ensure_dirs: "",
    lr_schedule.lr_at_step: "step, total_steps, *, base_lr, warmup_steps, min_lr",
    evaluation.eval_loss_on_stream: "model, *, stream, B, T, device, eval_steps, seed",
    rope.rope_cache: "T, D, *, theta=10000.0, device=None, dtype=None",
    rope.apply_rope: "q, k, sin, cos",
    blocks.CausalSelfAttention: "cfg",
    blocks.MLP: "cfg",
    blocks.Block: "cfg",
    blocks.CausalSelfAttention.forward: "self, x, *, return_attn=False",
    blocks.Block.forward: "self, x, *, return_attn=False",
    gpt.GPT: "cfg",
    gpt.GPT.forward: "self, x",
    gpt.GPT.forward_with_attn_trace: "self, x, *, trace_layer, return_full_attn=False",
    kv_cache.allocate_kv_cache: "*, L, B, H, T_max, D, device, dtype",
    kv_cache.prefill: "model, prompt_ids, cache, *, trace_layer=None, return_attn_row=False",
    kv_cache.decode_step: "model, last_token_ids, cache, *, trace_layer=None, return_attn_row=False",
    generate.top_k_filter: "logits, k",
    generate.sample_next_token: "logits_1d, *, temperature, top_k, generator",
    generate.generate_ids: "model, prompt_ids, *, max_new_tokens, T, temperature=0.9, top_k=50, "
    "stop_sequences=None, device, generator=None",
    generate.generate_text: "model, prompt_text, *, cfg, max_new_tokens, temperature=0.9, top_k=50, "
    "stop_sequences=None, device, generator=None",
    generate.generate_ids_cached: "model, prompt_ids, *, max_new_tokens, eot_token_id, temperature=0.9, "
    "top_k=50, top_p=None, repetition_penalty=None, banned_token_ids=None, generator=None, trace_layer=None",
    generate.generate_ids_greedy_cached: "model, prompt_ids, *, max_new_tokens, eot_token_id",
    generate.generate_ids_greedy_full: "model, prompt_ids, *, max_new_tokens, eot_token_id",
    checkpoint.load_checkpoint: "path, *, device",
    checkpoint.save_checkpoint: "path, *, model_cfg, train_cfg, model, optimizer, step, best_val_loss, "
    "tokenizer=None, run=None",
    checkpoint.validate_model_config_match: "loaded, current",
}
MODEL_DEFAULTS = {
    "V": 256,
    "T": 256,
    "C": 256,
    "L": 4,
    "H": 4,
    "d_ff": 1024,
    "dropout": 0.1,
    "rope_theta": 10000.0,
}
TRAIN_DEFAULTS = {
    "seed": 42,
    "B": 32,
    "total_steps": 20000,
    "eval_every": 200,
    "eval_steps": 100,
    "log_every": 50,
    "ckpt_every": 1000,
    "base_lr": 3e-4,
    "warmup_steps": 200,
    "min_lr": 3e-5,
    "grad_clip": 1.0,
    "p_train": None,
    "total_steps_smoke": 1000,
}


def bare_signature(function: object) -> str:
    """Parameters without their types."""
    signature = inspect.signature(function)  # pyright: ignore[reportArgumentType]
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(parameters))[1:-1]


@pytest.mark.parametrize(
    ("function", "expected"), SIGNATURES.items(), ids=lambda x: getattr(x, "__qualname__", "")
)
def test_a_function_takes_what_its_users_pass(function, expected):
    assert bare_signature(function) == expected


def test_model_defaults_are_those_of_older_files_and_further_fields_follow():
    fields = dataclasses.fields(config.ModelConfig)
    assert {field.name: field.default for field in fields[:8]} == MODEL_DEFAULTS
    assert all(field.default is not dataclasses.MISSING for field in fields)


def test_training_defaults_are_the_documented_ones_in_order():
    fields = dataclasses.fields(config.TrainConfig)
    assert {field.name: field.default for field in fields} == TRAIN_DEFAULTS
    assert [field.name for field in fields] == list(TRAIN_DEFAULTS)


def test_a_cache_has_keys_values_and_a_length():
    assert [field.name for field in dataclasses.fields(kv_cache.KVCache)] == ["k", "v", "t"]


def test_the_paths_have_their_names():
    names = ("REPO_ROOT", "CHECKPOINT_DIR", "CONFIG_DIR", "PRIMER_PATH", "ROAM_DIR")
    found = [getattr(paths, name).relative_to(paths.REPO_ROOT).as_posix() for name in names]
    assert found == [".", "checkpoints", "configs", "data/primer.txt", "data/.roam-data"]

"""Hugging Face transformers with the same weights, as a GPT-NeoX: a peer of the decode benchmark.

GPT-NeoX is the same architecture with other conventions: it turns the pairs (i, i + D / 2) of a head instead
of (2 i, 2 i + 1), so the rows of queries and keys are put into that order, and it lays out the rows of
queries, keys and values head by head. Needs `transformers`, which nothing else here does.

B streams, V vocabulary, C width, H heads, D head width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.candidates import Prompts
from niels_gpt.config import ModelConfig
from niels_gpt.kernels import WeightForm
from niels_gpt.model.blocks import NORM_EPS
from niels_gpt.model.gpt import GPT


class Stopwatch:
    """A stopping criterion that never stops: it notes when the first token was there."""

    def __init__(self) -> None:
        self.first: float | None = None

    def __call__(self, ids: Tensor, _scores: object, **_more: object) -> Tensor:
        """Called by `generate` after every token."""
        if self.first is None:
            self.first = time.perf_counter()
        return torch.zeros(len(ids), dtype=torch.bool)


class TransformersCandidate:
    """`generate`, greedy, with its own cache; see `bench.candidates.Candidate`."""

    def __init__(self, model: GPT, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model = as_gpt_neox(model)

    @torch.inference_mode()
    def logits(self, prompts: Prompts) -> np.ndarray:
        """(B, V) after a prompt and one step with its cache."""
        ids = torch.tensor(prompts)
        cache = self._model(ids[:, :-1], use_cache=True).past_key_values
        return self._model(ids[:, -1:], past_key_values=cache).logits[:, -1].numpy()

    def first_token(self, prompt: Sequence[int]) -> float:
        """A call that gives one token."""
        began = time.perf_counter()
        self._generate([prompt], 1)
        return time.perf_counter() - began

    def decode(self, prompts: Prompts, new_tokens: int) -> float:
        """What one call takes after its first token."""
        watch = Stopwatch()
        self._generate(prompts, new_tokens, stopping_criteria=[watch])
        return time.perf_counter() - (watch.first or 0.0)

    def _generate(self, prompts: Prompts, new_tokens: int, **more: Any) -> None:
        ids = torch.tensor(prompts)
        self._model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens, **more
        )


def make(model: GPT, *, threads: int, form: WeightForm) -> TransformersCandidate:  # noqa: ARG001 - float32 only
    """The candidate of this module."""
    return TransformersCandidate(model, threads=threads)


def as_gpt_neox(model: GPT) -> Any:
    """The same function of token ids, as a `GPTNeoXForCausalLM`."""
    # An extra, and seconds to import.
    from transformers import (  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        logging,
    )

    logging.set_verbosity_error()
    cfg = model.cfg
    config = GPTNeoXConfig(
        vocab_size=cfg.V, hidden_size=cfg.C, num_hidden_layers=cfg.L, num_attention_heads=cfg.H,
        intermediate_size=cfg.d_ff, hidden_act="gelu", max_position_embeddings=cfg.T,
        layer_norm_eps=NORM_EPS, use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": cfg.rope_theta, "partial_rotary_factor": 1.0},
        bos_token_id=None, eos_token_id=None, attn_implementation="sdpa",
    )  # fmt: skip
    peer = GPTNeoXForCausalLM(config).eval()
    # Not strict: the name of the head, tied to the embedding, differs by version. Logits get compared anyway.
    peer.load_state_dict(dict(weights(model)), strict=False)
    peer.tie_weights()
    return peer


def weights(model: GPT) -> Iterator[tuple[str, Tensor]]:
    """The parameters by GPT-NeoX's names."""
    ours = model.state_dict()
    yield "gpt_neox.embed_in.weight", ours["tok_emb.weight"]
    for part in ("weight", "bias"):
        yield f"gpt_neox.final_layer_norm.{part}", ours[f"ln_f.{part}"]
    for i in range(model.cfg.L):
        block, layer = f"blocks.{i}.", f"gpt_neox.layers.{i}."
        qkv = half_split(ours[f"{block}attn.qkv.weight"], model.cfg)
        yield f"{layer}attention.query_key_value.weight", qkv.transpose(0, 1).reshape(-1, model.cfg.C)
        yield f"{layer}attention.dense.weight", ours[f"{block}attn.proj.weight"]
        for part in ("weight", "bias"):
            yield f"{layer}input_layernorm.{part}", ours[f"{block}ln1.{part}"]
            yield f"{layer}post_attention_layernorm.{part}", ours[f"{block}ln2.{part}"]
            yield f"{layer}mlp.dense_h_to_4h.{part}", ours[f"{block}mlp.fc1.{part}"]
            yield f"{layer}mlp.dense_4h_to_h.{part}", ours[f"{block}mlp.fc2.{part}"]


def half_split(qkv: Tensor, cfg: ModelConfig) -> Tensor:
    """(3, H, D, C) of the rows (3 C, C): those of queries and keys with all first ones of a pair in front."""
    rows = qkv.view(3, cfg.H, cfg.D // 2, 2, cfg.C)
    turned = rows.transpose(2, 3).reshape(3, cfg.H, cfg.D, cfg.C)
    return torch.cat((turned[:2], qkv.view(3, cfg.H, cfg.D, cfg.C)[2:]))

"""Generate with the original project's functions: token by token, with and without a kv-cache.

`generate_ids` and `generate_text` run any module that maps ids (1, t) to logits (1, t, V) and stop at byte
sequences. The `generate_ids_*cached` and greedy functions run a GPT and stop at a token. All sample with
`torch.multinomial`. The chat does not use them: its decoder batches sequences and samples portably.

T context window, V vocabulary, n tokens of the prompt, m new tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT
from niels_gpt.model.kv_cache import allocate_kv_cache, decode_step, prefill
from niels_gpt.model.mode import eval_mode
from niels_gpt.sampling import (
    Sampling,
    ban,
    checked_logits,
    likeliest,
    penalize_repetition,
    top_k_filter,
    top_p_filter,
)
from niels_gpt.text import tokenizer

__all__ = [
    "generate_ids",
    "generate_ids_cached",
    "generate_ids_greedy_cached",
    "generate_ids_greedy_full",
    "generate_text",
    "sample_next_token",
    "top_k_filter",
]


def sample_next_token(
    logits_1d: torch.Tensor,
    *,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator | None,
) -> int:
    """Choose an id from logits (V,) on any device.

    Temperature 0 takes the likeliest, the lowest id among equals; else softmax(logits / temperature) over the
    `top_k` likeliest is sampled, where the generator lives. Raises ValueError for settings out of range and
    for logits with NaN or infinity.
    """
    return _sample(logits_1d, Sampling(temperature, top_k), generator)


def _sample(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    row = checked_logits(logits)
    if sampling.is_greedy:
        return likeliest(row)
    if generator is not None:
        row = row.to(generator.device)
    scaled = row / sampling.temperature
    if not scaled.max().isfinite():
        raise ValueError(f"temperature is {sampling.temperature!r}, too small to divide by; use 0 for greedy")
    if sampling.top_k is not None:
        scaled = top_k_filter(scaled, sampling.top_k)
    probs = scaled.softmax(dim=-1)
    if sampling.top_p is not None:
        probs = top_p_filter(probs, sampling.top_p)
    return int(torch.multinomial(probs, 1, generator=generator))


@torch.no_grad()
def generate_ids(
    model: torch.nn.Module,
    prompt_ids: torch.LongTensor,
    *,
    max_new_tokens: int,
    T: int,
    temperature: float = 0.9,
    top_k: int | None = 50,
    stop_sequences: list[bytes] | None = None,
    device: str,
    generator: torch.Generator | None = None,
) -> torch.LongTensor:
    """Extend prompt_ids (n,) by up to `max_new_tokens`, each chosen from the last T ids before it.

    Returns (n + m,) int64 on the CPU. A stop sequence that appears in the new part, however the tokens split
    it, ends generation and is cut off with all that follows; it speaks of bytes, so ids must be below 256.
    The model is in evaluation mode meanwhile. Raises ValueError for an empty prompt or settings out of range.
    """
    if prompt_ids.dim() != 1 or len(prompt_ids) == 0:
        raise ValueError(
            f"prompt_ids has shape {tuple(prompt_ids.shape)}, expected (n,) with at least one id"
        )
    _check_count(max_new_tokens)
    if T < 1:
        raise ValueError(f"T is {T!r}, expected a context window of at least 1")
    stops = stop_sequences or []
    if not all(stops):
        raise ValueError(f"stop_sequences is {stops!r}, expected no empty sequence")
    sampling = Sampling(temperature, top_k)
    ids: list[int] = prompt_ids.tolist()
    begin = len(ids)
    with eval_mode(model):
        for _ in range(max_new_tokens):
            context = torch.tensor(ids[-T:], dtype=torch.long, device=device)
            ids.append(_sample(model(context[None])[0, -1], sampling, generator))
            stop = _find_stop(ids, begin, stops)
            if stop is not None:
                del ids[stop:]
                break
    return torch.LongTensor(ids)


def _find_stop(ids: list[int], begin: int, stops: Sequence[bytes]) -> int | None:
    """Return the start of the earliest stop sequence that the newest id completes, at or after `begin`."""
    if not stops:
        return None
    if ids[-1] > 255:
        raise ValueError(
            f"id {ids[-1]} is not a byte: stop sequences need a model over bytes; stop at a token instead"
        )
    first = max(begin, len(ids) - max(len(stop) for stop in stops))
    tail = bytes(ids[first:])
    return min((first + tail.find(stop) for stop in stops if stop in tail), default=None)


def generate_text(
    model: torch.nn.Module,
    prompt_text: str,
    *,
    cfg: ModelConfig,
    max_new_tokens: int,
    temperature: float = 0.9,
    top_k: int | None = 50,
    stop_sequences: list[bytes] | None = None,
    device: str,
    generator: torch.Generator | None = None,
) -> str:
    """Continue a text with a byte model and return prompt and continuation; see `generate_ids`."""
    ids = generate_ids(
        model,
        tokenizer.encode(prompt_text),
        max_new_tokens=max_new_tokens,
        T=cfg.T,
        temperature=temperature,
        top_k=top_k,
        stop_sequences=stop_sequences,
        device=device,
        generator=generator,
    )
    return tokenizer.decode(ids)


@torch.no_grad()
def generate_ids_cached(
    model: GPT,
    prompt_ids: list[int],
    *,
    max_new_tokens: int,
    eot_token_id: int | None,
    temperature: float = 0.9,
    top_k: int | None = 50,
    top_p: float | None = None,
    repetition_penalty: float | None = None,
    banned_token_ids: Iterable[int] | None = None,
    generator: torch.Generator | None = None,
    trace_layer: int | None = None,
) -> dict[str, Any]:
    """Extend a prompt with a kv-cache until `eot_token_id` was generated or `max_new_tokens` were.

    The first token comes from the prefill's last logits. The penalty counts the prompt and the reply.

    Returns:
        {"ids": prompt and reply, the end token included, "steps": [{"token_id"} per new token]}. With
        `trace_layer` each step has "attn_row" too, a list of H lists of t numbers: the attention, in that
        layer, of the position that the token was sampled at.

    Raises:
        ValueError: The prompt is empty or has ids outside the vocabulary, a setting is out of range, or
            prompt and new tokens together exceed T.

    """
    _check_fits(model, prompt_ids, max_new_tokens)
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty=repetition_penalty)
    banned = list(banned_token_ids or ())
    ids, steps = list(prompt_ids), []
    if max_new_tokens == 0:
        return {"ids": ids, "steps": steps}
    cfg, weight = model.cfg, model.tok_emb.weight
    cache = allocate_kv_cache(
        L=cfg.L,
        B=1,
        H=cfg.H,
        T_max=len(ids) + max_new_tokens,
        D=cfg.D,
        device=weight.device,
        dtype=weight.dtype,
    )
    tracing: dict[str, Any] = {"trace_layer": trace_layer, "return_attn_row": trace_layer is not None}
    prompt = torch.tensor([ids], dtype=torch.long, device=weight.device)
    logits, cache, trace = prefill(model, prompt, cache, **tracing)
    while True:
        row = checked_logits(logits[0, -1])
        if repetition_penalty is not None:
            row = penalize_repetition(row, ids, repetition_penalty)
        token_id = _sample(ban(row, banned), sampling, generator)
        ids.append(token_id)
        steps.append({"token_id": token_id} | _attention(trace))
        if token_id == eot_token_id or len(steps) == max_new_tokens:
            return {"ids": ids, "steps": steps}
        last = torch.tensor([[token_id]], dtype=torch.long, device=weight.device)
        logits, cache, trace = decode_step(model, last, cache, **tracing)


def _attention(trace: dict[str, Any] | None) -> dict[str, Any]:
    return {} if trace is None else {"attn_row": trace["attn_row"][0].tolist()}


def generate_ids_greedy_cached(
    model: GPT, prompt_ids: list[int], *, max_new_tokens: int, eot_token_id: int | None
) -> list[int]:
    """Return prompt and greedy reply, the end token included, using a kv-cache; see `generate_ids_cached`."""
    return generate_ids_cached(
        model,
        prompt_ids,
        max_new_tokens=max_new_tokens,
        eot_token_id=eot_token_id,
        temperature=0.0,
        top_k=None,
    )["ids"]


@torch.no_grad()
def generate_ids_greedy_full(
    model: GPT, prompt_ids: list[int], *, max_new_tokens: int, eot_token_id: int | None
) -> list[int]:
    """Return prompt and greedy reply by a whole forward per token: the reference of the cached function."""
    _check_fits(model, prompt_ids, max_new_tokens)
    ids = list(prompt_ids)
    with eval_mode(model):
        for _ in range(max_new_tokens):
            context = torch.tensor([ids], dtype=torch.long, device=model.tok_emb.weight.device)
            ids.append(likeliest(checked_logits(model(context)[0, -1])))
            if ids[-1] == eot_token_id:
                break
    return ids


def _check_fits(model: GPT, prompt_ids: Sequence[int], max_new_tokens: int) -> None:
    _check_count(max_new_tokens)
    V, T = model.cfg.V, model.cfg.T
    if not prompt_ids:
        raise ValueError("the prompt is empty, expected at least one id")
    if not all(0 <= i < V for i in prompt_ids):
        raise ValueError(
            f"the prompt has ids from {min(prompt_ids)} to {max(prompt_ids)}, expected 0 to {V - 1}"
        )
    if len(prompt_ids) + max_new_tokens > T:
        asked = f"a prompt of {len(prompt_ids)} and {max_new_tokens} new tokens"
        raise ValueError(f"{asked} do not fit into T={T}; shorten the prompt or ask for fewer tokens")


def _check_count(max_new_tokens: int) -> None:
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens!r}, expected 0 or more")

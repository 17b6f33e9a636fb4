"""Recompute the logits that each token of a finished reply was drawn from, and a token's attention.

The logits come from the decoder's own arithmetic. With the kernels they are the bits that the reply was drawn
from, read in batches as a prompt is, so that a reply of hundreds of tokens takes milliseconds. Attention rows
come from the torch model, whose numbers are within about 1e-6 of the kernels'; they are for display.

n tokens of a reply, t of prompt and reply, V vocabulary, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from niels_gpt.decoding.backend import Backend
from niels_gpt.decoding.request import RequestError, first_outside, shown
from niels_gpt.model.gpt import GPT

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import AnyDecoder

CHUNK = 64  # tokens read at once


def logits_rows(
    source: Backend | AnyDecoder, prompt_ids: Sequence[int], reply_ids: Sequence[int]
) -> np.ndarray:
    """Return (n, V) float32: row i holds the logits that token i of the reply was drawn from.

    With the kernels they have the same bits. A torch decoder reads everything in one forward, so its rows may
    differ from those of the reply in the last bits.

    Raises:
        RequestError: A prompt or a reply without tokens, an id outside of the vocabulary, or more tokens than
            the context window holds.

    """
    decoder = source.decoder if isinstance(source, Backend) else source
    model = decoder.model
    if isinstance(model, torch.nn.Module):
        V, context = model.cfg.V, model.cfg.context
        _check(prompt_ids, reply_ids, V, context)
        with torch.inference_mode():
            device = next(model.parameters()).device
            read = torch.tensor([[*prompt_ids, *reply_ids[:-1]]], device=device)
            return model(read)[0, len(prompt_ids) - 1 :].float().cpu().numpy()
    from niels_gpt.kernels.gpt_layout import Rows  # noqa: PLC0415 - LLVM, which torch's users may lack
    from niels_gpt.kernels.object_code import Arguments, Entry, calls_of  # noqa: PLC0415

    shape = model.shape
    _check(prompt_ids, reply_ids, shape.V, model.T)
    ids = np.array([*prompt_ids, *reply_ids[:-1]], np.int64)
    state, room = model.new_state(len(ids))
    memory = model.new_memory(rows=CHUNK, room=room, parts=1)
    read, arguments, calls = Entry(f"read {model.arch}"), Arguments(), calls_of(model.arch)
    logits = np.empty((len(reply_ids), shape.head_row), np.float32)
    first_row = len(prompt_ids) - 1
    for start in range(0, len(ids), CHUNK):
        part = ids[start : start + CHUNK]
        rows = Rows(
            ids=part,
            positions=np.arange(start, start + len(part)),
            states=np.full(len(part), state.ctypes.data),
            rooms=np.full(len(part), room),
        )
        wanted = np.arange(max(first_row - start, 0), len(part))
        at = logits[max(start - first_row, 0) :]
        words = arguments.address(calls, shape, model.weights, memory.work, rows, wanted)
        read(words, at.ctypes.data if len(wanted) else 0, 0, 1)
    return logits[:, : shape.V]


def attention_row(model: GPT, ids: Sequence[int], layer: int) -> np.ndarray:
    """Return (H, t) float32: the attention weights of the last of `ids` in a layer (from 0); rows sum to 1.

    Raises `ValueError` for a layer that does not exist, `RequestError` for ids that do not fit.
    """
    _check(ids[:1], ids, model.cfg.V, model.cfg.context)
    device = next(model.parameters()).device
    with torch.inference_mode():
        _, trace = model.forward_with_attn_trace(torch.tensor([list(ids)], device=device), trace_layer=layer)
    return cast("torch.Tensor", trace["attn_row"])[0].float().cpu().numpy()


def _check(prompt_ids: Sequence[int], reply_ids: Sequence[int], V: int, context: int) -> None:
    if not prompt_ids or not reply_ids:
        raise RequestError(f"got {len(prompt_ids)} and {len(reply_ids)} tokens, expected at least one each")
    ids = (*prompt_ids, *reply_ids)
    outside = first_outside(ids, V)
    if outside is not None:
        raise RequestError(
            f"the token id {shown(ids[outside])} is outside of the vocabulary, expected 0 to {V - 1}"
        )
    if len(prompt_ids) + len(reply_ids) > context:
        raise RequestError(
            f"{len(prompt_ids)} and {len(reply_ids)} tokens do not fit into the context window of {context}"
        )

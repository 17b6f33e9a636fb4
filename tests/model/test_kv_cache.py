"""Cached decoding against the full forward, at equal and at ragged positions."""

from __future__ import annotations

import pytest
import torch

from niels_gpt.model.gpt import GPT
from niels_gpt.model.kv_cache import KVCache, allocate_kv_cache, decode_step, forward_cached, prefill


def empty_cache(model: GPT, B: int = 1, T_max: int | None = None) -> KVCache:
    cfg = model.cfg
    return allocate_kv_cache(
        L=cfg.L, B=B, H=cfg.H, T_max=T_max or cfg.T, D=cfg.D, device="cpu", dtype=torch.float32
    )


def test_an_allocated_cache_is_empty_and_has_the_asked_shape():
    cache = allocate_kv_cache(L=2, B=3, H=4, T_max=5, D=6, device="cpu", dtype=torch.float64)
    assert cache.k.shape == cache.v.shape == (2, 3, 4, 5, 6)
    assert cache.k.dtype == torch.float64
    assert cache.t == 0
    assert cache.k.data_ptr() != cache.v.data_ptr()


def test_a_cache_without_room_is_refused():
    with pytest.raises(ValueError, match="sizes from 1"):
        allocate_kv_cache(L=2, B=3, H=4, T_max=0, D=6, device="cpu", dtype=torch.float32)


def test_prefill_then_steps_give_the_logits_of_the_full_forward(model, some_ids):
    ids = some_ids(2, 20)
    full = model(ids)
    cache = empty_cache(model, B=2)
    logits, same, trace = prefill(model, ids[:, :11], cache)
    assert same is cache
    assert trace is None
    assert cache.t == 11
    torch.testing.assert_close(logits, full[:, :11], atol=1e-5, rtol=1e-5)
    for i in range(11, 20):
        logits, cache, _ = decode_step(model, ids[:, i : i + 1], cache)
        assert logits.shape == (2, 1, 61)
        torch.testing.assert_close(logits[:, 0], full[:, i], atol=1e-5, rtol=1e-5)
    assert cache.t == 20


def test_rows_at_different_positions_decode_in_one_forward(model, some_ids):
    ids = some_ids(3, 20)
    full = model(ids)
    cache = empty_cache(model, B=3)
    start = torch.tensor([0, 7, 16])
    for row, filled in enumerate(start.tolist()):
        if filled:
            piece = slice(row, row + 1)
            forward_cached(
                model,
                ids[piece, :filled],
                cache.k[:, piece],
                cache.v[:, piece],
                torch.zeros(1, dtype=torch.long),
            )
    pieces = torch.stack([ids[row, p : p + 4] for row, p in enumerate(start.tolist())])
    logits, attn = forward_cached(model, pieces, cache.k, cache.v, start, trace_layer=1)
    for row, p in enumerate(start.tolist()):
        torch.testing.assert_close(logits[row], full[row, p : p + 4], atol=1e-5, rtol=1e-5)
    assert attn.shape == (3, model.cfg.H, 4, 32)
    for row, p in enumerate(start.tolist()):
        for i in range(4):
            assert not attn[row, :, i, p + i + 1 :].any(), "a token sees nothing beyond its own position"
            torch.testing.assert_close(attn[row, :, i].sum(-1), torch.ones(model.cfg.H))


def test_leftovers_beyond_a_rows_position_are_never_seen(model, some_ids):
    """A slot that another sequence used before gives the same bits as a fresh one."""
    ids, start = some_ids(1, 9), torch.zeros(1, dtype=torch.long)
    fresh, used = empty_cache(model), empty_cache(model)
    used.k.fill_(1e6)
    used.v.fill_(1e6)
    expected, _ = forward_cached(model, ids, fresh.k, fresh.v, start)
    assert torch.equal(forward_cached(model, ids, used.k, used.v, start)[0], expected)


def test_writing_to_the_wrong_position_changes_the_logits(model, some_ids):
    """The control: the agreement above is not an accident of a cache that does not matter."""
    ids = some_ids(1, 12)
    cache = empty_cache(model)
    prefill(model, ids[:, :10], cache)
    cache.t = 9
    wrong, _, _ = decode_step(model, ids[:, 10:11], cache)
    assert not torch.allclose(wrong[0, 0], model(ids[:, :11])[0, -1], atol=1e-3)


def test_traces_of_prefill_and_steps_are_rows_of_the_full_attention(model, some_ids):
    ids = some_ids(2, 8)
    cache = empty_cache(model, B=2)
    _, _, first = prefill(model, ids[:, :7], cache, trace_layer=1, return_attn_row=True)
    _, _, second = decode_step(model, ids[:, 7:], cache, trace_layer=1, return_attn_row=True)
    full = model.forward_with_attn_trace(ids, trace_layer=1, return_full_attn=True)[1]["attn_full"]
    assert first["layer"] == second["layer"] == 1
    torch.testing.assert_close(first["attn_row"], full[:, :, 6, :7], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(second["attn_row"], full[:, :, 7], atol=1e-5, rtol=1e-4)


def test_asking_for_the_attention_changes_no_next_token(model, some_ids):
    ids = some_ids(1, 8)
    plain, _, _ = prefill(model, ids, empty_cache(model))
    traced, _, _ = prefill(model, ids, empty_cache(model), trace_layer=0, return_attn_row=True)
    torch.testing.assert_close(traced, plain, atol=1e-5, rtol=1e-5)


def test_cached_decoding_ignores_dropout(gelu_model, some_ids):
    ids = some_ids(1, 8)
    expected = gelu_model(ids)
    logits, _, _ = prefill(gelu_model.train(), ids, empty_cache(gelu_model))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert not logits.requires_grad


def test_an_attention_row_needs_its_layer(gelu_model, some_ids):
    with pytest.raises(ValueError, match="trace_layer"):
        prefill(gelu_model, some_ids(1, 3), empty_cache(gelu_model), return_attn_row=True)


def test_prefill_refuses_a_cache_in_use(gelu_model, some_ids):
    cache = empty_cache(gelu_model)
    prefill(gelu_model, some_ids(1, 3), cache)
    with pytest.raises(ValueError, match="holds 3 tokens"):
        prefill(gelu_model, some_ids(1, 3), cache)


def test_a_step_refuses_an_empty_cache(gelu_model, some_ids):
    with pytest.raises(ValueError, match="prefill it"):
        decode_step(gelu_model, some_ids(1, 1), empty_cache(gelu_model))


def test_a_step_refuses_a_full_cache(gelu_model, some_ids):
    cache = empty_cache(gelu_model, T_max=3)
    prefill(gelu_model, some_ids(1, 3), cache)
    with pytest.raises(ValueError, match=r"positions \[3\]"):
        decode_step(gelu_model, some_ids(1, 1), cache)


@pytest.mark.parametrize(
    ("ids", "rows", "start", "message"),
    [
        (torch.zeros(2, 0, dtype=torch.long), 2, [0, 0], "at least one token"),
        (torch.zeros(2, 3, dtype=torch.long), 1, [0, 0], "do not fit"),
        (torch.zeros(2, 3, dtype=torch.long), 2, [0], "one position a row"),
        (torch.zeros(2, 3, dtype=torch.long), 2, [0, -1], "positions"),
        (torch.zeros(2, 3, dtype=torch.long), 2, [0, 30], "positions"),
    ],
)
def test_inputs_that_do_not_fit_the_cache_are_refused(gelu_model, ids, rows, start, message):
    cache = empty_cache(gelu_model, B=rows)
    with pytest.raises(ValueError, match=message):
        forward_cached(gelu_model, ids, cache.k, cache.v, torch.tensor(start))

"""The transformer against its formulas: shapes, causality, traces, ties, starts and dropout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from niels_gpt.model import rope
from niels_gpt.model.blocks import MLP, Block, CausalSelfAttention, init_weights
from niels_gpt.model.config import ModelConfig
from niels_gpt.model.gpt import GPT


def test_logits_agree_with_an_independent_float64_forward(model, some_ids, float64_logits):
    ids = some_ids(20)
    expected = float64_logits(model.state_dict(), model.cfg, ids.tolist())
    assert np.abs(expected).max() > 3, "the comparison must be about numbers that matter"
    np.testing.assert_allclose(model(ids[None])[0].detach().double(), expected, atol=2e-5)


@pytest.mark.parametrize("wrong", [{"rope_theta": 9000.0}, {"H": 1}])
def test_the_float64_forward_notices_another_rope_or_head_count(gelu_model, some_ids, float64_logits, wrong):
    ids = some_ids(20)
    expected = float64_logits(gelu_model.state_dict(), replace(gelu_model.cfg, **wrong), ids.tolist())
    assert np.abs(gelu_model(ids[None])[0].detach().numpy() - expected).max() > 2e-4


def test_logits_are_float32_with_a_row_per_token(model, some_ids):
    logits = model(some_ids(2, 7))
    assert logits.shape == (2, 7, 61)
    assert logits.dtype == torch.float32


def test_more_tokens_than_the_context_window_are_refused(model, some_ids):
    model(some_ids(1, 32))
    with pytest.raises(AssertionError, match=r"33 tokens.*T=32"):
        model(some_ids(1, 33))


def test_a_later_token_changes_no_earlier_logits(model, some_ids):
    ids = some_ids(1, 20)
    changed = ids.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 61
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_the_head_shares_the_embedding_when_tied():
    tied, untied = (
        GPT(ModelConfig(C=8, d_ff=8, L=1)),
        GPT(ModelConfig(C=8, d_ff=8, L=1, tie_embeddings=False)),
    )
    assert tied.lm_head.weight is tied.tok_emb.weight
    assert untied.lm_head.weight is not untied.tok_emb.weight


def test_parameter_names_are_those_of_the_original_project():
    def names(**form):
        return {
            name.removeprefix("blocks.0.") for name, _ in GPT(ModelConfig(L=1, **form)).named_parameters()
        }

    common = {
        "tok_emb.weight",
        "ln1.weight",
        "attn.qkv.weight",
        "attn.proj.weight",
        "ln2.weight",
        "ln_f.weight",
    }
    gelu = {
        "ln1.bias",
        "ln2.bias",
        "ln_f.bias",
        "mlp.fc1.weight",
        "mlp.fc1.bias",
        "mlp.fc2.weight",
        "mlp.fc2.bias",
    }
    gated = {"mlp.fc_a.weight", "mlp.fc_g.weight", "mlp.fc_out.weight"}
    assert names() == common | gelu
    assert names(norm="rmsnorm", mlp="swiglu") == common | gated
    assert names(norm="rmsnorm", mlp="swiglu", tie_embeddings=False) == common | gated | {"lm_head.weight"}


def test_the_state_dict_lists_the_head_beside_the_embedding():
    assert "lm_head.weight" in GPT(ModelConfig(C=8, d_ff=8, L=1)).state_dict()


def test_the_trace_changes_no_logits_and_holds_the_last_row(model, some_ids):
    ids = some_ids(2, 9)
    logits, trace = model.forward_with_attn_trace(ids, trace_layer=1, return_full_attn=True)
    torch.testing.assert_close(logits, model(ids))
    assert trace["layer"] == 1
    full = trace["attn_full"]
    assert full.shape == (2, model.cfg.H, 9, 9)
    assert torch.equal(trace["attn_row"], full[:, :, -1])
    torch.testing.assert_close(full.sum(-1), torch.ones(2, model.cfg.H, 9))
    assert not full.triu(1).any()


def test_the_trace_leaves_the_full_attention_out_unless_asked(model, some_ids):
    _, trace = model.forward_with_attn_trace(some_ids(1, 4), trace_layer=0)
    assert trace["attn_full"] is None
    assert trace["attn_row"].shape == (1, model.cfg.H, 4)


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_trace_of_a_layer_that_does_not_exist_is_an_error(gelu_model, some_ids, layer):
    with pytest.raises(ValueError, match=f"no layer {layer}, expected 0 to 2"):
        gelu_model.forward_with_attn_trace(some_ids(1, 4), trace_layer=layer)


@pytest.mark.parametrize("part", [CausalSelfAttention, Block])
def test_parts_return_their_attention_when_asked(part):
    cfg = ModelConfig(C=16, H=2, d_ff=8, T=8)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    module = part(cfg).eval()
    y, probs = module(x, return_attn=True)
    assert probs.shape == (2, 2, 5, 5)
    torch.testing.assert_close(y, module(x))


def test_returned_attention_is_taken_before_dropout():
    cfg = ModelConfig(C=16, H=2, d_ff=8, T=8, dropout=0.5)
    attention = CausalSelfAttention(cfg).train()
    _, probs = attention(torch.ones(1, 6, 16), return_attn=True)
    torch.testing.assert_close(probs.sum(-1), torch.ones(1, 2, 6))


def test_dropout_acts_on_embedding_attention_and_both_branches():
    """With a rate near 1, nearly all that passes a dropout is zero: so each place shows."""
    cfg = ModelConfig(V=61, T=8, C=16, H=2, d_ff=8, L=1, dropout=0.999)
    torch.manual_seed(0)
    model = GPT(cfg).train()
    x = torch.ones(1, 8, 16)
    assert (model.embed(torch.ones(1, 8, dtype=torch.long)) == 0).float().mean() > 0.9
    assert (model.blocks[0].attn(x) == 0).float().mean() > 0.5
    assert (model.blocks[0](x) == x).float().mean() > 0.9


def test_evaluation_mode_has_no_randomness(gelu_model, some_ids):
    ids = some_ids(1, 9)
    assert torch.equal(gelu_model(ids), gelu_model(ids))


def test_weights_start_normal_with_zero_biases_and_unit_norms():
    torch.manual_seed(0)
    model = GPT(ModelConfig())
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "ln" in name:
            assert torch.equal(value, torch.ones_like(value)), name
        else:
            assert abs(value.mean().item()) < 1e-3, name
            assert value.std().item() == pytest.approx(0.02, rel=0.02), name


def test_init_weights_starts_a_part_again():
    mlp = MLP(ModelConfig(C=16, d_ff=8))
    torch.nn.init.constant_(mlp.fc1.bias, 7.0)
    init_weights(mlp)
    assert not mlp.fc1.bias.any()


def test_rope_cache_has_the_angles_of_each_position():
    sin, cos = rope.rope_cache(5, 4, theta=100.0)
    assert sin.shape == cos.shape == (1, 1, 5, 2)
    angle = torch.tensor([[p, p * 0.1] for p in range(5)])
    torch.testing.assert_close(sin[0, 0], angle.sin())
    torch.testing.assert_close(cos[0, 0], angle.cos())


def test_rope_turns_adjacent_pairs_and_keeps_their_length():
    q = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    turned, _ = rope.apply_rope(q, q, *rope.rope_cache(10, 8))
    torch.testing.assert_close(turned[:, :, 0], q[:, :, 0])
    torch.testing.assert_close(
        turned.unflatten(-1, (4, 2)).norm(dim=-1), q.unflatten(-1, (4, 2)).norm(dim=-1)
    )


def test_rope_makes_scores_depend_on_distance_alone():
    generator = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=generator).expand(2, 1, 1, 12, 8)
    q, k = rope.apply_rope(q, k, *rope.rope_cache(12, 8))
    scores = (q @ k.transpose(-1, -2))[0, 0]
    for distance in range(12):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("T", "D"), [(0, 4), (4, 3), (4, 0)])
def test_rope_cache_refuses_sizes_without_pairs(T, D):
    with pytest.raises(ValueError, match="even D"):
        rope.rope_cache(T, D)


def test_rope_refuses_a_cache_shorter_than_the_sequence():
    q = torch.zeros(1, 1, 5, 4)
    with pytest.raises(ValueError, match="apply_rope"):
        rope.apply_rope(q, q, *rope.rope_cache(4, 4))


def test_attention_calls_rope_through_its_module(gelu_model, some_ids, monkeypatch):
    """Users observe or replace `rope.apply_rope`; that has to reach the attention, cached or not."""
    calls = []

    def observed(q, k, sin, cos):
        calls.append(tuple(q.shape))
        return q, k

    plain = gelu_model(some_ids(1, 6))
    monkeypatch.setattr(rope, "apply_rope", observed)
    assert not torch.allclose(gelu_model(some_ids(1, 6)), plain)
    assert calls == [(1, 3, 6, 8)] * 3

"""The torch forms of a BDH against each other and against an independent float64 forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from niels_gpt.kernels.bdh_packing import PackedBDH
from niels_gpt.model.bdh import BDH, BDHConfig
from niels_gpt.model.config import NO_LIMIT, ModelConfig, config_from_dict
from niels_gpt.model.registry import build_model
from tests.bdh.conftest import ODD, make_model, random_ids, reference_logits
from tests.bdh.reading import read


def test_parameters_have_the_names_and_shapes_of_the_reference():
    config = BDHConfig(n_layer=2, n_embd=16, n_head=4, mlp_internal_dim_multiplier=8, vocab_size=50)
    assert {name: tuple(value.shape) for name, value in BDH(config).state_dict().items()} == {
        "encoder": (4, 16, 32),
        "encoder_v": (4, 16, 32),
        "decoder": (128, 16),
        "embed.weight": (50, 16),
        "lm_head": (16, 50),
        "attn.freqs": (1, 1, 1, 32),
    }


def test_a_configuration_file_without_sizes_means_those_of_the_reference():
    expected = BDHConfig().model_config
    assert config_from_dict(ModelConfig, {"arch": "bdh"}, where="here") == expected
    assert (expected.L, expected.C, expected.H, expected.d_ff, expected.V) == (6, 256, 4, 128 * 256, 256)
    assert (expected.dropout, expected.rope_theta, expected.T) == (0.1, 2.0**16, 512)


def test_the_registry_builds_it():
    assert isinstance(build_model(ODD.model_config), BDH)


def test_frequencies_are_shared_by_pairs_in_turns_a_token():
    freqs = BDH(ODD).attn.freqs.flatten()
    assert torch.equal(freqs[0::2], freqs[1::2])
    assert freqs[0] == pytest.approx(1 / (2 * np.pi))
    assert freqs[-1] == pytest.approx((2.0**16) ** (-48 / 50) / (2 * np.pi))


def test_logits_equal_a_float64_forward(model: BDH, packed: PackedBDH):
    ids = random_ids(80)
    expected = reference_logits(model.state_dict(), ODD, ids)
    with torch.no_grad():
        whole = model(torch.tensor([ids]))[0].numpy()
        stepped = model.forward_from(torch.tensor([ids]), model.new_state(1, 80))[0].numpy()
    for found in (whole, stepped, read(packed, ids, [80])):
        assert np.abs(found - expected).max() < 1e-4


def test_a_forward_that_sees_itself_would_be_noticed(model: BDH):
    ids = random_ids(30)
    expected = reference_logits(model.state_dict(), ODD, ids)
    shifted = reference_logits(model.state_dict(), ODD, [ids[0], *ids])[1:]
    assert np.abs(shifted - expected).max() > 1e-2


def test_decoding_from_the_state_is_the_full_recompute_over_2000_tokens(model: BDH, packed: PackedBDH):
    ids = random_ids(2000)
    state = model.new_state(1, 2000)
    with torch.no_grad():
        whole = model(torch.tensor([ids]))[0].numpy()
        portions = [
            model.forward_from(torch.tensor([ids[at : at + 50]]), state)[0] for at in range(0, 2000, 50)
        ]
    assert np.abs(torch.cat(portions).numpy() - whole).max() < 1e-4
    assert np.abs(read(packed, ids, [1] * 2000) - whole).max() < 1e-4


def test_the_state_takes_the_same_room_at_every_length(model: BDH, packed: PackedBDH):
    state = model.new_state(1, 10)
    size = state.sums.numel()
    model.forward_from(torch.tensor([random_ids(500)]), state)
    assert state.sums.numel() == size
    assert len(packed.new_state(10)[0]) == len(packed.new_state(10**6)[0])


def test_rows_of_different_lengths_are_read_together(model: BDH):
    long, short = random_ids(40), random_ids(25, seed=4)
    state = model.new_state(2, 50)
    padded = torch.tensor([long, short + [0] * 15])
    model.forward_from(padded, state, torch.tensor([40, 25]))
    together = model.forward_from(torch.tensor([[7], [8]]), state)
    for row, ids in enumerate(([*long, 7], [*short, 8])):
        alone = model(torch.tensor([ids]))[0, -1]
        assert torch.allclose(together[row, 0], alone, atol=1e-5)


def test_there_is_no_limit_to_the_context():
    assert BDHConfig(block_size=16).model_config.context == NO_LIMIT
    small = make_model(BDHConfig(n_layer=1, n_embd=8, n_head=1, mlp_internal_dim_multiplier=2, block_size=16))
    assert small(torch.zeros(1, 100, dtype=torch.long)).shape == (1, 100, 256)


def test_phases_stay_exact_far_out():
    phases = BDH(ODD).attn
    far = 2**28 + 1
    cos, _ = phases.tables(torch.tensor([[far]]))
    exact = [float(freq) * far % 1 for freq in phases.freqs.flatten().double()]
    assert np.abs(cos.flatten().numpy() - np.cos(2 * np.pi * np.array(exact))).max() < 1e-6


def test_it_learns(model: BDH):
    torch.manual_seed(0)
    small = BDH(BDHConfig(n_layer=2, n_embd=16, n_head=2, mlp_internal_dim_multiplier=8, dropout=0.0))
    ids = torch.tensor([list(b"abcabcabcabcabcabcabcabc")])
    optimizer = torch.optim.AdamW(small.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(small(ids)[0, :-1], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 < losses[0]


def test_targets_give_the_loss_too() -> None:
    model = BDH(BDHConfig(n_layer=1, n_embd=8, n_head=2, mlp_internal_dim_multiplier=4, vocab_size=16)).eval()
    ids = torch.arange(12).reshape(2, 6)
    logits, loss = model(ids[:, :-1], ids[:, 1:])
    assert torch.equal(logits, model(ids[:, :-1]))
    expected = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).mean()
    torch.testing.assert_close(loss, expected)

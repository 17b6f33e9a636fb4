from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from niels_gpt.model.form import Form, FormError, Rope
from niels_gpt.model.gpt import GPT
from niels_gpt.model.gpt_form import form_of, weights_of
from niels_gpt.model.transformer import Transformer, transformer_of
from niels_gpt.model.weights import float32_weight

BASE = Form(V=61, T=32, C=24, L=3, H=6, d_ff=40)
EVERYTHING = Form(
    V=61, T=32, C=24, L=3, H=6, KV=2, D=8, d_ff=40, norm="rmsnorm", norm_eps=1e-6,
    norms=("attn_in", "attn_out", "mlp_in", "mlp_out", "embed"), qk_norm="head",
    rope=(Rope(500.0), Rope(1000.0, dims=4, scaling=("linear", 2.0))), windows=(5, 0), kinds=(0, 1),
    score_scale=0.3, score_cap=20.0, mlp="gelu_tanh", gated=True, embed_scale=3.0, residual_scale=0.7,
    head_scale=0.5, head_cap=15.0, tied=False,
    biases=frozenset(("qkv", "proj", "up", "gate", "down", "head")),
)  # fmt: skip
NANOCHAT = Form(
    V=61, T=32, C=24, L=4, H=3, d_ff=40, norm="rmsnorm", norms=("attn_in", "mlp_in", "embed"),
    qk_norm="after", qk_scale=1.2, mlp="relu2", tied=False, head_cap=15.0, windows=(6, 0), kinds=(0, 0, 1),
    rope=(Rope(), Rope()), value_layers=(1, 3), value_gate=12, smear=8, mix=True, backout=2,
)  # fmt: skip
FORMS = {
    "plain": BASE,
    "everything": EVERYTHING,
    "nanochat": NANOCHAT,
    "gpt2": dataclasses.replace(BASE, rope=(), positions="learned", biases=frozenset(("qkv", "norm"))),
    "neox": dataclasses.replace(BASE, parallel="two", rope=(Rope(dims=2),)),
    "phi": dataclasses.replace(BASE, parallel="one", norms=("attn_in",)),
    "olmo2": dataclasses.replace(BASE, norm="rmsnorm", norms=("attn_out", "mlp_out"), qk_norm="row"),
}


def make(form: Form, seed: int = 1) -> Transformer:
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(form)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1))
    return model.eval()


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def built(request: pytest.FixtureRequest) -> Transformer:
    return make(request.param)


def test_a_gpt_and_its_form_give_the_same_logits(model: GPT, some_ids: Callable[..., torch.Tensor]) -> None:
    twin = transformer_of(form_of(model.cfg), weights_of(model))
    ids = some_ids(2, 32)
    torch.testing.assert_close(twin(ids), model(ids), atol=1e-5, rtol=1e-5)


def test_cached_tokens_get_the_logits_of_the_whole_sequence(
    built: Transformer, some_ids: Callable[..., torch.Tensor]
) -> None:
    ids, built = some_ids(2, 32), built.double()
    state = built.new_state(2, 32)
    parts = [built.forward_from(part, state) for part in ids.split([1, 7, 1, 16, 7], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), built(ids), atol=1e-10, rtol=1e-9)


def test_rows_of_different_lengths_do_not_disturb_each_other(
    built: Transformer, some_ids: Callable[..., torch.Tensor]
) -> None:
    ids, built = some_ids(2, 20), built.double()
    state = built.new_state(2, 32)
    built.forward_from(ids[:, :9], state, torch.tensor([9, 4]))
    state = state.select(torch.tensor([1, 0, 1]))
    logits = built.forward_from(torch.stack((ids[1, 4:9], ids[0, 9:14], ids[1, 4:9])), state)
    torch.testing.assert_close(logits[1], built(ids[:1, :14])[0, 9:], atol=1e-10, rtol=1e-9)
    for row in (0, 2):
        torch.testing.assert_close(logits[row], built(ids[1:, :9])[0, 4:], atol=1e-10, rtol=1e-9)


def test_a_form_survives_json(built: Transformer) -> None:
    assert Form.from_dict(json.loads(json.dumps(built.cfg.to_dict()))) == built.cfg


def test_a_model_is_filled_with_exactly_its_weights(built: Transformer) -> None:
    weights = {name: float32_weight(value.numpy()) for name, value in built.state_dict().items()}
    again = transformer_of(built.cfg, weights)
    for name, value in built.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"H": 7}, r"H is 7, expected a divisor of C=24"),
        ({"KV": 4}, r"KV is 4, expected a divisor of H=6"),
        ({"V": 10**12}, r"V is 1000000000000, expected a whole number"),
        ({"L": True}, r"L is True, expected a whole number"),
        ({"kinds": (1,)}, r"kinds is 1, expected below 1"),
        ({"mlp": "swish"}, r"mlp is 'swish', expected one of"),
        ({"norm_eps": float("nan")}, r"norm_eps is nan, expected a finite number"),
        ({"rope": (Rope(dims=8),)}, r"rope.dims is 8, expected an even number up to D=4"),
        ({"windows": (-1,)}, r"windows is -1"),
        ({"biases": frozenset({"all"})}, r"biases is"),
    ],
)
def test_a_form_that_contradicts_itself_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(FormError, match=message):
        dataclasses.replace(BASE, **({"D": 0, "KV": 0} | changes))


@pytest.mark.parametrize(
    "values",
    [{"V": 3}, {**BASE.to_dict(), "rope": [{}]}, {**BASE.to_dict(), "rope": 3}, {**BASE.to_dict(), "W": 1}],
)
def test_a_stored_form_of_the_wrong_shape_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(FormError):
        Form.from_dict(values)


def test_the_rates_of_a_scaled_rotary_embedding_lie_between_plain_and_slowed() -> None:
    plain, _ = Rope(10000.0).rates(64)
    for scaling in (("llama3", 8.0, 1.0, 4.0, 128.0), ("yarn", 8.0, 128.0, 32.0, 1.0, 1.2)):
        rates, _ = Rope(10000.0, scaling=scaling).rates(64)
        assert rates[0] == plain[0]
        assert rates[-1] == pytest.approx(plain[-1] / 8)
        assert np.all((rates <= plain) & (rates >= plain / 8 * (1 - 1e-12)))

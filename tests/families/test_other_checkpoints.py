"""Checkpoints of nanoGPT and nanochat, against short forwards written for this test."""

from __future__ import annotations

import json
import math
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from niels_gpt.model.checkpoint import CheckpointError
from niels_gpt.model.loading import load_model
from niels_gpt.text.safe_pickle import EncodingState

IDS = torch.randint(0, 61, (2, 30), generator=torch.Generator().manual_seed(3))
CHARACTERS = [chr(32 + n) for n in range(61)]


def numbers(*shape: int, seed: int) -> Tensor:
    return 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def save_meta(folder: Path, content: Any) -> None:
    (folder / "meta.pkl").write_bytes(pickle.dumps(content))


META = {
    "vocab_size": 61,
    "itos": dict(enumerate(CHARACTERS)),
    "stoi": {c: n for n, c in enumerate(CHARACTERS)},
}


def nanogpt_state(C: int, L: int, *, bias: bool) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (61, C),
        "transformer.wpe.weight": (32, C),
    }
    for n in range(L):
        block = f"transformer.h.{n}"
        shapes |= {
            f"{block}.ln_1.weight": (C,), f"{block}.attn.c_attn.weight": (3 * C, C),
            f"{block}.attn.c_proj.weight": (C, C), f"{block}.ln_2.weight": (C,),
            f"{block}.mlp.c_fc.weight": (4 * C, C), f"{block}.mlp.c_proj.weight": (C, 4 * C),
        }  # fmt: skip
    shapes["transformer.ln_f.weight"] = (C,)
    if bias:
        blocks = {name: shape for name, shape in shapes.items() if ".h." in name or "ln_f" in name}
        shapes |= {name.replace(".weight", ".bias"): shape[:1] for name, shape in blocks.items()}
    state = {name: numbers(*shape, seed=n) for n, (name, shape) in enumerate(shapes.items())}
    return state | {"lm_head.weight": state["transformer.wte.weight"]}


def nanogpt_logits(w: dict[str, Tensor], ids: Tensor, *, H: int, L: int) -> Tensor:
    t, C = ids.shape[1], w["transformer.wte.weight"].shape[1]

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (C,), w[f"{name}.weight"], w.get(f"{name}.bias"))

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][:t]
    for n in range(L):
        block = f"transformer.h.{n}"
        q, k, v = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").split(C, dim=2)
        q, k, v = (y.view(*ids.shape, H, C // H).transpose(1, 2) for y in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(y.transpose(1, 2).flatten(2), f"{block}.attn.c_proj")
        x = x + linear(
            functional.gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")), f"{block}.mlp.c_proj"
        )
    return linear(norm(x, "transformer.ln_f"), "lm_head")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_a_nanogpt_checkpoint_gives_the_same_logits(tmp_path: Path, *, bias: bool, prefix: str) -> None:
    state = nanogpt_state(24, 2, bias=bias)
    sizes = {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 32, "vocab_size": 61, "bias": bias}
    content = {"model": {prefix + name: value for name, value in state.items()}, "model_args": sizes,
               "iter_num": 7, "config": {}, "optimizer": {}, "best_val_loss": torch.tensor(1.5)}  # fmt: skip
    torch.save(content, tmp_path / "ckpt.pt")
    save_meta(tmp_path, META)
    loaded = load_model(tmp_path)
    torch.testing.assert_close(loaded.model(IDS), nanogpt_logits(state, IDS, H=3, L=2), rtol=1e-5, atol=1e-5)
    assert loaded.step == 7
    assert loaded.tokenizer.encode_ids("AB") == [33, 34]
    assert loaded.notice is not None
    assert loaded.template.prompt_ids([{"role": "user", "content": "AB"}]) == [33, 34]


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        (None, "without its vocabulary; put the meta.pkl"),
        ({"itos": 3}, "no dictionary 'itos'"),
        ({"itos": {999: "a"}}, "the id 999, expected 0 to 60"),
        ({"itos": {1: "ab"}}, "expected a character by its id"),
        ({"itos": {1: Path("x")}}, "it asks for pathlib"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_one_line(tmp_path: Path, meta: Any, said: str) -> None:
    sizes = {"n_layer": 1, "n_head": 3, "n_embd": 24, "block_size": 32, "vocab_size": 61, "bias": False}
    torch.save({"model": nanogpt_state(24, 1, bias=False), "model_args": sizes}, tmp_path / "ckpt.pt")
    if meta is not None:
        save_meta(tmp_path, meta)
    with pytest.raises(CheckpointError, match=said):
        load_model(tmp_path / "ckpt.pt")


# nanochat

C, L, H, KV, T = 24, 3, 3, 1, 600
D = C // H


def nanochat_state(*, later: bool) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (64, C), "lm_head.weight": (64, C)}
    for n in range(L):
        block = f"transformer.h.{n}"
        shapes |= {
            f"{block}.attn.c_q.weight": (C, C), f"{block}.attn.c_k.weight": (KV * D, C),
            f"{block}.attn.c_v.weight": (KV * D, C), f"{block}.attn.c_proj.weight": (C, C),
            f"{block}.mlp.c_fc.weight": (4 * C, C), f"{block}.mlp.c_proj.weight": (C, 4 * C),
        }  # fmt: skip
        if later and n % 2 == (L - 1) % 2:
            shapes |= {f"{block}.attn.ve_gate.weight": (KV, 12), f"value_embeds.{n}.weight": (64, KV * D)}
    if later:
        shapes |= {"smear_gate.weight": (1, 24), "smear_lambda": (1,), "backout_lambda": (1,),
                   "resid_lambdas": (L,), "x0_lambdas": (L,)}  # fmt: skip
    return {
        name: numbers(*shape, seed=n) + 0.5 * (len(shape) == 1)
        for n, (name, shape) in enumerate(shapes.items())
    }


def nanochat_logits(w: dict[str, Tensor], ids: Tensor, *, later: bool) -> Tensor:
    B, t = ids.shape
    angle = torch.arange(t).double()[:, None] * (1e5 if later else 1e4) ** (
        -torch.arange(0, D, 2).double() / D
    )
    cos, sin = angle.cos().float()[:, None], angle.sin().float()[:, None]

    def norm(x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],))

    def turn(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)

    x = norm(w["transformer.wte.weight"][ids])
    if later:
        gate = w["smear_lambda"] * torch.sigmoid(x[:, 1:] @ w["smear_gate.weight"].T)
        x = torch.cat((x[:, :1], x[:, 1:] + gate * x[:, :-1]), dim=1)
    first, middle = x, x
    for n in range(L):
        block = f"transformer.h.{n}"
        if later:
            x = w["resid_lambdas"][n] * x + w["x0_lambdas"][n] * first
        h = norm(x)
        q, k, v = ((h @ w[f"{block}.attn.c_{name}.weight"].T).view(B, t, -1, D) for name in "qkv")
        if f"value_embeds.{n}.weight" in w:
            gate = 3 * torch.sigmoid(h[..., :12] @ w[f"{block}.attn.ve_gate.weight"].T)
            v = v + gate[..., None] * w[f"value_embeds.{n}.weight"][ids].view(B, t, KV, D)
        q, k = norm(turn(q)), norm(turn(k))
        if later:
            q, k = 1.2 * q, 1.2 * k
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        scores = q @ k.repeat_interleave(H // KV, 1).mT / math.sqrt(D)
        ahead = torch.arange(t)[:, None] - torch.arange(t)
        seen = (ahead >= 0) & (ahead < (256 if later and n < L - 1 else T))
        probs = scores.masked_fill(~seen, -math.inf).softmax(-1)
        x = (
            x
            + (probs @ v.repeat_interleave(H // KV, 1)).transpose(1, 2).flatten(2)
            @ w[f"{block}.attn.c_proj.weight"].T
        )
        x = (
            x
            + functional.relu(norm(x) @ w[f"{block}.mlp.c_fc.weight"].T).square()
            @ w[f"{block}.mlp.c_proj.weight"].T
        )
        if n == L // 2:
            middle = x
    if later:
        x = x - w["backout_lambda"] * middle
    logits = (norm(x) @ w["lm_head.weight"].T)[..., :V]
    return 15 * torch.tanh(logits / 15)


NAMES = ["<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>"]
V = 61


class Encoding:
    """Pickles as `tiktoken.Encoding` does."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __getstate__(self) -> Any:
        return self.state


Encoding.__module__, Encoding.__qualname__ = "tiktoken.core", "Encoding"


def save_tokenizer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("tiktoken.core")
    module.Encoding = Encoding  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "tiktoken", types.ModuleType("tiktoken"))
    monkeypatch.setitem(sys.modules, "tiktoken.core", module)
    ranks = {bytes((65 + n,)): n for n in range(V - len(NAMES))}
    state = {"name": "rustbpe", "pat_str": r"\p{L}+|\s+", "mergeable_ranks": ranks,
             "special_tokens": {name: V - len(NAMES) + n for n, name in enumerate(NAMES)}}  # fmt: skip
    (folder / "tokenizer.pkl").write_bytes(pickle.dumps(Encoding(state)))


@pytest.mark.parametrize("later", [False, True], ids=["october 2025", "mid 2026"])
def test_a_nanochat_checkpoint_gives_the_same_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, later: bool
) -> None:
    state = nanochat_state(later=later)
    torch.save(state, tmp_path / "model_000010.pt")
    config = {"sequence_len": T, "vocab_size": V, "n_layer": L, "n_head": H, "n_kv_head": KV, "n_embd": C}
    config |= {"window_pattern": "SSL"} if later else {}
    (tmp_path / "meta_000010.json").write_text(json.dumps({"step": 10, "model_config": config}))
    save_tokenizer(tmp_path, monkeypatch)
    loaded = load_model(tmp_path)
    ids = torch.randint(0, V, (1, 300), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        loaded.model(ids), nanochat_logits(state, ids, later=later), rtol=1e-4, atol=1e-5
    )
    assert loaded.step == 10
    prompt = loaded.template.prompt_ids([{"role": "user", "content": "AB"}])
    assert prompt == [56, 57, 0, 1, 58, 59]
    assert loaded.template.stop_ids == {56, 60}


def test_a_nanochat_checkpoint_without_its_config_is_one_line(tmp_path: Path) -> None:
    torch.save(nanochat_state(later=False), tmp_path / "model_000010.pt")
    with pytest.raises(CheckpointError, match=r"without meta_000010\.json next to it"):
        load_model(tmp_path / "model_000010.pt")


def test_a_file_of_something_else_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"iteration": 3, "weights": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"holds 'iteration', 'weights'; give a \.pt file of niels-gpt"):
        load_model(tmp_path / "other.pt")


def test_an_encoding_keeps_its_state_alone() -> None:
    kept = EncodingState()
    kept.__setstate__({"a": 1})
    assert kept.state == {"a": 1}

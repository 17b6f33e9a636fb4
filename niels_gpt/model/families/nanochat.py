"""nanochat: its port in transformers, and its own checkpoints of October 2025 and of mid 2026.

Its own checkpoints are a folder with `model_STEP.pt` and `meta_STEP.json`. Later ones have value embeddings,
a gate that smears the token before into each embedding, per-layer mixing with the first layer's input, and
subtract a middle layer from the last. Its norms have no weights, and it rotates the other way.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from niels_gpt.model.families.config_reader import ConfigReader
from niels_gpt.model.families.family import LLAMA_NAMES, Family, Layout, activation_of, common_form
from niels_gpt.model.form import Form, Rope
from niels_gpt.model.stored import Stored, StoredTensors, as_weight
from niels_gpt.model.weights import dequantise, float32_weight

PORT_NAMES = {
    name: theirs for name, theirs in LLAMA_NAMES.items() if "norm" not in name and name != "ln_f"
} | {
    "up": "model.layers.{}.mlp.fc1",
    "down": "model.layers.{}.mlp.fc2",
}
NAMES = {
    "tok_emb": "transformer.wte",
    "head": "lm_head",
    "q": "transformer.h.{}.attn.c_q",
    "k": "transformer.h.{}.attn.c_k",
    "v": "transformer.h.{}.attn.c_v",
    "proj": "transformer.h.{}.attn.c_proj",
    "up": "transformer.h.{}.mlp.c_fc",
    "down": "transformer.h.{}.mlp.c_proj",
    "value_emb": "value_embeds.{}",
    "value_gate": "transformer.h.{}.attn.ve_gate",
    "smear": "smear_gate",
    "smear_scale": "smear_lambda",
    "backout": "backout_lambda",
    "mix": "mix.{}",
}
EPS = 2.0**-23
"""torch's epsilon for float32, which `rms_norm` adds where none is given."""
THETA = {"2025": 10000.0, "2026": 100000.0}
SHORT_WINDOW_TILE = 128


def _port(c: ConfigReader) -> Form:
    return common_form(
        c,
        mlp=activation_of(c, "hidden_act", "relu2"),
        gated=False,
        norms=("attn_in", "mlp_in", "embed"),
        qk_norm="after",
        head_cap=c.number("final_logit_softcapping", 0.0),
    )


def checkpoint_form(c: ConfigReader, *, later: bool) -> Form:
    """Return the form of `model_config` in a `meta_STEP.json`.

    Args:
        c: the config.
        later: whether the weights are those of a checkpoint of mid 2026.

    """
    L, T = c.whole("n_layer"), c.whole("sequence_len")
    pattern = c.text("window_pattern", "L").upper()
    short = -(-T // 4 // SHORT_WINDOW_TILE) * SHORT_WINDOW_TILE
    layers = range(min(L, 4096))
    kinds = tuple(int(pattern[i % len(pattern)] != "S" or i == L - 1) for i in layers) if pattern else (1,)
    base = Form(
        V=c.whole("vocab_size"),
        T=T,
        C=c.whole("n_embd"),
        L=L,
        H=c.whole("n_head"),
        KV=c.whole("n_kv_head", 0),
        d_ff=4 * c.whole("n_embd"),
        norm="rmsnorm",
        norm_eps=EPS,
        norms=("attn_in", "mlp_in", "embed"),
        qk_norm="after",
        rope=(Rope(THETA["2026" if later else "2025"]),) * 2,
        windows=(short, 0),
        kinds=kinds,
        mlp="relu2",
        head_cap=15.0,
        tied=False,
    )
    if not later:
        return base
    values = tuple(i for i in layers if i % 2 == (L - 1) % 2)
    return replace(base, qk_scale=1.2, value_layers=values, value_gate=12, smear=24, mix=True, backout=L // 2)


def with_named_scalars(tensors: StoredTensors, L: int) -> dict[str, Stored]:
    """Return the tensors of a checkpoint with its scalars under names as the others have: `mix.0.weight`."""
    found = dict(tensors)
    for name in ("smear_lambda", "backout_lambda"):
        if name in found:
            found[f"{name}.weight"] = found.pop(name)
    residual, first = found.pop("resid_lambdas", None), found.pop("x0_lambdas", None)
    if residual is None or first is None or residual.shape != (L,) or first.shape != (L,):
        return found
    both = np.stack((dequantise(as_weight(residual)), dequantise(as_weight(first))), axis=1)
    for layer in range(L):
        mix = float32_weight(both[layer])
        found[f"mix.{layer}.weight"] = Stored(mix.kind, mix.shape, mix.data)
    return found


HF_PORT = Family(_port, Layout(PORT_NAMES, prefix="model.", pairs="swapped"))
CHECKPOINT_LAYOUT = Layout(NAMES, pairs="swapped")
CHAT_TEMPLATE = (
    "{{ '<|bos|>' }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '<|user_start|>' + m.content + '<|user_end|>' }}"
    "{% elif m.role == 'assistant' %}{{ '<|assistant_start|>' + m.content + '<|assistant_end|>' }}"
    "{% else %}{{ raise_exception('it has no system prompt') }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant_start|>' }}{% endif %}"
)
"""What nanochat's `render_conversation` writes."""

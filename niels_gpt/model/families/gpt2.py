"""GPT-2, with its matrices stored as (in, out)."""

from __future__ import annotations

from niels_gpt.model.families.config_reader import ConfigReader
from niels_gpt.model.families.family import Family, Layout, activation_of
from niels_gpt.model.form import Form

NAMES = {
    "tok_emb": "transformer.wte",
    "pos_emb": "transformer.wpe",
    "ln_f": "transformer.ln_f",
    "head": "lm_head",
    "norms.attn_in": "transformer.h.{}.ln_1",
    "norms.mlp_in": "transformer.h.{}.ln_2",
    "qkv": "transformer.h.{}.attn.c_attn",
    "proj": "transformer.h.{}.attn.c_proj",
    "up": "transformer.h.{}.mlp.c_fc",
    "down": "transformer.h.{}.mlp.c_proj",
}


def _gpt2(c: ConfigReader) -> Form:
    c.expect("scale_attn_weights", only=True)
    c.expect("scale_attn_by_inverse_layer_idx", only=False)
    c.expect("add_cross_attention", only=False)
    return Form(
        V=c.whole("vocab_size"),
        T=c.whole("n_positions"),
        C=c.whole("n_embd"),
        L=c.whole("n_layer"),
        H=c.whole("n_head"),
        d_ff=c.whole("n_inner", 4 * c.whole("n_embd")),
        norm_eps=c.number("layer_norm_epsilon", 1e-5),
        rope=(),
        positions="learned",
        mlp=activation_of(c, "activation_function", "gelu_new"),
        tied=c.flag("tie_word_embeddings", default=True),
        biases=frozenset(("qkv", "proj", "up", "down", "norm")),
    )


GPT2 = Family(_gpt2, Layout(NAMES, prefix="transformer.", transposed=True))

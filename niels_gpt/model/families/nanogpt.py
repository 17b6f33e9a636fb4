"""nanoGPT's `ckpt.pt`: `model_args` and a state dict with the names of GPT-2, its matrices as torch's."""

from __future__ import annotations

from niels_gpt.model.families.config_reader import ConfigReader
from niels_gpt.model.families.family import Layout
from niels_gpt.model.families.gpt2 import NAMES
from niels_gpt.model.form import Form


def checkpoint_form(c: ConfigReader) -> Form:
    """Return the form of `model_args`."""
    biases = ("qkv", "proj", "up", "down", "norm") if c.flag("bias", default=True) else ()
    return Form(
        V=c.whole("vocab_size"),
        T=c.whole("block_size"),
        C=c.whole("n_embd"),
        L=c.whole("n_layer"),
        H=c.whole("n_head"),
        d_ff=4 * c.whole("n_embd"),
        rope=(),
        positions="learned",
        mlp="gelu",
        tied=True,
        biases=frozenset(biases),
    )


LAYOUT = Layout(NAMES)

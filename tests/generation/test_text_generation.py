"""The guide's functions over batches of ids."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from niels_gpt.generation.functions import (
    generate_from_text,
    generate_text,
    load_model_from_checkpoint,
    sample_next_token,
)
from niels_gpt.model.checkpoint import CheckpointError, save_checkpoint
from niels_gpt.model.config import ModelConfig, TrainConfig
from niels_gpt.model.registry import Model
from niels_gpt.text.tokenizer import ByteTokenizer
from tests.generation.conftest import make_model

SIZES = {
    "vocab_size": 256, "context_length": 32, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 24,
}  # fmt: skip
PROMPTS = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(42)


def test_a_batch_keeps_its_prompts_and_grows_by_the_new_tokens(model: Model):
    found = generate_text(model, PROMPTS, max_new_tokens=10, temperature=0.8, generator=seeded())
    assert found.shape == (3, 13)
    assert torch.equal(found[:, :3], PROMPTS)


def test_a_seed_makes_it_reproducible(model: Model):
    one, two = (generate_text(model, PROMPTS, 10, generator=seeded()) for _ in range(2))
    assert torch.equal(one, two)


def test_torchs_own_seed_does_too(model: Model):
    found = []
    with torch.random.fork_rng():
        for _ in range(2):
            torch.manual_seed(42)
            found.append(generate_text(model, PROMPTS, 10))
    assert torch.equal(*found)


def test_every_row_has_a_generator_of_its_own(model: Model):
    alone = generate_text(model, PROMPTS[:1], 10, generator=seeded())
    assert torch.equal(generate_text(model, PROMPTS, 10, generator=seeded())[0], alone[0])


def test_it_ends_when_every_row_has_met_the_end_token(model: Model):
    free = generate_text(model, PROMPTS, 10, temperature=0.0)
    end = int(free[0, 4])
    found = generate_text(model, PROMPTS[:1], 10, temperature=0.0, eos_token_id=end)
    assert found.shape[1] <= 5
    assert found[0, -1] == end


def test_sampling_draws_from_the_nucleus_of_each_row():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]))
    drawn = torch.stack([sample_next_token(logits, top_p=0.8, generator=seeded()) for _ in range(1)])
    assert drawn.shape == (1, 2)
    generator = seeded()
    many = torch.stack([sample_next_token(logits, top_p=0.8, generator=generator) for _ in range(200)])
    assert set(many[:, 0].tolist()) == {0, 1}
    assert set(many[:, 1].tolist()) == {2, 3}


def test_text_in_and_text_out():
    model = make_model(ModelConfig(T=32, C=16, L=1, H=2, d_ff=24))
    text = generate_from_text(model, ByteTokenizer(), "Once upon", max_new_tokens=5, generator=seeded())
    assert text.startswith("Once upon")


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    cfg = ModelConfig(
        V=256, T=32, C=16, L=1, H=2, d_ff=24, norm="rmsnorm", mlp="swiglu", tie_embeddings=False
    )
    path = tmp_path / "model.pt"
    save_checkpoint(
        path,
        model_cfg=cfg,
        train_cfg=TrainConfig(),
        model=make_model(cfg),
        optimizer=None,
        step=1,
        best_val_loss=None,
    )
    return str(path)


def test_a_checkpoint_loads_with_its_sizes_spelled_out(checkpoint: str):
    assert generate_text(load_model_from_checkpoint(checkpoint, **SIZES), PROMPTS, 4).shape == (3, 7)


def test_wrong_sizes_are_all_named(checkpoint: str):
    with pytest.raises(CheckpointError, match="d_model is 99, stored 16; num_layers is 2, stored 1"):
        load_model_from_checkpoint(checkpoint, **SIZES | {"d_model": 99, "num_layers": 2})


class Successor(torch.nn.Module):
    """A module without anything of ours: the next id is the last one plus 1, from a window of 3."""

    context_length = 3

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.widths.append(ids.shape[1])
        return torch.nn.functional.one_hot((ids + 1) % 10, 10) * 50.0


def test_any_module_from_ids_to_logits_generates() -> None:
    module = Successor()
    found = generate_text(module, torch.tensor([[1, 2], [7, 8]]), max_new_tokens=4, eos_token_id=9)
    assert found.tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 9, 9, 9]]
    assert max(module.widths) == 3


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_transformer_lm_loads_by_the_sizes_that_are_given(tmp_path: Path, *, wrapped: bool):
    sizes = SIZES | {"vocab_size": 10_000, "num_layers": 2}
    cfg = ModelConfig(
        V=10_000, T=32, C=16, L=2, H=2, d_ff=24, norm="rmsnorm", mlp="swiglu", tie_embeddings=False
    )  # fmt: skip
    model = make_model(cfg)
    names = {"tok_emb": "token_embeddings", "ln_f": "ln_final", "blocks": "layers",
             "attn.proj": "attn.output_proj",
             "mlp.fc_g": "ffn.w1", "mlp.fc_a": "ffn.w3", "mlp.fc_out": "ffn.w2"}  # fmt: skip
    state = {}
    for name, value in model.state_dict().items():
        theirs = name
        for ours, other in names.items():
            theirs = theirs.replace(ours, other)
        if "attn.qkv" in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                state[theirs.replace("qkv", f"{letter}_proj")] = part.clone()
        else:
            state[theirs] = value
    content = {"model": state, "optimizer": {}, "iteration": 5} if wrapped else state
    torch.save(content, tmp_path / "lm.pt")
    loaded = load_model_from_checkpoint(str(tmp_path / "lm.pt"), **sizes)
    with torch.inference_mode():
        assert torch.equal(loaded(PROMPTS), model.eval()(PROMPTS))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_model_from_checkpoint(str(tmp_path / "lm.pt"), **sizes | {"d_ff": 25})

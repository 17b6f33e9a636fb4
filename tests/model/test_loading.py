"""Files of this project and of the original one become models that compute the same logits."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from niels_gpt.model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from niels_gpt.model.config import ModelConfig, TrainConfig, to_dict
from niels_gpt.model.fingerprint import fingerprint
from niels_gpt.model.gpt import GPT
from niels_gpt.model.loading import load_model
from niels_gpt.model.state import complete_config, fitted_state, float32_state
from niels_gpt.text.bpe import train_bpe
from niels_gpt.text.tokenizer import ByteTokenizer, TokenizerError

EIGHT = ("V", "T", "C", "L", "H", "d_ff", "dropout", "rope_theta")
SMALL = {"V": 256, "T": 32, "C": 24, "L": 2, "H": 2, "d_ff": 40}


def original_file(path, model: GPT, *, duplicate_head: bool = True, drop: str = "", rename: str = ""):
    """What the original project writes: eight config fields, six keys, the shared weight once or twice."""
    state = dict(model.state_dict())
    if not duplicate_head:
        del state["lm_head.weight"]
    if drop:
        del state[drop]
    if rename:
        state["blocks.0.attn.out.weight"] = state.pop(rename)
    content = {
        "model_cfg": {name: to_dict(model.cfg)[name] for name in EIGHT},
        "train_cfg": {"seed": 42, "B": 32},
        "model_state": state,
        "optimizer_state": None,
        "step": 1000,
        "best_val_loss": 1.25,
    }
    torch.save(content, path)
    return path


FORMS = {
    "layernorm-gelu": {},
    "rmsnorm-swiglu": {"norm": "rmsnorm", "mlp": "swiglu"},
    "rmsnorm-swiglu-biased": {"norm": "rmsnorm", "mlp": "swiglu", "mlp_bias": True},
    "layernorm-gelu-unbiased": {"mlp_bias": False},
    "untied": {"norm": "rmsnorm", "mlp": "swiglu", "tie_embeddings": False},
}


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def original(request, new_model) -> GPT:
    return new_model(ModelConfig(**SMALL, **request.param))


def test_an_original_file_gives_the_float64_forwards_logits(original, tmp_path, some_ids, float64_logits):
    loaded = load_model(original_file(tmp_path / "original.pt", original))
    ids = some_ids(20)
    expected = float64_logits(original.state_dict(), original.cfg, ids.tolist())
    np.testing.assert_allclose(loaded.model(ids[None])[0].detach().double(), expected, atol=2e-5)
    assert loaded.step == 1000
    assert isinstance(loaded.tokenizer, ByteTokenizer)


def test_what_an_original_file_does_not_say_is_read_off_its_weights(original, tmp_path):
    cfg = load_model(original_file(tmp_path / "original.pt", original)).cfg
    for field in fields(cfg):
        if field.name != "mlp_bias":
            assert getattr(cfg, field.name) == getattr(original.cfg, field.name)
    assert cfg.mlp_has_bias == original.cfg.mlp_has_bias


def test_a_file_that_holds_the_shared_weight_once_loads(new_model, tmp_path, some_ids):
    model = new_model(ModelConfig(**SMALL))
    loaded = load_model(original_file(tmp_path / "once.pt", model, duplicate_head=False))
    assert loaded.model.lm_head.weight is loaded.model.tok_emb.weight
    assert torch.equal(loaded.model(some_ids(1, 9)), model(some_ids(1, 9)))


def test_the_documented_way_to_load_works_on_an_original_file(new_model, tmp_path, some_ids):
    model = new_model(ModelConfig(**SMALL))
    content = load_checkpoint(original_file(tmp_path / "original.pt", model), device="cpu")
    again = GPT(ModelConfig(**content["model_cfg"]))
    again.load_state_dict(content["model_state"])
    assert torch.equal(again.eval()(some_ids(1, 9)), model(some_ids(1, 9)))


def save(path, model, **changes):
    content = {"train_cfg": TrainConfig(), "optimizer": None, "step": 3, "best_val_loss": None}
    save_checkpoint(path, model_cfg=model.cfg, model=model, **(content | changes))
    return path


def test_a_saved_model_comes_back_with_its_tokenizer_template_and_bits(new_model, tmp_path, some_ids):
    bpe = train_bpe(["the cat sat on the mat, the cat sat"], 270)
    model = new_model(ModelConfig(**(SMALL | {"V": bpe.vocab_size}), norm="rmsnorm", mlp="swiglu"))
    loaded = load_model(save(tmp_path / "model.pt", model, tokenizer=bpe))
    assert loaded.cfg == model.cfg
    assert loaded.tokenizer.encode_ids("the cat") == bpe.encode_ids("the cat")
    assert loaded.template.stop_ids == {bpe.special_token_ids()["eot"]}
    assert not loaded.model.training
    assert torch.equal(loaded.model(some_ids(1, 9)), model(some_ids(1, 9)))


def test_half_precision_weights_are_loaded_as_float32(new_model, tmp_path):
    model = new_model(ModelConfig(**SMALL)).half()
    loaded = load_model(save(tmp_path / "half.pt", model))
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}


def test_loading_leaves_the_global_generator_alone(new_model, tmp_path):
    path = save(tmp_path / "model.pt", new_model(ModelConfig(**SMALL)))
    before = torch.get_rng_state()
    load_model(path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "blocks.1.attn.qkv.weight"}, "blocks.1.attn.qkv.weight is missing"),
        (
            {"rename": "blocks.0.attn.proj.weight"},
            r"blocks.0.attn.proj.weight is missing; .*out.weight is unknown",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(new_model, tmp_path, change, message):
    path = original_file(tmp_path / "original.pt", new_model(ModelConfig(**SMALL)), **change)
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


def test_weights_of_other_shapes_are_named_with_both(new_model):
    state = float32_state(new_model(ModelConfig(**SMALL)).state_dict(), "here.pt")
    with pytest.raises(CheckpointError, match=r"fc1.weight is \(40, 24\) instead of \(41, 24\).* and 2 more"):
        fitted_state(ModelConfig(**SMALL | {"d_ff": 41}), state, "here.pt")


@pytest.mark.parametrize("wrong", [{"layers": 4}, {"C": 25}, {"T": "32"}])
def test_a_config_that_cannot_be_is_a_checkpoint_error(new_model, wrong):
    state = float32_state(new_model(ModelConfig(**SMALL)).state_dict(), "here.pt")
    with pytest.raises(CheckpointError, match=next(iter(wrong))):
        complete_config(SMALL | wrong, state, "here.pt")


def test_a_state_of_something_else_is_a_checkpoint_error():
    with pytest.raises(CheckpointError, match="no tensor under a"):
        float32_state({"a": 1}, "here.pt")


def test_a_vocabulary_without_its_tokenizer_takes_ids_alone(new_model, tmp_path):
    path = save(tmp_path / "model.pt", new_model(ModelConfig(**(SMALL | {"V": 300}))))
    tokenizer = load_model(path).tokenizer
    assert tokenizer.decode([7, 299]) == "7 299"
    with pytest.raises(TokenizerError, match="carries no tokenizer, but its model has V=300"):
        tokenizer.encode_ids("a text")


def test_a_file_without_optimizer_and_loss_loads_as_the_original_wrote_it(new_model, tmp_path):
    path = original_file(tmp_path / "original.pt", new_model(ModelConfig(**SMALL)))
    content = torch.load(path, weights_only=True)
    del content["optimizer_state"], content["best_val_loss"]
    content["model_cfg"] |= {"_raw": {"anything": 1}}
    torch.save(content, path)
    assert load_model(path).step == 1000
    assert load_checkpoint(path, device="cpu")["optimizer_state"] is None
    assert load_checkpoint(path, device="cpu")["best_val_loss"] is None


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_the_names_that_wrappers_give_to_weights_are_read(new_model, tmp_path, some_ids, prefix):
    model = new_model(ModelConfig(**SMALL))
    path = original_file(tmp_path / "original.pt", model)
    content = torch.load(path, weights_only=True)
    content["model_state"] = {prefix + name: value for name, value in content["model_state"].items()}
    torch.save(content, path)
    assert torch.equal(load_model(path).model(some_ids(1, 9)), model(some_ids(1, 9)))


@pytest.mark.parametrize("changes", [{"L": 10**9}, {"V": 10**9}, {"T": 10**9}, {"C": 10**8, "H": 2}])
def test_absurd_sizes_are_refused_before_anything_is_allocated(new_model, tmp_path, changes):
    path = original_file(tmp_path / "original.pt", new_model(ModelConfig(**SMALL)))
    content = torch.load(path, weights_only=True)
    content["model_cfg"] |= changes
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"L=1000000000|T is 1000000000|do not fit"):
        load_model(path)


def test_the_fingerprint_of_the_arrays_is_that_of_the_torch_model(original, tmp_path):
    loaded = load_model(original_file(tmp_path / "original.pt", original))
    assert loaded.fingerprint == fingerprint(loaded.model, loaded.cfg, loaded.tokenizer, loaded.template)


def test_a_damaged_tokenizer_is_refused(new_model, tmp_path):
    class Damaged:
        def to_json(self) -> str:
            return "{"

    path = save(tmp_path / "model.pt", new_model(ModelConfig(**SMALL)), tokenizer=Damaged())
    with pytest.raises(CheckpointError, match="tokenizer is damaged"):
        load_model(path)

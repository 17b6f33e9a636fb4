"""The fingerprint changes with whatever decides a reply, part by part, and with nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import pytest
import torch

from niels_gpt.model.config import ModelConfig
from niels_gpt.model.fingerprint import Fingerprint, config_digest, fingerprint, weights_digest
from niels_gpt.text.chat_template import template_for
from niels_gpt.text.tokenizer import ByteTokenizer

CFG = ModelConfig(V=61, T=32, C=24, L=1, H=3, d_ff=8)


@dataclass
class OtherTemplate:
    name: str = "transcript"
    version: int = 2
    stop_ids: frozenset[int] = frozenset()
    stop_sequences: tuple[bytes, ...] = ()
    banned_ids: frozenset[int] = frozenset()


class OtherTokenizer(ByteTokenizer):
    def to_json(self) -> str:
        return "{}"


@pytest.fixture
def whole(new_model) -> Fingerprint:
    return fingerprint(new_model(CFG), CFG, ByteTokenizer(), template_for(ByteTokenizer()))


def changed_parts(one: Fingerprint, two: Fingerprint) -> set[str]:
    parts = ("weights", "config", "tokenizer", "template", "digest")
    return {part for part in parts if getattr(one, part) != getattr(two, part)}


def test_equal_models_have_equal_fingerprints(whole, new_model):
    again = fingerprint(new_model(CFG), CFG, ByteTokenizer(), template_for(ByteTokenizer()))
    assert again == whole
    assert again.digest == whole.digest


def test_each_part_changes_alone_with_the_digest(whole, new_model):
    tokenizer, template = ByteTokenizer(), template_for(ByteTokenizer())
    model = new_model(CFG)
    other_cfg = replace(CFG, rope_theta=500.0)
    assert changed_parts(whole, fingerprint(model, other_cfg, tokenizer, template)) == {"config", "digest"}
    assert changed_parts(whole, fingerprint(model, CFG, OtherTokenizer(), template)) == {
        "tokenizer",
        "digest",
    }
    assert changed_parts(whole, fingerprint(model, CFG, tokenizer, OtherTemplate())) == {"template", "digest"}
    model.ln_f.bias.data[3] += 1e-6
    assert changed_parts(whole, fingerprint(model, CFG, tokenizer, template)) == {"weights", "digest"}


def test_the_weights_digest_is_what_its_description_says():
    linear = torch.nn.Linear(2, 1)
    expected = hashlib.sha256()
    for name, value in (("bias", linear.bias), ("weight", linear.weight)):
        expected.update(f"{name}\0torch.float32\0{tuple(value.shape)}\0".encode())
        expected.update(value.detach().numpy().astype("<f4").tobytes())
    assert weights_digest(linear) == expected.hexdigest()


def test_a_shared_weight_is_counted_once(new_model):
    tied = new_model(CFG)
    untied = new_model(replace(CFG, tie_embeddings=False))
    untied.load_state_dict(tied.state_dict())
    assert weights_digest(tied) != weights_digest(untied)
    head = tied.lm_head.weight
    tied.lm_head.weight = torch.nn.Parameter(torch.zeros(1))
    del tied.lm_head
    assert head is tied.tok_emb.weight
    assert weights_digest(tied) == weights_digest(new_model(CFG))


def test_the_type_of_a_number_counts(new_model):
    assert weights_digest(new_model(CFG)) != weights_digest(new_model(CFG).bfloat16())


def test_dropout_and_spelled_out_defaults_are_the_same_config():
    assert config_digest(CFG) == config_digest(replace(CFG, dropout=0.0, mlp_bias=True))
    assert config_digest(CFG) != config_digest(replace(CFG, mlp_bias=False))


def test_the_environment_says_where_a_reply_was_computed(whole):
    environment = whole.environment(device="cpu")
    assert set(environment) == {"torch", "python", "cpu", "device", "dtype", "threads", "path"}
    assert environment["torch"] == torch.__version__
    assert environment["path"] == "torch"
    assert environment["cpu"].endswith(f"({torch.backends.cpu.get_cpu_capability()})")
    assert set(environment) - set(whole.environment(path="kernels")) == {"torch", "threads"}

"""What transformers makes of an exported folder, and what is made of one that transformers wrote."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from niels_gpt.generation.reference import generate_ids_greedy_cached
from niels_gpt.model.hf.export import export
from niels_gpt.model.hf.load import load_folder
from niels_gpt.model.hf.text import byte_pieces
from niels_gpt.model.loading import load_model
from niels_gpt.rng import set_seed
from niels_gpt.text.bpe import BPETokenizer

from .conftest import MakeCheckpoint
from .test_forms import LLAMA, NEOX

with warnings.catch_warnings():  # of its own dependencies, at import
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

NEW_TOKENS = 200


@pytest.mark.parametrize(
    "changes",
    [NEOX, LLAMA, NEOX | {"tie_embeddings": False, "mlp_bias": False}, LLAMA | {"tie_embeddings": False}],
    ids=["neox", "llama", "neox untied", "llama untied"],
)
def test_an_exported_model_has_the_same_logits_and_the_same_greedy_text(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, changes: dict[str, Any]
) -> None:
    source = make_checkpoint(**changes)
    export(source, tmp_path / "folder")
    ours = load_model(source).model
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "folder").eval()
    prompt = list(b"user: what is a kv-cache?\nassistant: ")
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).logits, ours(ids), rtol=0, atol=1e-4)
        settings = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "pad_token_id": 0}
        text = theirs.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0].tolist()
    assert text == generate_ids_greedy_cached(ours, prompt, max_new_tokens=NEW_TOKENS, eot_token_id=-1)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_the_exported_chat_template_renders_the_template(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, bpe: BPETokenizer, kind: str
) -> None:
    source = make_checkpoint(bpe if kind == "bpe" else None, **LLAMA)
    export(source, tmp_path / "folder")
    template = load_model(source).template
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    said = [
        {"role": "system", "content": "be brief; ¿qué?"},
        {"role": "user", "content": "what is a kv-cache?\nuser: no 12 'tags'\n assistant: "},
        {"role": "assistant", "content": "it keeps\n\nkeys"},
        {"role": "user", "content": ""},
    ]
    for messages in (said, said[:1], [*said, {"role": "assistant", "content": ""}]):
        ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids == template.prompt_ids(messages)
    with pytest.raises(Exception, match="unknown role tool"):
        theirs.apply_chat_template([{"role": "tool", "content": ""}])


def test_a_model_that_transformers_wrote_gives_its_logits_here(tmp_path: Path) -> None:
    """A Llama with shared keys and values, and a vocabulary filled up to a round number."""
    set_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "folder")
    (tmp_path / "folder" / "tokenizer.json").write_text(byte_pieces(), encoding="utf-8")
    said: list[str] = []
    load_folder(tmp_path / "folder", tmp_path / "back.pt", note=said.append)
    ours = load_model(tmp_path / "back.pt").model
    ids = torch.arange(60)[None]
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids), theirs(ids).logits[..., :256], rtol=0, atol=1e-4)
    assert ["2 heads of keys" in said[0], "64 of 320 ids" in said[1]] == [True, True]


def test_a_neox_with_biases_in_its_attention_is_refused_by_name(tmp_path: Path) -> None:
    set_seed(1)
    config = transformers.GPTNeoXConfig(
        vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, use_parallel_residual=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
    )  # fmt: skip
    theirs = transformers.GPTNeoXForCausalLM(config).eval()
    (tmp_path / "folder").mkdir()
    theirs.save_pretrained(tmp_path / "folder")
    (tmp_path / "folder" / "tokenizer.json").write_text(byte_pieces(), encoding="utf-8")
    load_folder(tmp_path / "folder", tmp_path / "back.pt")  # its biases are still 0
    torch.nn.init.ones_(theirs.gpt_neox.layers[0].attention.dense.bias)
    theirs.save_pretrained(tmp_path / "folder")
    with pytest.raises(ValueError, match=r"attention\.dense\.bias' is not zero"):
        load_folder(tmp_path / "folder", tmp_path / "back.pt")

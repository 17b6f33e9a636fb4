"""An exported folder in transformers: the same logits, the same text, the same prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from niels_gpt.generation.reference import generate_ids_greedy_cached
from niels_gpt.model.hf.export import export
from niels_gpt.model.loading import load_model
from niels_gpt.text.bpe import BPETokenizer

from .conftest import MakeCheckpoint
from .test_export import LLAMA, NEOX

NEW_TOKENS = 60


@pytest.mark.parametrize(
    "changes",
    [NEOX, LLAMA, NEOX | {"tie_embeddings": False, "mlp_bias": False}, LLAMA | {"tie_embeddings": False}],
    ids=["neox", "llama", "neox untied", "llama untied"],
)
def test_an_exported_model_has_the_same_logits_and_the_same_greedy_text(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, transformers: Any, changes: dict[str, Any]
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
    make_checkpoint: MakeCheckpoint, tmp_path: Path, transformers: Any, bpe: BPETokenizer, kind: str
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

"""What int8 weights cost in quality: loss on held-out dialogues, and greedy replies that change.

    python -m bench.int8_quality [--ckpt PATH] [--recipe configs/primer.json] [--dialogues 250]

The loss is nats a reply token over dialogues that the recipe's training run holds out, every logit from the
kernels. Beside it stands what finer scales would give, one for every 64 or 32 weights of a column, by the
torch model over such weights. Then the kernels answer the development questions in both forms.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.kernels import WeightForm
from niels_gpt.kernels.gpt import forward
from niels_gpt.kernels.gpt_layout import Rows
from niels_gpt.kernels.gpt_packing import PackedModel, StepMemory, new_state, pack_gpt
from niels_gpt.kernels.processor import aligned
from niels_gpt.model.gpt import GPT
from niels_gpt.model.int8 import quantised
from niels_gpt.model.loading import LoadedModel, load_model
from niels_gpt.paths import CONFIG_DIR, REPO_ROOT, SHIPPED_CHECKPOINT
from niels_gpt.sampling import Sampling
from niels_gpt.train.config import DialogueConfig, load_run_config
from niels_gpt.train.dialogue_data import Example, encode_dialogue
from niels_gpt.train.dialogues import read_dialogues, split_dialogues
from niels_gpt.train.held_out import EvalItem, is_right, load_heldout, with_system

FORMS: tuple[WeightForm, ...] = ("float32", "int8")
GROUPS = (64, 32)
Logits = Callable[[Sequence[int]], np.ndarray]  # ids (t,) to logits (t, V) float32


def held_out(recipe_path: Path, loaded: LoadedModel, count: int) -> list[Example]:
    """The first `count` dialogues that a run of the recipe never learns from, as ids."""
    recipe = load_run_config(recipe_path)
    assert isinstance(recipe.data, DialogueConfig)  # noqa: S101 - the recipe of a model of dialogues
    dialogues = read_dialogues([REPO_ROOT / path for path in recipe.data.dialogues])
    _, rest = split_dialogues(dialogues, val_frac=recipe.data.val_frac, seed=recipe.train.seed)
    examples = [encode_dialogue(dialogue, loaded.template, T=loaded.cfg.T) for dialogue in rest[:count]]
    return [example for example in examples if example is not None]


def kernel_logits(model: PackedModel) -> Logits:
    """A dialogue in one pass through the kernels."""
    memory = StepMemory(model.shape, rows=model.T, room=model.T, parts=1)
    state, room = new_state(model.shape, model.T)

    def logits(ids: Sequence[int]) -> np.ndarray:
        t, width = len(ids), model.shape.head_row
        out = aligned(t * width).reshape(t, width)
        places = np.arange(t)
        rows = Rows(np.array(ids, np.int64), places, np.full(t, state.ctypes.data), np.full(t, room))
        forward(model.shape, model.weights, memory.work, rows, places, out.ctypes.data, 0, 1)
        return out[:, : model.shape.V]

    return logits


def torch_logits(model: GPT) -> Logits:
    """The same from torch."""

    def logits(ids: Sequence[int]) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.tensor([ids]))[0].numpy()

    return logits


def grouped(model: GPT, size: int) -> GPT:
    """The model with linear weights quantised by a scale for every `size` of a column."""
    model = copy.deepcopy(model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())  # the embedding stays
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            weight = layer.weight.detach().numpy()
            N, K = weight.shape
            groups = np.pad(weight, ((0, 0), (0, -K % size))).reshape(-1, size)
            integers, scales = quantised(groups)
            layer.weight.data = torch.from_numpy((integers * scales[:, None]).reshape(N, -1)[:, :K].copy())
    return model


def loss(logits: Logits, examples: Sequence[Example]) -> float:
    """Nats a reply token."""
    total, count = 0.0, 0
    for example in examples:
        rows = torch.from_numpy(logits(example.ids[:-1].tolist())).double()
        learned = torch.from_numpy(example.learned[1:])
        targets = torch.from_numpy(example.ids[1:]).long()
        total += float(torch.nn.functional.cross_entropy(rows[learned], targets[learned], reduction="sum"))
        count += int(learned.sum())
    return total / count


def replies(loaded: LoadedModel, form: WeightForm, items: Sequence[EvalItem]) -> list[str]:
    """The greedy reply to each conversation."""
    decoder = KernelDecoder(pack_gpt(loaded.gpt, form), loaded.tokenizer)
    template, texts = loaded.template, []
    for item in items:
        request = GenerationRequest(
            prompt_ids=tuple(template.prompt_ids(with_system(item.messages))), max_new_tokens=160, seed=0,
            sampling=Sampling(temperature=0.0), stop_ids=template.stop_ids,
            stop_sequences=template.stop_sequences, banned_ids=template.banned_ids,
        )  # fmt: skip
        sequence, text, finish = decoder.admit(request), "", None
        while finish is None:
            step = decoder.advance([sequence])[0]
            if step.error is not None:
                raise step.error
            text += "".join(delta for _, delta in step.tokens)
            finish = step.finish
        decoder.release(sequence)
        texts.append(text)
    return texts


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(prog="bench.int8_quality", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ckpt", type=Path, default=SHIPPED_CHECKPOINT)
    parser.add_argument("--recipe", type=Path, default=CONFIG_DIR / "primer.json")
    parser.add_argument("--dialogues", type=int, default=250)
    parser.add_argument("--questions", type=Path, default=REPO_ROOT / "data" / "dev.jsonl")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    loaded = load_model(options.ckpt)
    examples = held_out(options.recipe, loaded, options.dialogues)
    print(f"nats a reply token, {len(examples)} held-out dialogues, {sum(map(_learned, examples))} tokens:")
    for form in FORMS:
        model = pack_gpt(loaded.gpt, form)
        print(f"  {form:<28} {loss(kernel_logits(model), examples):.5f}   {model.nbytes / 2**20:.1f} MiB")
    for size in GROUPS:
        found = loss(torch_logits(grouped(loaded.gpt, size)), examples)
        print(f"  {f'int8, {size} weights a scale':<28} {found:.5f}   (torch)")
    items = load_heldout(options.questions)
    answers = {form: replies(loaded, form, items) for form in FORMS}
    same = sum(one == other for one, other in zip(*answers.values(), strict=True))
    print(f"greedy replies to {options.questions.name}: {same} of {len(items)} the same")
    for form, texts in answers.items():
        right = sum(is_right(item, text) for item, text in zip(items, texts, strict=True))
        print(f"  {form:<28} {right} right")
    return 0


def _learned(example: Example) -> int:
    return int(example.learned[1:].sum())


if __name__ == "__main__":
    sys.exit(main())

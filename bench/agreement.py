"""How far the kernels are from torch: logits from float64, greedy tokens from the torch model's own choice.

    python -m bench.agreement [--ckpt PATH] [--tokens 10000]

Replies are drawn greedily by the kernels, after random prompts. The torch model then reads each reply in one
float64 and one float32 pass. A token that float32 torch would not have chosen is listed with the lead of
torch's choice: a near tie, if that lead is below what rounding can move. Exit code 1 if a logit is further
than 1e-4 from float64, or if a token differs that is not a near tie.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from niels_gpt.decoding.kernel_decoder import KernelDecoder
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.kernels.gpt_packing import pack_gpt
from niels_gpt.model.gpt import GPT
from niels_gpt.model.loading import load_model
from niels_gpt.paths import SHIPPED_CHECKPOINT
from niels_gpt.sampling import Sampling

FARTHEST = 1e-4
NEAR_TIE = 1e-4


def reply(decoder: KernelDecoder, prompt: tuple[int, ...], tokens: int) -> tuple[list[int], list[np.ndarray]]:
    """The ids of a greedy reply to its full length, and the logits that each was drawn from."""
    request = GenerationRequest(
        prompt_ids=prompt, max_new_tokens=tokens, sampling=Sampling(temperature=0.0), seed=0,
        stop_ids=frozenset(), stop_sequences=(), banned_ids=frozenset(),
    )  # fmt: skip
    sequence, rows = decoder.admit(request), []
    sequence.reply.watch = lambda row: rows.append(row.copy())
    finish = None
    while finish is None:
        step = decoder.advance([sequence])[0]
        if step.error is not None:
            raise step.error
        finish = step.finish
    decoder.release(sequence)
    return sequence.reply.ids, rows


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print; 0 if all is as claimed."""
    parser = argparse.ArgumentParser(prog="bench.agreement", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ckpt", type=Path, default=SHIPPED_CHECKPOINT)
    parser.add_argument("--tokens", type=int, default=10_000)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    loaded = load_model(options.ckpt)
    exact = copy.deepcopy(loaded.gpt).double()
    decoder = KernelDecoder(pack_gpt(loaded.gpt), loaded.tokenizer)
    chance, done, farthest, torch_farthest, ties, wrong = random.Random(1), 0, 0.0, 0.0, 0, 0
    while done < options.tokens:
        prompt = tuple(chance.randrange(loaded.cfg.V) for _ in range(chance.randint(1, 60)))
        ids, rows = reply(decoder, prompt, min(200, loaded.cfg.T - len(prompt)))
        with torch.inference_mode():
            window = torch.tensor([ids[:-1]])
            expected = _logits(exact, window)[len(prompt) - 1 :]
            single = loaded.gpt(window)[0, len(prompt) - 1 :]
        farthest = max(farthest, float((torch.from_numpy(np.stack(rows)).double() - expected).abs().max()))
        torch_farthest = max(torch_farthest, float((single.double() - expected).abs().max()))
        for i, token_id in enumerate(ids[len(prompt) :]):
            lead = float(single[i].max() - single[i, token_id])
            if lead > 0:
                near = lead < NEAR_TIE
                ties, wrong = ties + near, wrong + (not near)
                print(f"  token {done + i}: torch leads by {lead:.2e}: {'near tie' if near else 'WRONG'}")
        done += len(rows)
    print(f"{done} greedy tokens: {ties} near ties, {wrong} other differences")
    print(f"logits: kernels within {farthest:.1e} of float64, torch float32 within {torch_farthest:.1e}")
    return int(wrong > 0 or farthest > FARTHEST)


def _logits(model: GPT, ids: torch.Tensor) -> torch.Tensor:
    """The logits (t, V) of a model in its own precision; `GPT.head` would round them to float32."""
    h = model.embed(ids)
    for block in model.layers():
        h = block(h)
    return model.lm_head(model.ln_f(h))[0]


if __name__ == "__main__":
    sys.exit(main())

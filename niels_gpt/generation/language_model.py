"""Generate text with a model: the one Python API above the torch modules.

`LanguageModel` puts a model and its tokenizer together; the methods of the models themselves
(`model.generate(...)`, the names that users of the original project call) delegate to it.

B prompts, t tokens at hand, n = B * num_return_sequences rows, m new tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from niels_gpt.generation.batched_decoder import SteppableModel
from niels_gpt.generation.beam import beam_search
from niels_gpt.generation.options import GenerationOptions, make_options
from niels_gpt.generation.sampled import row_seeds, sampled_steps
from niels_gpt.model.mode import eval_mode
from niels_gpt.text.detokenizer import Detokenizer
from niels_gpt.text.tokenizer import ByteTokenizer, Tokenizer


class LanguageModel:
    """A model with its tokenizer, as an object that continues ids and texts.

    It runs the model in evaluation mode, whatever mode it is in, and without gradients. All methods take the
    keywords of `generate` and these: min_p, typical_p, frequency_penalty, presence_penalty, banned_token_ids,
    num_beams (beam search; nothing is sampled), length_penalty, and `generator`, from which each row gets a
    seed of its own (default: torch's global generator). A prompt that outgrows the context continues from its
    last tokens. Settings out of range raise ValueError.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer | None = None) -> None:
        """Take a model that satisfies `batched_decoder.Stepping`; `tokenizer` None reads and writes bytes."""
        self.model = model
        self.tokenizer = tokenizer

    def generate(  # noqa: PLR0917 - the documented signature
        self,
        idx: Tensor,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        num_return_sequences: int = 1,
        do_sample: bool = True,  # noqa: FBT001, FBT002 - it says so
        stream: bool = False,  # noqa: FBT001, FBT002 - the same
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        *,
        generator: torch.Generator | None = None,
        **more: Any,
    ) -> Tensor | Iterator[Tensor]:
        """Continue ids (B, t) int64; returns (n, t + m) on their device, prompts included.

        The sequences of one prompt stand together. A row ends with `eos_token_id` and is filled up with
        `pad_token_id` (by default the end token, or 0); m is what the longest row needs. With `stream`, an
        iterator over the new ids (n,) of each step instead, with the pad id where a row has ended.
        """
        if idx.dim() != 2:
            raise ValueError(f"idx has shape {tuple(idx.shape)}, expected ids (B, t)")
        options = make_options(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            num_return_sequences=num_return_sequences,
            do_sample=do_sample,
            eos_token_id=eos_token_id,
            **more,
        )
        pad = next((i for i in (pad_token_id, eos_token_id) if i is not None), 0)
        prompts = cast("list[list[int]]", idx.tolist())
        if stream:
            return self._stream_ids(prompts, options, generator, pad, idx.device)
        replies = self._replies(prompts, options, generator)
        longest = max(map(len, replies), default=0)
        new = torch.tensor(
            [[*reply, *[pad] * (longest - len(reply))] for reply in replies],
            dtype=torch.int64,
            device=idx.device,
        )
        return torch.cat([idx.repeat_interleave(options.num_return_sequences, dim=0), new], dim=1)

    def generate_text(self, prompt: str, max_new_tokens: int = 100, **kwargs: Any) -> str:
        """Continue a text; returns prompt and continuation, without `stop_sequences` and what follows."""
        if kwargs.get("num_return_sequences", 1) != 1:
            raise ValueError("generate_text returns one text; use generate_batch for several of one prompt")
        return self.generate_batch([prompt], max_new_tokens, **kwargs)[0]

    def generate_batch(self, prompts: list[str], max_new_tokens: int = 100, **kwargs: Any) -> list[str]:
        """Continue texts of any lengths together; returns prompts and continuations, in order.

        The `num_return_sequences` texts of one prompt stand together.
        """
        generator, options = (
            kwargs.pop("generator", None),
            make_options(max_new_tokens=max_new_tokens, **kwargs),
        )
        if not prompts:
            return []
        tokenizer = self._tokenizer()
        replies = self._replies([tokenizer.encode_ids(prompt) for prompt in prompts], options, generator)
        each = options.num_return_sequences
        texts = []
        for number, reply in enumerate(replies):
            text = Detokenizer(tokenizer.token_bytes, options.stop_sequences)
            new = [*map(text.push, reply), text.finish()]
            texts.append(prompts[number // each] + "".join(new))
        return texts

    def generate_stream(self, prompt: str, max_new_tokens: int = 100, **kwargs: Any) -> Iterator[str]:
        """Yield the prompt and then the continuation as it comes, whole characters only."""
        generator, options = (
            kwargs.pop("generator", None),
            make_options(max_new_tokens=max_new_tokens, **kwargs),
        )
        if options.num_beams > 1 or options.num_return_sequences > 1:
            raise ValueError("a stream has one continuation and no beams: leave both numbers at 1")
        tokenizer = self._tokenizer()
        ids = tokenizer.encode_ids(prompt)
        text = Detokenizer(tokenizer.token_bytes, options.stop_sequences)
        seeds = row_seeds(1, generator)

        def pieces() -> Iterator[str]:
            yield prompt
            for step in self._steps([ids], options, seeds):
                piece = text.push(step[0])
                if piece:
                    yield piece
            rest = text.finish()
            if rest:
                yield rest

        return pieces()

    def _tokenizer(self) -> Tokenizer:
        tokenizer = self.tokenizer or ByteTokenizer()
        if tokenizer.vocab_size != self.model.cfg.V:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} ids, expected the model's "
                f"V={self.model.cfg.V}: set model.tokenizer"
            )
        return tokenizer

    def _replies(
        self, prompts: Sequence[Sequence[int]], options: GenerationOptions, generator: torch.Generator | None
    ) -> list[list[int]]:
        """Return the new ids of each row, the end token included."""
        each = options.num_return_sequences
        if options.num_beams > 1 and options.max_new_tokens:
            with eval_mode(self.model):
                found = beam_search(cast("SteppableModel", self.model), prompts, options)
            return [list(beam.new_ids) for beams in found for beam in beams]
        rows = [prompt for prompt in prompts for _ in range(each)]
        replies: list[list[int]] = [[] for _ in rows]
        for step in self._steps(rows, options, row_seeds(len(rows), generator)):
            for number, token_id in step.items():
                replies[number].append(token_id)
        return replies

    def _steps(
        self, rows: Sequence[Sequence[int]], options: GenerationOptions, seeds: Sequence[int]
    ) -> Iterator[dict[int, int]]:
        token_bytes = self._tokenizer().token_bytes if options.stop_sequences else None
        steps = sampled_steps(
            cast("SteppableModel", self.model), rows, options, seeds=seeds, token_bytes=token_bytes
        )  # fmt: skip
        while True:
            with eval_mode(self.model):  # and not across the yield: a reader may train in between
                step = next(steps, None)
            if step is None:
                return
            yield step

    def _stream_ids(
        self,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        generator: torch.Generator | None,
        pad: int,
        device: torch.device,
    ) -> Iterator[Tensor]:
        if options.num_beams > 1:
            raise ValueError("a stream has no beams: leave num_beams at 1")
        rows = [prompt for prompt in prompts for _ in range(options.num_return_sequences)]
        steps = self._steps(rows, options, row_seeds(len(rows), generator))
        return (
            torch.tensor([step.get(number, pad) for number in range(len(rows))], device=device)
            for step in steps
        )

"""Every way to generate with a model from Python: `python examples/generation_api.py [CHECKPOINT]`.

CHECKPOINT is a directory of save_pretrained or a checkpoint file; without it, the shipped model.
"""

import sys
import tempfile

import torch

from niels_gpt.generation.functions import generate_from_text, generate_text, sample_next_token
from niels_gpt.model.loading import from_pretrained
from niels_gpt.paths import SHIPPED_CHECKPOINT


def main(path: str) -> None:
    """Call everything once."""
    # A model of any architecture; BDH.from_pretrained and GPT.from_pretrained take one of their own alone.
    model = from_pretrained(path)

    # Simple generation: the prompt and its continuation.
    print(model.generate_text("To be or not to be", max_new_tokens=50))

    # With settings of its own.
    text = model.generate_text(
        "Once upon a time",
        max_new_tokens=100,
        temperature=0.9,
        top_k=40,
        top_p=0.95,
        repetition_penalty=1.1,
    )
    print(text)

    # Many prompts of different lengths, computed together.
    prompts = ["Hello", "The meaning of life", "In the beginning"]
    for prompt, text in zip(
        prompts, model.generate_batch(prompts, max_new_tokens=50, temperature=0.8), strict=True
    ):
        print(f"{prompt} -> {text}")

    # As it comes.
    for piece in model.generate_stream("The future of AI", max_new_tokens=100):
        print(piece, end="", flush=True)
    print()

    # Reproducible: the same seed, the same text, twice.
    for _ in range(2):
        print(model.generate_text("Twice", max_new_tokens=20, generator=torch.Generator().manual_seed(42)))

    # The likeliest tokens; the best of six beams; an end at a word.
    print(model.generate_text("One and one is", max_new_tokens=20, do_sample=False))
    print(model.generate_text("One and one is", max_new_tokens=20, num_beams=6, length_penalty=0.8))
    print(model.generate_text("A, b, c", max_new_tokens=50, stop_sequences=["\n", "user:"]))

    # Token ids: three samples of one prompt, each to its own end.
    ids = torch.tensor([[72, 105]])
    samples = model.generate(ids, max_new_tokens=20, num_return_sequences=3, min_p=0.05, eos_token_id=10)
    print(samples)
    for step in model.generate(ids, max_new_tokens=3, stream=True):
        print(step.tolist())

    # The same as plain functions over a batch of ids.
    generated = generate_text(model, ids, max_new_tokens=20, temperature=0.8, top_p=0.9)
    print(generated[0, ids.shape[1] :].tolist())
    print(sample_next_token(torch.tensor([[1.0, 2.0, 3.0]]), temperature=0.5, top_p=0.9))
    if model.tokenizer is not None:
        print(generate_from_text(model, model.tokenizer, "Text in, text out", max_new_tokens=20))

    # Kept in a directory that other programs can read, and loaded again.
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        same = type(model).from_pretrained(directory, device="cpu")
        print(same.generate_text("From a directory", max_new_tokens=20))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(SHIPPED_CHECKPOINT))

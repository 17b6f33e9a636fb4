"""The engine over the shipped checkpoint: three questions at once, each answer as it is done."""

import anyio

from engine import Engine
from niels_gpt.decoding.backend import open_backend
from niels_gpt.decoding.request import GenerationRequest
from niels_gpt.model.loading import load_model
from niels_gpt.paths import SHIPPED_CHECKPOINT
from niels_gpt.sampling import Sampling

QUESTIONS = ("who are you?", "what is attention?", "how do i undo my last message?")


async def main() -> None:
    """Ask all of them; they are decoded together."""
    loaded = load_model(SHIPPED_CHECKPOINT)
    template = loaded.template
    backend = open_backend(loaded)
    async with Engine(backend.decoder) as engine:
        jobs = [
            engine.submit(
                GenerationRequest(
                    prompt_ids=tuple(template.prompt_ids([{"role": "user", "content": question}])),
                    max_new_tokens=60,
                    sampling=Sampling(temperature=0.0),
                    seed=0,
                    stop_ids=template.stop_ids,
                    stop_sequences=template.stop_sequences,
                    banned_ids=template.banned_ids,
                )
            )
            for question in QUESTIONS
        ]
        for question, job in zip(QUESTIONS, jobs, strict=True):
            print(f"{question}\n  {(await job.result()).text}")
    backend.close()


anyio.run(main)

"""`niels-generate`: flags in, continuations on standard output or in a file, an exit status out.

The statuses are the chat's (niels_gpt.cli.exit_codes). Errors are one line on standard error.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from niels_gpt.cli.exit_codes import OK, USAGE, run_to_status
from niels_gpt.cli.generate.options import PROGRAM, GenerateOptions, parse_options
from niels_gpt.cli.generate.progress import Progress
from niels_gpt.cli.generate.prompts import Completion, Prompt, checked, encoded, read_lines
from niels_gpt.program import report

if TYPE_CHECKING:
    from niels_gpt.cli.generate.model import OpenModel
    from niels_gpt.cli.generate.replies import Plan


def run(argv: Sequence[str], *, chat: Callable[[list[str]], int]) -> int:
    """Run the command and return its status.

    Args:
        argv: The arguments, without the program's name.
        chat: Runs the chat with arguments and returns its status; `--interactive` calls it.

    """

    def work() -> int:
        options = parse_options(argv)
        return chat(_chat_arguments(options)) if options.interactive else _generate(options)

    return run_to_status(PROGRAM, work)


def _chat_arguments(options: GenerateOptions) -> list[str]:
    flags = ["--ckpt", str(options.model), "--device", options.device, "--seed", str(options.seed)]
    for name in (
        "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "frequency_penalty",
        "presence_penalty", "max_new_tokens", "threads",
    ):  # fmt: skip
        value = getattr(options, name)
        if value is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def _generate(options: GenerateOptions) -> int:
    from niels_gpt.cli.generate.model import make_plan, opened  # noqa: PLC0415 - torch, after the flags are read

    try:
        plan = make_plan(options)
    except ValueError as error:
        report(PROGRAM, str(error))
        return USAGE
    texts = None if options.prompts is None else read_lines(options.prompts)
    with opened(options) as model:
        prompts = _prompts(options, texts, model)
        plan = model.complete(plan)
        if options.stream:
            show = _shower()
            show(prompts[0].text or "")
            asyncio.run(model.stream(prompts[0], plan, show))
            sys.stdout.write("\n")
        elif options.output is None:
            _to_stdout(options, model, prompts, plan)
        else:
            _to_file(options, model, prompts, plan)
    return OK


def _prompts(options: GenerateOptions, texts: list[str] | None, model: OpenModel) -> Sequence[Prompt]:
    if options.prompt_tokens is not None:
        prompts = [Prompt(index=0, text=None, ids=options.prompt_tokens)]
    else:
        prompts = encoded([options.prompt or ""] if texts is None else texts, model.tokenizer)
    room = min(1, options.max_new_tokens)
    return checked(prompts, V=model.tokenizer.vocab_size, context=model.context, room=room)


def _to_stdout(options: GenerateOptions, model: OpenModel, prompts: Sequence[Prompt], plan: Plan) -> None:
    show = _shower()
    progress = _progress(options, prompts, done=0)

    def take(replies: Sequence[Completion]) -> None:
        if replies[0].prompt.index and options.format == "text":
            show("\n")
        show(formatted(options, replies))
        if not sys.stdout.isatty():  # where it is, the bar would run through the texts
            progress.add(replies=len(replies), tokens=_tokens(replies))

    asyncio.run(model.replies(prompts, plan, take))
    if len(prompts) > 1 and not sys.stdout.isatty():
        progress.finish()


def _progress(options: GenerateOptions, prompts: Sequence[Prompt], *, done: int) -> Progress:
    each = options.num_return_sequences
    return Progress(len(prompts) * each, sys.stderr, done=done * each)


def _tokens(replies: Sequence[Completion]) -> int:
    return sum(len(reply.ids) for reply in replies)


def _to_file(options: GenerateOptions, model: OpenModel, prompts: Sequence[Prompt], plan: Plan) -> None:
    from niels_gpt.cli.generate.journal import Journal  # noqa: PLC0415 - only where there is a file

    job = hashlib.sha256()
    for part in (model.fingerprint, plan, options.format, options.num_beams, options.length_penalty):
        job.update(f"{part!r}\0".encode())
    for prompt in prompts:
        job.update(f"{prompt.ids!r}\0".encode())
    assert options.output is not None  # noqa: S101 - the caller looked
    with Journal(options.output, job=job.hexdigest()) as journal:
        progress = _progress(options, prompts, done=journal.done)

        def take(replies: Sequence[Completion]) -> None:
            separator = "\n" if journal.done and options.format == "text" else ""
            journal.add(separator + formatted(options, replies))
            progress.add(replies=len(replies), tokens=_tokens(replies))

        try:
            asyncio.run(model.replies(prompts[journal.done :], plan, take))
        except KeyboardInterrupt:
            done = f"{journal.done} of {len(prompts)} prompts are done; the same command goes on"
            report(PROGRAM, f"interrupted: {done}")
            raise
        progress.finish()


def formatted(options: GenerateOptions, replies: Sequence[Completion]) -> str:
    """Return the samples of one prompt as text or as JSON lines."""
    if options.format == "jsonl":
        return "".join(_line(reply) + "\n" for reply in replies)
    if options.prompt is not None:
        return "\n".join(f"{reply.prompt.text}{reply.text}\n" for reply in replies)
    if options.prompt_tokens is not None:
        return "".join(f"Generated tokens: {list(reply.ids)}\n" for reply in replies)
    return "\n".join(
        f"Prompt: {reply.prompt.text}\nGenerated: {reply.prompt.text}{reply.text}\n" for reply in replies
    )


def _line(reply: Completion) -> str:
    record = {
        "prompt_index": reply.prompt.index,
        "sample": reply.sample,
        "prompt": reply.prompt.text,
        "prompt_ids": list(reply.prompt.ids),
        "text": reply.text,
        "token_ids": list(reply.ids),
        "finish": reply.finish,
        "seed": reply.seed,
    }
    return json.dumps(record, ensure_ascii=False)


def _shower() -> Callable[[str], None]:
    """Return what writes to standard output: as it is into a file or a pipe, harmless to a terminal."""
    from niels_gpt.text.control_characters import Harmless  # noqa: PLC0415 - with the rest of what shows

    plain, filtered = not sys.stdout.isatty(), Harmless()

    def show(text: str) -> None:
        sys.stdout.write(text if plain else filtered.feed(text))
        sys.stdout.flush()

    return show

"""Run `niels-generate`: flags in, completions on standard output or in a file, an exit status out.

The statuses are the chat's (niels_gpt.cli.exit_codes). Errors are one line on standard error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from niels_gpt.cli.exit_codes import OK, USAGE, run_to_status
from niels_gpt.cli.generate.input_file import InputFile, Line, open_input
from niels_gpt.cli.generate.openai_batch import response_line
from niels_gpt.cli.generate.options import PROGRAM, GenerateOptions, parse_options
from niels_gpt.cli.generate.prompts import Completion, Prompt, PromptEncoder, PromptError
from niels_gpt.cli.jobs.journal import Journal, Place
from niels_gpt.cli.jobs.progress import Progress
from niels_gpt.cli.jobs.ray_tasks import run_shards
from niels_gpt.cli.jobs.shards import merge, part_of
from niels_gpt.program import report

if TYPE_CHECKING:
    from niels_gpt.cli.generate.model import OpenModel
    from niels_gpt.cli.generate.plan import Plan


def run(argv: Sequence[str], *, chat: Callable[[list[str]], int]) -> int:
    """Run the command and return its status.

    Args:
        argv: The arguments, without the program's name.
        chat: Runs the chat with arguments and returns its status; `--interactive` calls it.

    """

    def work() -> int:
        options = parse_options(argv)
        if options.interactive:
            _welcome(options)
            return chat(_chat_arguments(options))
        if options.ray is not None:
            assert options.output is not None  # noqa: S101 - the parser requires it
            run_shards(PROGRAM, _without_ray(argv), options.output, address=options.ray)
        if options.merge or options.ray is not None:
            return _merge(options)
        return _generate(options)

    return run_to_status(PROGRAM, work)


def _without_ray(argv: Sequence[str]) -> list[str]:
    """Return the arguments of a run without `--ray` and its address."""
    found: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--ray":
            following = next(words, None)
            found += [following] if following is not None and following.startswith("-") else []
        elif not word.startswith("--ray="):
            found.append(word)
    return found


def _chat_arguments(options: GenerateOptions) -> list[str]:
    flags = ["--ckpt", str(options.model), "--device", options.device, "--seed", str(options.seed)]
    for name in (
        "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "frequency_penalty",
        "presence_penalty", "max_new_tokens", "threads", "weights",
    ):  # fmt: skip
        value = getattr(options, name)
        if value is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
        elif name == "top_k":
            flags += ["--top-k", "none"]
    return flags


def _welcome(options: GenerateOptions) -> None:
    assert options.model is not None  # noqa: S101 - the parser requires it
    files = sorted(options.model.glob("*")) if options.model.is_dir() else [options.model]
    size = sum(file.stat().st_size for file in files if file.is_file())
    if size:
        print(
            f"Welcome to niels-generate. The model is {options.model} ({size / 1e6:.1f} MB). "
            "/help shows the commands, /quit ends.",
            file=sys.stderr,
            flush=True,
        )


def _merge(options: GenerateOptions) -> int:
    assert options.output is not None  # noqa: S101 - the parser requires it
    count = merge(options.output, force=options.force)
    print(f"Saved to {options.output}: {count} shards", file=sys.stderr)
    return OK


def _generate(options: GenerateOptions) -> int:
    from niels_gpt.cli.generate.model import make_plan, opened  # noqa: PLC0415 - after the flags are read

    try:
        plan = make_plan(options)
    except ValueError as error:
        report(PROGRAM, str(error))
        return USAGE
    source = None if options.prompts is None else _input_of(options.prompts, options)
    with opened(options) as model:
        plan = model.complete(plan)
        if source is None:
            prompts = _Prompts(model.encoder, options, prompt=_single_prompt(options, model.encoder))
        else:
            prompts = _Prompts(model.encoder, options, source=source)
        if options.stream:
            _stream(model, prompts, plan)
        elif options.output is None:
            _to_stdout(options, model, prompts, plan)
        else:
            _to_file(options, model, prompts, plan)
    return OK


def _input_of(path: Path, options: GenerateOptions) -> InputFile:
    source = open_input(path)
    if next(source.lines(), None) is None:
        raise PromptError(f"--prompts {str(path)!r} has no prompt: expected one a line")
    return source if options.shard is None else source.shard(*options.shard)


def _single_prompt(options: GenerateOptions, encoder: PromptEncoder) -> Prompt:
    if options.prompt_tokens is not None:
        return encoder.of_ids(options.prompt_tokens)
    return encoder.of_text(options.prompt or "")


class _Prompts:
    """The prompts of a run: one from the command line, or the lines of a file."""

    def __init__(
        self,
        encoder: PromptEncoder,
        options: GenerateOptions,
        *,
        prompt: Prompt | None = None,
        source: InputFile | None = None,
    ) -> None:
        self.prompt, self.source = prompt, source
        self._encoder = encoder
        self._as_json = options.input_format == "jsonl"

    def count_checked(self) -> int:
        """Return the number of prompts; PromptError for the first that cannot be continued.

        A line of text with fewer bytes than the context has tokens fits, and is not encoded for this.
        """
        if self.source is None:
            return 1
        overhead = len(self._encoder.of_text("a").ids) if self._encoder.answers else 0
        fits = self._encoder.context - self._encoder.room - overhead
        count = 0
        for line in self.source.lines():
            count += 1
            if self._as_json or len(line.raw) > fits:
                self._encoder.of_line(line.text, index=line.number, as_json=self._as_json)
        return count

    def since(self, place: Place | None) -> Iterator[tuple[Prompt, Line | None]]:
        """Yield the prompts after a place, each with its line."""
        if self.source is None:
            assert self.prompt is not None  # noqa: S101 - one of the two is there
            yield self.prompt, None
            return
        for line in self.source.lines(place):
            yield self._encoder.of_line(line.text, index=line.number, as_json=self._as_json), line


class _Results:
    """The completions of prompts as text, and what has to be said about them."""

    def __init__(
        self, options: GenerateOptions, model: OpenModel, prompts: _Prompts, *, is_first: bool
    ) -> None:
        self._options, self._model, self._prompts = options, model, prompts
        self._is_first = is_first
        self._empty: list[int] = []
        self.failed = 0

    def since(self, place: Place | None, plan: Plan) -> Iterator[tuple[str, list[Completion], Line | None]]:
        """Yield the text of each prompt's completions, with its line of the input, in order."""
        lines: list[Line | None] = []

        def prompts() -> Iterator[Prompt]:
            for prompt, line in self._prompts.since(place):
                lines.append(line)
                yield prompt

        for prompt, completions in self._model.completions(prompts(), plan):
            separator = "" if self._is_first or self._options.format == "jsonl" else "\n"
            self._is_first = False
            self._notice(prompt, completions)
            yield separator + self._formatted(prompt, completions), completions, lines.pop(0)

    def _formatted(self, prompt: Prompt, completions: Sequence[Completion]) -> str:
        if prompt.batch_request is not None:
            name = prompt.batch_request["body"].get("model") if not completions[0].error else None
            name = name if isinstance(name, str) else str(self._options.model)
            return response_line(prompt, completions, model=name) + "\n"
        return formatted(self._options, completions, answers=self._model.answers)

    def _notice(self, prompt: Prompt, completions: Sequence[Completion]) -> None:
        self.failed += any(completion.error is not None for completion in completions)
        if self._options.max_new_tokens and any(not c.text and c.error is None for c in completions):
            self._empty.append(prompt.index + 1)

    def report(self) -> None:
        """Say on standard error which replies are empty, and how many requests failed."""
        if self._empty and self._options.prompts is None:
            report(PROGRAM, f"the reply is empty{self._advice()}")
        elif self._empty:
            some = ", ".join(map(str, self._empty[:5])) + (", ..." if len(self._empty) > 5 else "")
            report(PROGRAM, f"{len(self._empty):,} prompts have an empty reply (line {some}){self._advice()}")
        if self.failed:
            report(PROGRAM, f"{self.failed:,} requests failed; their responses have the error")

    def _advice(self) -> str:
        if not self._model.is_of_chats or self._model.answers:
            return ""
        return ": this is a model of chats; leave out --raw to have it answer"


def _stream(model: OpenModel, prompts: _Prompts, plan: Plan) -> None:
    [(prompt, _)] = prompts.since(None)
    show = _shower()
    if not model.answers:
        show(prompt.text or "")
    reply = model.stream(prompt, plan, show)
    sys.stdout.write("\n")
    if plan.max_new_tokens and not reply.text:
        report(PROGRAM, "the reply is empty")


def _to_stdout(options: GenerateOptions, model: OpenModel, prompts: _Prompts, plan: Plan) -> None:
    show = _shower()
    count = prompts.count_checked()
    progress = Progress(count * plan.samples, sys.stderr)
    results = _Results(options, model, prompts, is_first=True)
    for text, completions, _ in results.since(None, plan):
        show(text)
        if not sys.stdout.isatty():  # in a terminal, the bar would run through the texts
            progress.add(replies=len(completions), tokens=_tokens(completions))
    if count > 1 and not sys.stdout.isatty():
        progress.finish()
    results.report()


def _tokens(completions: Sequence[Completion]) -> int:
    return sum(len(completion.ids) for completion in completions)


def _to_file(options: GenerateOptions, model: OpenModel, prompts: _Prompts, plan: Plan) -> None:
    assert options.output is not None  # noqa: S101 - the caller looked
    output = options.output if options.shard is None else part_of(options.output, *options.shard)
    source = prompts.source
    journal = Journal(
        output,
        job=_job(options, model, prompts, plan),
        source=source,
        force=options.force,
        keeps_marks=options.shard is not None,
    )
    count = prompts.count_checked()
    with journal:
        if journal.is_complete:
            print(f"{output} is complete already", file=sys.stderr)
            return
        progress = Progress(count * plan.samples, sys.stderr, done=journal.done * plan.samples)
        is_first = journal.done == 0 and (source is None or source.is_first)
        results = _Results(options, model, prompts, is_first=is_first)
        try:
            for text, completions, line in results.since(journal.place, plan):
                if line is None:
                    journal.add(text)
                else:
                    journal.add(text, raw=line.raw, place=line.end)
                progress.add(replies=len(completions), tokens=_tokens(completions))
        except KeyboardInterrupt:
            done = f"{journal.done:,} of {count:,} prompts are done"
            report(PROGRAM, f"interrupted: {done}; the same command resumes")
            raise
        progress.finish()
        results.report()
    print(f"Saved to {output}", file=sys.stderr)


def _job(options: GenerateOptions, model: OpenModel, prompts: _Prompts, plan: Plan) -> str:
    """Return a digest of everything that decides the output besides the input."""
    digest = hashlib.sha256()
    ids = None if prompts.prompt is None else prompts.prompt.ids
    shards = None if options.shard is None else options.shard[1]
    parts = (
        model.identity, plan, options.format, options.input_format, options.num_beams, options.length_penalty,
        model.answers, model.system if model.answers else None, ids, shards,
    )  # fmt: skip
    for part in parts:
        digest.update(f"{_plain(part)!r}\0".encode())
    return digest.hexdigest()


def _plain(value: object) -> object:
    """Return a value whose `repr` is the same in every process: sets have no order."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return [(name, sorted(held) if isinstance(held, frozenset) else held) for name, held in fields]


def formatted(options: GenerateOptions, completions: Sequence[Completion], *, answers: bool) -> str:
    """Return the samples of one prompt as text or as JSON lines."""
    if options.format == "jsonl":
        return "".join(_json_line(completion) + "\n" for completion in completions)
    if options.prompt_tokens is not None:
        return "".join(f"Generated tokens: {list(completion.ids)}\n" for completion in completions)
    texts = [each.text if answers else (each.prompt.text or "") + each.text for each in completions]
    if options.prompt is not None:
        return "\n".join(f"{text}\n" for text in texts)
    name = "Reply" if answers else "Generated"
    return "\n".join(f"Prompt: {completions[0].prompt.text}\n{name}: {text}\n" for text in texts)


def _json_line(completion: Completion) -> str:
    record = {
        "prompt_index": completion.prompt.index,
        "sample": completion.sample,
        "prompt": completion.prompt.text,
        "prompt_ids": list(completion.prompt.ids),
        "text": completion.text,
        "token_ids": list(completion.ids),
        "finish": completion.finish,
        "seed": completion.seed,
    }
    return json.dumps(record, ensure_ascii=False)


def _shower() -> Callable[[str], None]:
    """Return a function that writes to standard output, with control characters disarmed in a terminal."""
    from niels_gpt.text.control_characters import Harmless  # noqa: PLC0415 - with the rest of what shows

    plain, filtered = not sys.stdout.isatty(), Harmless()

    def show(text: str) -> None:
        sys.stdout.write(text if plain else filtered.feed(text))
        sys.stdout.flush()

    return show

"""The composition root: options in, a chat on the terminal or on a pipe, an exit status out.

The statuses are those of `cli/exit_codes.py`.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from niels_gpt.chat.early_input import single_keys
from niels_gpt.cli.exit_codes import INTERRUPTED
from niels_gpt.cli.options import FROM_INPUT
from niels_gpt.conversation.errors import LoadFailed
from niels_gpt.conversation.options import ChatOptions, check_checkpoint, check_session_name
from niels_gpt.conversation.workspace import Workspace
from niels_gpt.terminal.render import Screen, columns_of, may_style

_LISTED = 1000  # sessions that --pick offers
_LEAVES = frozenset({"/exit", "/quit", "exit", "quit"})


def run(options: ChatOptions, *, make_workspace: Callable[[ChatOptions], Workspace] = Workspace) -> int:
    """Chat as the options say and return the exit status. Raises ChatError.

    Args:
        options: What the user asked for.
        make_workspace: Makes what answers; a test gives one with a model of its own.
    """
    check_session_name(options)
    check_checkpoint(options)
    chosen = with_picked(options) if options.pick else options
    return INTERRUPTED if chosen is None else _chat(chosen, make_workspace)


def with_picked(options: ChatOptions) -> ChatOptions | None:
    """Ask on the terminal which session to resume, and return the options with its name; None for none.

    Raises:
        LoadFailed: There is no terminal, or nothing to choose from.
    """
    if options.prompt is not None or not _is_terminal():
        raise LoadFailed("--pick asks on a terminal: give --session NAME, or --continue for the last used")
    from niels_gpt.conversation.opening import open_store  # noqa: PLC0415
    from niels_gpt.terminal.picker import choice_of, pick  # noqa: PLC0415 - heavy, and asked for by few

    with open_store(options) as store:
        choices = [choice_of(each) for each in store.sessions(limit=_LISTED)]
    if not choices:
        raise LoadFailed("there are no sessions to choose from yet: niels-chat without --pick starts one")
    name = asyncio.run(pick(choices))
    return None if name is None else replace(options, session=name)


def _chat(options: ChatOptions, make_workspace: Callable[[ChatOptions], Workspace]) -> int:
    workspace = make_workspace(options)
    try:
        if options.prompt is None and _is_terminal():
            return _on_terminal(workspace)
        return _on_pipe(workspace)
    finally:
        if not workspace.busy:
            workspace.close()


def _on_terminal(workspace: Workspace) -> int:
    options = workspace.options
    if options.as_events:
        raise LoadFailed("--json is for programs: give a message with -p TEXT, or lines on a pipe")
    with single_keys(sys.stdin.fileno()) as typed:
        # Here, not above: a pipe and --help are quicker without prompt-toolkit.
        from niels_gpt.chat.repl import run_on_terminal  # noqa: PLC0415

        screen = Screen(
            sys.stdout,
            sys.stdout,
            styled=may_style(sys.stdout),
            columns=columns_of(sys.stdout),
            quiet=options.quiet,
        )
        return run_on_terminal(workspace, screen, typed)


def _on_pipe(workspace: Workspace) -> int:
    from niels_gpt.chat.pipe import run_pipe  # noqa: PLC0415

    options = workspace.options
    # Where both are the terminal they share its lines.
    notices = sys.stdout if sys.stdout.isatty() and sys.stderr.isatty() else sys.stderr
    screen = Screen(
        sys.stdout,
        notices,
        styled=may_style(notices),
        columns=columns_of(notices),
        only_replies=options.quiet,
    )
    return asyncio.run(run_pipe(workspace, screen, _input(options), sys.stdout))


def _is_terminal() -> bool:
    # Python has no stdin at all where the descriptor was closed.
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def _input(options: ChatOptions) -> int:
    """Return the descriptor of standard input, or of nothing where it is closed or not to be read.

    Next to a message only a pipe or a file is read, which somebody put there: a terminal would wait.
    """
    if sys.stdin is None or (options.prompt not in {None, FROM_INPUT} and not _is_redirected()):
        return os.open(os.devnull, os.O_RDONLY)
    try:
        return sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):  # it was replaced: by a StringIO, by a test runner
        return _as_file(_replaced_input())


def _is_redirected() -> bool:
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _replaced_input() -> str:
    try:
        return sys.stdin.read()
    except OSError:  # a test runner's stdin, which cannot be read; `input` may be replaced as well
        lines: list[str] = []
        with suppress(EOFError, OSError, StopIteration):
            while not lines or lines[-1].strip() not in _LEAVES:
                lines.append(input(""))
        return "\n".join(lines)


def _as_file(text: str) -> int:
    with tempfile.TemporaryFile() as file:
        file.write(text.encode("utf-8", errors="surrogateescape"))
        file.seek(0)
        return os.dup(file.fileno())

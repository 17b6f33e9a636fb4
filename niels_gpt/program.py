"""Run a program so that every way it can end is an exit status and at most one line on standard error.

Each command of this project has one error boundary, `run`. It sorts what reaches it into three kinds:

- An error that describes itself (`ReportedError`, or a class that the program names) is printed as it is.
- An error of the surroundings (a file, a disk, a terminal, memory, text in another encoding) is put into
  words here, whichever library raised it.
- Everything else is a bug. It is reported as an internal error, with a status of its own, and never mistaken
  for bad input.

`NIELS_DEBUG=1` shows the traceback of each. `own_process` prepares the standard streams of a process, so that
a closed descriptor or a full disk behind one is an ordinary error too.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from niels_gpt.errors import ReportedError

OK, FAILED, USAGE, INTERNAL = 0, 1, 2, 70
HUNG_UP, INTERRUPTED, BROKEN_PIPE, TERMINATED = 129, 130, 141, 143

ErrorClasses = tuple[type[BaseException], ...]
Expected = Callable[[], ErrorClasses]

_PROGRAMS = ("niels-chat", "niels-generate", "niels-serve")
_OUTPUT_NAME = "<stdout>"
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory")


def run(
    program: str,
    work: Callable[[], int],
    *,
    failed: int = FAILED,
    expected: Callable[[], ErrorClasses] = tuple,
) -> int:
    """Run `work` and return its exit status, or the status of the way in which it ended.

    Args:
        program: The name that begins the line of an error.
        work: The program.
        failed: The status of an error that is reported.
        expected: Returns further classes whose message is meant for the user. It is called only when an
            error has to be sorted, so that it may import what a good run does not need.

    """
    try:
        status = work()
    except BaseException as error:  # noqa: BLE001 - the boundary; what is unexpected is told apart below
        status = _status_of(program, error, failed, expected)
    return _flushed(program, status)


def run_process(main: Callable[[], int]) -> NoReturn:
    """Run a command as this whole process: prepare its streams, run `main`, exit with its status."""
    own_process()
    sys.exit(main())


def report(program: str, message: str) -> None:
    """Print a message as one line on standard error; a terminal gets it wrapped between words."""
    if sys.stderr is None:
        return
    line = f"{program}: {one_line(as_started(message))}"
    if sys.stderr.isatty():
        import shutil  # noqa: PLC0415 - a run without an error needs neither
        import textwrap  # noqa: PLC0415

        columns = shutil.get_terminal_size().columns
        line = textwrap.fill(line, max(columns, 20), break_long_words=False, break_on_hyphens=False)
    with contextlib.suppress(OSError):  # nothing is left to say it on
        print(line, file=sys.stderr, flush=True)


def as_started(text: str) -> str:
    """Return a text whose commands can be typed as they stand, although the program may not be on the PATH.

    `niels-chat restore trip` becomes `.venv/bin/niels-chat restore trip` where the program was started by
    that path and the shell would not find it by its name.
    """
    script = sys.argv[0] if sys.argv else ""
    name = os.path.basename(script)  # noqa: PTH119 - of a string that may be no path at all
    if name not in _PROGRAMS or f"{name} " not in text:
        return text
    import re  # noqa: PLC0415 - only where a command is told
    import shlex  # noqa: PLC0415
    import shutil  # noqa: PLC0415

    found = shutil.which(name)
    if found is not None and os.path.exists(script) and os.path.samefile(found, script):  # noqa: PTH110, PTH121
        return text
    return re.sub(rf"(?<![\w/.-]){name}(?= [\w-])", lambda _: shlex.quote(script), text)


def one_line(text: str) -> str:
    """Return a text as one line in which nothing steers a terminal."""
    shown = (each if each.isprintable() or each.isspace() else repr(each)[1:-1] for each in text)
    return " ".join("".join(shown).split())


def own_process() -> None:
    """Prepare the standard streams of this process, before anything is printed.

    A closed descriptor is opened on the null device, so that no other file gets its number. Output to a
    closed standard output is then an error like that of a full disk, and output to a closed or full standard
    error is lost. Characters that an encoding lacks become question marks. Python's own warnings are shown
    only with `NIELS_DEBUG=1`, or where the interpreter was told to.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is this one. For reading only: writing to standard output must fail.
            os.open(os.devnull, os.O_RDONLY if descriptor < 2 else os.O_WRONLY)
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _StandardOutput(
            io.BufferedWriter(io.FileIO(1, "w", closefd=False)),
            encoding="utf-8" if sys.stdout is None else sys.stdout.encoding,
            errors="replace",
            line_buffering=sys.stdout is not None and sys.stdout.isatty(),
        )
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _StandardError(
            io.FileIO(2, "w", closefd=False),
            encoding="utf-8" if sys.stderr is None else sys.stderr.encoding,
            errors="replace",
            write_through=True,
        )
    if not sys.warnoptions and not _debugging():
        import warnings  # noqa: PLC0415 - after the first lines of a program

        warnings.simplefilter("ignore")


class _StandardOutput(io.TextIOWrapper):
    """Standard output, whose errors name it."""

    def write(self, text: str, /) -> int:
        with _named():
            return super().write(text)

    def flush(self) -> None:
        with _named():
            super().flush()


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = _OUTPUT_NAME
        raise


class _StandardError(io.TextIOWrapper):
    """Standard error: what it cannot write is lost, because there is nowhere to say so."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def _status_of(program: str, error: BaseException, failed: int, expected: Expected) -> int:
    error = _most_telling(error, expected)
    if isinstance(error, SystemExit):  # argparse, which has printed what there is to say
        return error.code if isinstance(error.code, int) else OK if error.code is None else FAILED
    if _debugging():
        import traceback  # noqa: PLC0415 - asked for

        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        _discard_output()
        return BROKEN_PIPE
    message = described(error, expected)
    if message is None:
        kind = f"{type(error).__name__}: {_text(error)}".removesuffix(": ")
        report(program, f"internal error: {kind} (NIELS_DEBUG=1 shows the traceback)")
        return INTERNAL
    report(program, message)
    status = error.exit_status if isinstance(error, ReportedError) else None
    return failed if status is None else status


def described(error: BaseException, expected: Expected = tuple) -> str | None:
    """Return the line that tells a user of an error, or None for an error that only a bug can raise."""
    if isinstance(error, ReportedError):
        return _text(error)
    message = _of_the_surroundings(error, _text(error))
    return _text(error) if message is None and isinstance(error, expected()) else message


def _of_the_surroundings(error: BaseException, text: str) -> str | None:
    if isinstance(error, OSError):
        return _os_error(error)
    if isinstance(error, UnicodeDecodeError | UnicodeEncodeError):
        return f"text that is not valid {error.encoding.upper()} at position {error.start}: {error.reason}"
    if isinstance(error, ImportError):
        return f"a library cannot be imported; install niels-gpt again: {text}"
    out_of_memory = isinstance(error, RuntimeError) and any(each in text for each in _OUT_OF_MEMORY)
    if out_of_memory or isinstance(error, MemoryError):
        return f"out of memory ({text})".removesuffix(" ()")
    return None


def _os_error(error: OSError) -> str:
    reason = error.strerror or _text(error) or type(error).__name__
    reason = reason[:1].lower() + reason[1:]
    names = [os.fsdecode(each) for each in (error.filename, error.filename2) if isinstance(each, str | bytes)]
    if names == [_OUTPUT_NAME]:
        closed = error.errno == errno.EBADF
        return "standard output is closed" if closed else f"cannot write standard output: {reason}"
    return f"{' to '.join(map(repr, names))}: {reason}" if names else reason


def _most_telling(error: BaseException, expected: Expected) -> BaseException:
    """Return the error itself, or of a group the one to report: no expected error may hide a bug."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_most_telling(each, expected) for each in error.exceptions]

    def rank(each: BaseException) -> int:
        if isinstance(each, (BrokenPipeError, KeyboardInterrupt, SystemExit)):
            return 0
        return 1 if described(each, expected) is None else 2

    return min(leaves, key=rank)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - the classes of other libraries may fail at this too
        return f"(its description fails with {type(broken).__name__})"


def _debugging() -> bool:
    return os.environ.get("NIELS_DEBUG", "") not in {"", "0"}


def _flushed(program: str, status: int) -> int:
    """Return the status, after everything that was printed has left the process."""
    if sys.stdout is None:
        return status
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except OSError as error:
        if status == OK:
            report(program, _os_error(error))
        _discard_output()
        return status or FAILED
    except ValueError:  # closed by the program itself
        return status
    return status


def _discard_output() -> None:
    """Let what is still buffered for standard output go nowhere, so that the interpreter ends in silence."""
    with contextlib.suppress(OSError, ValueError):  # a stream of a test has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)

"""Compile the kernels for this processor, once: `python -m niels_gpt.decoding.compile [--weights int8]`.

A chat compiles them behind its first prompt; this command does it beforehand. Kernels of other forms of
weights than float32 are compiled only on request.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import get_args

from niels_gpt import program
from niels_gpt.kernels import WeightForm, why_unavailable
from niels_gpt.kernels.cache import cache_folder, claim_folder, forget_other_versions

PREPARING = "preparing the kernels for this processor (once)"


def main(argv: Sequence[str] | None = None) -> int:
    """Compile the missing kernels; return 0 even if the kernels cannot run, since torch can."""
    return program.run("niels_gpt.decoding.compile", lambda: _compile(argv))


def _compile(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m niels_gpt.decoding.compile", description="Compile the kernels."
    )
    parser.add_argument(
        "--weights", choices=get_args(WeightForm), default="float32", help="default %(default)s"
    )
    parser.add_argument("--parts", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    form: WeightForm = options.weights
    kind = "groups" if form in {"q8", "q4"} else form
    fault = why_unavailable(compiled=True)
    if fault is None:
        from niels_gpt.kernels import object_code  # noqa: PLC0415 - LLVM

        for part in options.parts.split(",") if options.parts else ():
            object_code.store(part)
            print(part, flush=True)
        if options.parts or object_code.is_prepared(kind):
            return 0
        fault = why_unavailable()
    if fault is not None:  # not an error: the chat still works
        instead = "torch will answer" if form == "float32" else f"{form} weights cannot be used"
        _say(f"{PREPARING}: not possible here ({fault}); {instead}\n")
        return 0
    began = time.perf_counter()
    compile_kernels(kind, on_progress=_show)
    _say(f"{PREPARING}: {time.perf_counter() - began:.0f} s, in {cache_folder()}\n")
    return 0


def _show(done: int, total: int) -> None:
    # In a log the first and the last line are enough.
    if sys.stderr.isatty():
        _say(f"{PREPARING}: {done} of {total}")
    elif done == 0:
        _say(f"{PREPARING} ...\n")


def _say(line: str) -> None:
    over = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{over}{line}", end="", flush=True, file=sys.stderr)


def compile_kernels(
    kind: str = "float32", *, arch: str = "gpt", on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Compile the kernels of an architecture and a kind of weights, unless that was done before.

    The parts compile side by side in processes of their own, as many as there are processors. Without a place
    to keep them, this process compiles them.

    Args:
        kind: The kind of the model's matrices, as in `niels_gpt.kernels.gpt_layout`.
        arch: "gpt" or "bdh"; every transformer runs through the kernels of "gpt".
        on_progress: Called with (parts compiled, parts in all), first with none compiled, and not at all if
            none has to be compiled.

    """
    from niels_gpt.kernels import object_code  # noqa: PLC0415 - LLVM

    parts = [part for part in object_code.parts_of(kind, arch) if not object_code.is_stored(part)]
    if not parts:
        return
    report = on_progress or (lambda _done, _total: None)
    done, total = 0, len(parts)
    report(0, total)
    if claim_folder() and sys.executable:
        finished: SimpleQueue[str | None] = SimpleQueue()
        shares = _shares(parts, min(processors(), total))
        for share in shares:
            Thread(target=_in_a_process, args=(share, finished), daemon=True).start()
        running = len(shares)
        while running:
            if finished.get() is None:
                running -= 1
            else:
                done += 1
                report(done, total)
    for part in parts:  # what a process has compiled is loaded
        object_code.address_of(part)
    if done < total:
        report(total, total)
    forget_other_versions()


SECONDS = {"forward": 3.4, "sampler": 3.1, "attention": 2.2, "loop": 1.6, "product": 1.0}
"""About how long each part takes to compile, by the first word of its name."""


def _shares(parts: Sequence[str], count: int) -> list[list[str]]:
    """Divide the parts among processes so that all take about the same time."""
    shares: list[list[str]] = [[] for _ in range(count)]
    for part in sorted(parts, key=_seconds, reverse=True):
        min(shares, key=lambda share: sum(map(_seconds, share))).append(part)
    return shares


def _seconds(part: str) -> float:
    return SECONDS[part.split(maxsplit=1)[0]]


def processors() -> int:
    """Return the number of processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _in_a_process(parts: Sequence[str], finished: SimpleQueue[str | None]) -> None:
    """Compile parts in a process of their own and name each when it is done, None at the end.

    If the process fails, the caller compiles what is missing.
    """
    flags = ["--parts", ",".join(parts)]
    places = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(place for place in places if place)}
    nothing = subprocess.DEVNULL
    try:
        with subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "niels_gpt.decoding.compile", *flags],
            env=environment, stdin=nothing, stdout=subprocess.PIPE, stderr=nothing, text=True,
        ) as process:  # fmt: skip
            for line in process.stdout or ():
                finished.put(line.strip())
    except OSError:
        pass
    finally:
        finished.put(None)


if __name__ == "__main__":
    program.run_process(main)

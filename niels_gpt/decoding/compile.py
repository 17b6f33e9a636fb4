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
from niels_gpt.kernels.cache import (
    cache_folder,
    claim_folder,
    forget_other_versions,
    is_prepared,
    mark_prepared,
)

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
    for hidden in ("--parts", "--kind", "--arch"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    for part in options.parts.split(",") if options.parts else ():
        compile_part(part, options.kind, options.arch)
        print(part, flush=True)
    if options.parts:
        return 0
    form: WeightForm = options.weights
    kind = "groups" if form in {"q8", "q4"} else form
    if is_prepared(kind):
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
    """Compile the kernels of an architecture and a kind of weights, unless they are prepared.

    The parts compile side by side in processes of their own, as many as there are processors. Without a place
    to keep them, this process compiles them.

    Args:
        kind: The kind of the model's matrices, as in `niels_gpt.kernels.matrices`.
        arch: "gpt" or "bdh"; every transformer runs through the kernels of "gpt".
        on_progress: Called with (parts compiled, parts in all), first with none compiled, and not at all if
            none has to be compiled.

    """
    if is_prepared(kind, arch):
        return
    report = on_progress or (lambda _done, _total: None)
    parts = ["products"] if is_prepared(EVERY_KIND, arch) else list(PARTS)
    done, total = 0, len(parts)
    report(0, total)
    if claim_folder() and sys.executable:
        finished: SimpleQueue[str | None] = SimpleQueue()
        shares = _shares(parts, min(processors(), total))
        for share in shares:
            Thread(target=_in_a_process, args=(share, kind, arch, finished), daemon=True).start()
        running = len(shares)
        while running:
            if finished.get() is None:
                running -= 1
            else:
                done += 1
                report(done, total)
    for part in parts:  # what a process has compiled is loaded
        compile_part(part, kind, arch)
    if done < total:
        report(total, total)
    mark_prepared(kind, arch)
    mark_prepared(EVERY_KIND, arch)
    forget_other_versions()


PARTS = {"forward": 3.4, "sampler": 3.1, "attention": 2.2, "loop": 1.6, "products": 1.4}
"""What is compiled, with about the seconds that each takes; they call each other by address."""


EVERY_KIND = "every kind"
"""Marks the parts that all kinds of weights share: all but the products."""


def _shares(parts: Sequence[str], count: int) -> list[list[str]]:
    """Divide the parts among processes so that all take about the same time."""
    shares: list[list[str]] = [[] for _ in range(count)]
    for part in parts:
        min(shares, key=lambda share: sum(PARTS[each] for each in share)).append(part)
    return shares


def processors() -> int:
    """Return the number of processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _in_a_process(parts: Sequence[str], kind: str, arch: str, finished: SimpleQueue[str | None]) -> None:
    """Compile parts in a process of their own and name each when it is done, None at the end.

    If the process fails, the caller compiles what is missing.
    """
    flags = ["--parts", ",".join(parts), "--kind", kind, "--arch", arch]
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


def compile_part(part: str, kind: str, arch: str) -> None:
    """Compile one part in this process, for arguments of the types that decoding passes."""
    import numpy as np  # noqa: PLC0415 - the parent of these processes needs none of them

    from niels_gpt.decoding.sequence import row_multipliers  # noqa: PLC0415
    from niels_gpt.kernels import bdh, decode_loop, gpt_layout, gpt_packing, matrices  # noqa: PLC0415
    from niels_gpt.kernels.jit import address_of  # noqa: PLC0415

    shape = gpt_layout.Shape if arch == "gpt" else bdh.BDHShape
    if part == "attention" and arch == "gpt":
        gpt_packing.attention_address()
    elif part == "products" and arch == "gpt":
        matrices.products(kind)
    elif part == "forward":
        decode_loop.forward_address(shape)
    elif part == "sampler":
        decode_loop.sampler_address()
    elif part == "loop":
        numbers, slots = np.zeros(1, np.int64), decode_loop.new_slots(1, 2)
        scratch, drawn = decode_loop.new_scratch(2, 16), decode_loop.new_drawn(1, 1, 16)
        address_of(
            decode_loop.run,
            (
                decode_loop.Calls(0, 0), *decode_loop.EXAMPLES[shape](), numbers, numbers, slots, scratch,
                row_multipliers(2), drawn, 1, 0, 1,
            ),
        )  # fmt: skip


if __name__ == "__main__":
    program.run_process(main)

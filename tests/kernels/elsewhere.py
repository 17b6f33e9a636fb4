"""What the kernels make of fixed inputs under another instruction set, in a process that is told of it.

Machine code for another processor is stored as that for this one is, so only the first run after a change of
the kernels compiles it. `python -m tests.kernels.elsewhere` does so in advance, for this processor too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from niels_gpt.decoding.compile import compile_kernels
from niels_gpt.kernels import why_unavailable
from niels_gpt.kernels.cache import cache_folder, claim_folder

REPO = Path(__file__).resolve().parents[2]
PROCESSORS = {
    "AVX2 with FMA, no AVX-512": ("haswell", "+avx2,+fma"),
    "no FMA, no AVX": ("generic", ""),
}
if os.uname().machine != "x86_64":
    PROCESSORS = {"no extensions": ("generic", "")}
POOREST = list(PROCESSORS)[-1]


@cache
def results(processor: str) -> dict[str, Any]:
    """Compute everything in a process for a processor."""
    name, features = PROCESSORS[processor]
    told = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.kernels.elsewhere", "--here", processor]
    done = subprocess.run(command, env=os.environ | told, cwd=REPO, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def results_here(processor: str) -> dict[str, Any]:
    """Hashes of every form of transformer and of BDH; on the poorest processor a recorded session, too."""
    from tests.bdh.golden import golden  # noqa: PLC0415
    from tests.kernels.golden import everything, forms  # noqa: PLC0415 - what prepares need not compute

    found = {"transformer": everything(), "forms": forms(), "bdh": golden()}
    return found | ({"session": _session()} if processor == POOREST else {})


def _session() -> list[str]:
    """Replay the recorded session; return the verdicts."""
    from niels_gpt.kernels import KERNEL_VERSION  # noqa: PLC0415 - with torch
    from tests.replay.record_golden import golden_file, replay_file  # noqa: PLC0415
    from tests.replay.recordings import tiny_checkpoint  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = tiny_checkpoint(Path(folder) / "tiny.pt")
        found = replay_file(golden_file(KERNEL_VERSION), checkpoint, Path(folder))
    return [verdict.kind for verdict in found.verdicts]


def prepare() -> None:
    """Compile what is not stored yet."""
    done = cache_folder() / f"computed elsewhere by {str(REPO).replace(os.sep, ':')}"
    if done.is_file() or why_unavailable() is not None:
        return
    with ThreadPoolExecutor(1) as pool:
        others = pool.map(results, PROCESSORS)
        compile_kernels("float32")
        compile_kernels("float32", arch="bdh")
        compile_kernels("int8")
        list(others)
    if claim_folder():
        done.touch()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        json.dump(results_here(sys.argv[2]), sys.stdout)
    else:
        prepare()

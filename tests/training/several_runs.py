"""One of two processes that train together, as torchrun starts them: several runs, one after the other.

`python -m tests.training.several_runs RANK PORT FLAGS [PORT FLAGS ...]`; FLAGS are those of niels_gpt.train.
"""

from __future__ import annotations

import os
import shlex
import sys

from niels_gpt.train.__main__ import main

if __name__ == "__main__":
    rank, *runs = sys.argv[1:]
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for port, flags in zip(runs[::2], runs[1::2], strict=True):
        os.environ["MASTER_PORT"] = port
        if main(shlex.split(flags)) != 0:
            sys.exit(1)

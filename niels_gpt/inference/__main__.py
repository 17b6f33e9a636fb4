"""The door of `python -m niels_gpt.inference`."""

from __future__ import annotations

import sys

from niels_gpt.inference.command import main

if __name__ == "__main__":
    sys.exit(main())

"""Requests that the server's schema allows, and some that it does not: none may be answered with 5xx.

    python tests/server/schema_campaign.py --cases 10000

Schemathesis makes them; every address and method of the schema gets its share.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable

from tests.server.server_process import ServerProcess

PATIENCE = 60


def answers(
    url: str, *, cases: int, number: int = 1, in_turn: bool = False
) -> tuple[Counter[int], list[str]]:
    """Send about so many requests; return how often each status came, and the requests that had 5xx.

    Each address gets right requests and wrong ones; with `in_turn` it gets either.
    """
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [each.ok() for each in schema.get_all_operations()]
    statuses: Counter[int] = Counter()
    faults: list[str] = []
    for index, operation in enumerate(operations):

        def send(case: Any) -> None:
            response = case.call(timeout=PATIENCE)
            statuses[response.status_code] += 1
            if response.status_code >= 500:
                faults.append(f"{response.status_code} {case.as_curl_command()}")

        modes = list(GenerationMode)
        for mode in [modes[index % 2]] if in_turn else modes:
            count = max(1, cases // (2 * len(operations)))
            checked = settings(
                max_examples=count,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            )
            # An address without parameters has no wrong ones.
            with contextlib.suppress(Unsatisfiable):
                seed(number)(checked(given(case=operation.as_strategy(generation_mode=mode))(send)))()
    return statuses, faults


def main() -> int:
    """Run the campaign; 0 if nothing was answered with 5xx."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ServerProcess(Path(folder)) as server:
        statuses, faults = answers(server.url, cases=options.cases, number=options.seed)
        alive = server.json("GET", "/health")
    print(f"{sum(statuses.values())} requests: {dict(sorted(statuses.items()))}; then {alive}")
    for fault in faults[:20]:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

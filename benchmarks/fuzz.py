"""Changed inputs of every kind, in parallel processes: no command may end other than it promises (tests/fuzz).

Exits with 1 if a case broke a promise, and names it: `python -m fuzz.run --seed S --kind K --case N`, in `tests`,
repeats it.

python benchmarks/fuzz.py [CASES] [SEED]      (default: 100,000 cases, about an hour on two cores; seed 1)
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fuzz.run import Tally, describe, run_cases

PART = 500
"""Cases of one task: a process that grows is replaced after some of them."""


def run_part(first: int, last: int, seed: int) -> Tally:
    """Run the cases with the numbers from `first` to before `last`."""
    return run_cases(range(first, last), seed)


def main() -> None:
    """Run all cases and print what was seen."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    total, began = Tally(), time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, max_tasks_per_child=4) as pool:
        parts = [pool.submit(run_part, first, min(first + PART, cases), seed) for first in range(0, cases, PART)]
        for number, part in enumerate(parts, start=1):
            tally = part.result()
            total.add(tally)
            if tally.failures:
                print(describe(tally, seed), flush=True)
            if number % 4 == 0:
                done = f"{number * PART:,} of {cases:,} cases"
                print(f"{done}, {len(total.failures)} broke a promise, {time.monotonic() - began:.0f} s", flush=True)
    print(describe(total, seed))
    sys.exit(1 if total.failures else 0)


if __name__ == "__main__":
    main()

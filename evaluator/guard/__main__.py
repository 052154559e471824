"""`python -m evaluator.guard --store PATH`: the process that guards the rollouts of a store."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from evaluator.errors import EvaluatorError
from evaluator.guard.server import run_guard


def main() -> int:
    """Run the guard; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m evaluator.guard", description=__doc__)
    parser.add_argument("--store", required=True, type=Path, help="The store whose rollouts are guarded.")
    parser.add_argument("--leave-when-idle", action="store_true", help="End some time after the last rollout.")
    options = parser.parse_args()
    try:
        run_guard(options.store, _say, leave_when_idle=options.leave_when_idle)
    except EvaluatorError as error:
        _say(f"Error: {error.message}")
        if error.hint:
            _say(f"Hint: {error.hint}")
        return error.exit_code
    return 0


def _say(text: str) -> None:
    """Print a sentence with the time; a full disk or a closed terminal does not end the guard."""
    try:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)  # noqa: T201 - its only output
    except (OSError, ValueError):
        return


if __name__ == "__main__":
    sys.exit(main())

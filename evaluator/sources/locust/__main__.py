"""`locust` with a recorder."""

from __future__ import annotations

from typing import Any

import locust.main

from evaluator.sources.locust import Recorder


def main() -> None:
    """Run Locust's own command, which reads `sys.argv`, and record its requests."""
    Recorder()  # registers with Locust
    command: Any = locust.main.main
    command()


if __name__ == "__main__":
    main()

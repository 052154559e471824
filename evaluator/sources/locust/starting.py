"""What a process of Locust does with its options before it starts to record."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

from locust.env import Environment

from evaluator.permissions import PRIVATE_UMASK, is_private, make_private
from evaluator.segments import data_folder

_STATISTICS = ("_stats", "_stats_history", "_failures", "_exceptions")
"""What Locust adds to the prefix of `--csv` in the names of its files."""


def get_options(environment: Environment) -> Namespace:
    """The options of Locust's command line; none where Locust is used as a library."""
    return environment.parsed_options or Namespace()


def keep_files_private(options: Namespace) -> None:
    """For a sensitive recording, or a private store: let only the owner read all files that this process makes.

    They are the segments, and what Locust writes: its statistics and log. `evaluator load` starts its processes so.
    """
    if not (options.evaluator_sensitive or is_private(data_folder(Path(options.evaluator_store)))):
        return
    os.umask(PRIVATE_UMASK)
    # Locust has opened these already. The log may also be a device.
    prefix, log = getattr(options, "csv_prefix", None), getattr(options, "logfile", None)
    paths = [f"{prefix}{ending}.csv" for ending in _STATISTICS] if prefix else []
    for path in map(Path, [*paths, log] if log else paths):
        if path.is_file():
            make_private(path)

"""Run the arena: `make bench-arena`, or with fewer releases `make bench-arena ARGS=--quick`.

Finished trials are kept, and not run again for the same code. The table is written from all finished trials.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from pathlib import Path

# One release is one task; threads of linear algebra would only slow each other down.
os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})

import click

from arena.grid import FULL, QUICK, Trial, plan_trials
from arena.results import Record, append, find_open, fingerprint, read_results
from arena.table import write_table
from arena.trial import run_trial

ROOT = Path(__file__).parents[2]
REPORT_EVERY_S = 30.0


def main() -> int:
    """Run the trials that are missing, then write the table."""
    options = _read_options()
    replications = QUICK if options.quick else FULL
    if options.designs:
        replications = {name: replications.get(name, FULL[name]) for name in options.designs}
    if options.replications:
        replications = dict.fromkeys(replications, options.replications)
    folder = options.results or ROOT / ".cache" / "arena" / fingerprint()
    folder.mkdir(parents=True, exist_ok=True)
    open_trials = find_open(plan_trials(replications, anytime=not options.quick), read_results(folder))
    click.echo(f"{len(open_trials)} of {sum(replications.values())} releases to judge; results in {folder}")
    started = time.monotonic()
    try:
        _run(open_trials, folder, options.processes)
    except KeyboardInterrupt:
        click.echo("stopped; run the same command again to continue", err=True)
        return 130
    minutes = (time.monotonic() - started) / 60
    text = write_table(read_results(folder))
    options.write.write_text(text, encoding="utf-8")
    click.echo(text)
    click.echo(f"{len(open_trials)} releases in {minutes:.1f} min; table in {options.write}")
    return 0


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-arena", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the designs with peers, 100 releases each")
    parser.add_argument("--designs", nargs="+", choices=sorted(FULL), metavar="NAME", help="only these designs")
    parser.add_argument("--replications", type=int, metavar="N", help="releases of each design")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="processes that run trials; default: 2")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: one folder for each state of the code")
    parser.add_argument(
        "--write", type=Path, default=ROOT / "docs" / "accuracy.md", metavar="FILE", help="default: docs/accuracy.md"
    )
    return parser.parse_args()


def _run(trials: list[Trial], folder: Path, processes: int) -> None:
    started = reported = time.monotonic()
    for done, record in enumerate(_finish_each(trials, processes), start=1):
        append(folder, record)
        if time.monotonic() - reported > REPORT_EVERY_S:
            reported = time.monotonic()
            left_min = (reported - started) / done * (len(trials) - done) / 60
            click.echo(f"{done} of {len(trials)}, about {left_min:.0f} min left", err=True)


def _finish_each(trials: list[Trial], processes: int) -> Iterator[Record]:
    """Yield records as they are finished. Only a few trials are submitted at a time, so that Ctrl-C ends soon."""
    queue = iter(trials)
    context = multiprocessing.get_context("spawn")
    # Ctrl-C stops the parent only: workers finish their present trial.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=signal.signal, initargs=ignore) as pool:
        running: set[Future[Record]] = {pool.submit(run_trial, trial) for trial in islice(queue, 2 * processes)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(run_trial, trial) for trial in islice(queue, len(done))}
            yield from (future.result() for future in done)


if __name__ == "__main__":
    sys.exit(main())

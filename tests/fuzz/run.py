"""Run cases of fuzzing: `python -m fuzz.run [--cases N] [--seed S] [--kind K] [--case NUMBER]`, in the folder `tests`.

A case is made from the seed and its number alone, so `--case` repeats one of them; `--keep` leaves its files.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.access_logs import fuzz_access_logs
from fuzz.answers import fuzz_prometheus
from fuzz.checking import Case, HangError, limit_time
from fuzz.documents import fuzz_policy, fuzz_stored_verdict, fuzz_verdict
from fuzz.files import fuzz_outcomes, fuzz_requests
from fuzz.hooks import fuzz_hook

KINDS: Mapping[str, tuple[Callable[[random.Random, Case], None], int]] = {
    "requests": (fuzz_requests, 5),
    "access-logs": (fuzz_access_logs, 2),
    "outcomes": (fuzz_outcomes, 2),
    "policy": (fuzz_policy, 27),
    "verdict": (fuzz_verdict, 13),
    "stored-verdict": (fuzz_stored_verdict, 1),
    "prometheus": (fuzz_prometheus, 4),
    "hook": (fuzz_hook, 48),
}
"""Kind of inputs → what makes and runs a case of it, and how often it is chosen."""


@dataclass
class Failure:
    """A case that broke a promise."""

    kind: str
    number: int
    broken: Sequence[str]
    commands: Sequence[str]


def _count_seconds() -> defaultdict[str, float]:
    return defaultdict(float)


@dataclass
class Tally:
    """What was seen of some cases."""

    cases: Counter[str] = field(default_factory=Counter)
    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Kind and exit code → how many commands."""
    seconds: defaultdict[str, float] = field(default_factory=_count_seconds)
    """Kind → CPU time."""
    failures: list[Failure] = field(default_factory=list)
    peak_mb: int = 0
    """Most memory of the process."""

    def add(self, other: Tally) -> None:
        """Add what was seen of other cases."""
        self.cases += other.cases
        self.codes += other.codes
        for kind, seconds in other.seconds.items():
            self.seconds[kind] += seconds
        self.failures += other.failures
        self.peak_mb = max(self.peak_mb, other.peak_mb)


def run_cases(numbers: Sequence[int], seed: int, *, kind: str | None = None, keep: Path | None = None) -> Tally:
    """Run the cases with these numbers. `keep`: the folder in which their files stay."""
    tally = Tally()
    kinds, weights = list(KINDS), [weight for _, weight in KINDS.values()]
    for number in numbers:
        rng = random.Random(f"{seed}-{number}")
        drawn = rng.choices(kinds, weights)[0]  # also where it is not used: what follows must be the same
        chosen = kind or drawn
        began = time.process_time()
        with _make_folder(keep and keep / f"{chosen}-{number}") as folder:
            case = run_case(rng, chosen, folder)
        tally.cases[chosen] += 1
        tally.seconds[chosen] += time.process_time() - began
        tally.codes.update((chosen, code) for code in case.codes)
        if case.broken:
            tally.failures.append(Failure(chosen, number, case.broken, case.commands))
    tally.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return tally


def run_case(rng: random.Random, kind: str, folder: Path) -> Case:
    """Run one case in a folder; an error that no command reports is a broken promise of it."""
    case = Case(folder)
    faulthandler.dump_traceback_later(300, exit=True)  # a hang in a library, which no signal ends
    try:
        with contextlib.chdir(folder), limit_time(), warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", "'imghdr' is deprecated", DeprecationWarning)  # imported by apprise
            KINDS[kind][0](rng, case)
    except HangError as hang:
        case.break_promise(f"a hang: {hang}")
    except Exception as error:  # noqa: BLE001 - nothing may leave a command
        case.break_promise(f"{type(error).__name__}: {error}")
    finally:
        faulthandler.cancel_dump_traceback_later()
    case.note_warnings(seen)
    return case


@contextlib.contextmanager
def _make_folder(kept: Path | None) -> Iterator[Path]:
    if kept:
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=MEMORY) as folder:
        yield Path(folder).resolve()


MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Folders are made where nothing waits for a disk."""


def describe(tally: Tally, seed: int) -> str:
    """Describe what was seen, in lines: cases and exit codes of each kind, and the cases that broke a promise."""
    lines = []
    for kind, cases in tally.cases.items():
        codes = ", ".join(
            f"{count:,} × exit {code}" for (its_kind, code), count in sorted(tally.codes.items()) if its_kind == kind
        )
        lines.append(f"{kind:<14} {cases:>7,} cases, {1000 * tally.seconds[kind] / cases:>5.0f} ms each; {codes}")
    broken, cases = len(tally.failures), tally.cases.total()
    lines.append(f"{broken} of {cases:,} cases broke a promise; at most {tally.peak_mb} MB")
    for failure in tally.failures:
        lines.append(f"\n{failure.kind}, --seed {seed} --kind {failure.kind} --case {failure.number}")
        lines += [f"  $ evaluator {command}" for command in failure.commands]
        lines += [f"  {text}" for text in failure.broken]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz.run", description=__doc__)
    parser.add_argument("--cases", type=int, default=500, metavar="N", help="how many")
    parser.add_argument("--first", type=int, default=0, metavar="NUMBER", help="number of the first case")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--kind", choices=KINDS, help="only cases of this kind")
    parser.add_argument("--case", type=int, metavar="NUMBER", help="only this case")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the files of each case here")
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.cases) if options.case is None else [options.case]
    tally = run_cases(numbers, options.seed, kind=options.kind, keep=options.keep)
    sys.stdout.write(describe(tally, options.seed) + "\n")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())

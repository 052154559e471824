"""docs/accuracy.md, written from finished trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from arena.grid import METRICS, PEERED, is_unchanged
from arena.reading import Reading
from arena.results import Record
from arena.shares import Times
from arena.targets import check_targets, list_coverage, list_false_worse
from evaluator.simulate import SCENARIOS

__all__ = ["write_table"]

NOTES = Path(__file__).parent / "notes.md"
"""Why some targets are missed, and what was tried; written by hand, added at the end."""

FAULTS = Path(__file__).parent / "faults.md"
"""How often a fault is found where it is: `benchmarks/faults.py` writes it, here and in docs/accuracy.md."""

HEAD = """# Accuracy

Written by `make bench-arena`; do not edit.

How often the judge is right and wrong, measured on simulated releases whose truth is known (`evaluator.simulate`).
Their requests are not independent: load drifts, both arms share spikes, each instance has its own level and its own
slow drift, and failures come in bursts. A design is one kind of release (`evaluator/simulate/scenarios.py`). Unless its
name shows another one, it has 4 + 4 instances, 30 requests per second on each arm, and 60 minutes.

Shares are in percent, with Wilson's 95 % interval. Medians are in minutes, with a 95 % interval of order statistics; –
means that less than half was detected.
"""

REACHED = """## Targets

"A look each minute" is the policy's own calendar of looks, with a planned end. Reached:

- yes;
- **no**;
- **no?**: missed, but chance alone could explain it with so few releases;
- open: the share is low enough, but there are too few releases to be sure.
"""

DESIGNS = """## The built-in policy on every design

Verdicts with a look each minute; the median is the minute of the NO-GO. In `AA…` and `single_75s` both versions are
identical, so every NO-GO is false. In `margin_…` one gate is worse by exactly its margin, so every GO is false.
"""

WORSE = """## False "worse" at margin 0

Each metric by itself, on identical versions, with a look each minute. Target: at most 5 %, upper limit below 7.5 %.
"""

COVERAGE = """## Coverage of the 90 % interval at the end

How often the interval contains the truth. Target: at least 88 %; at most 97 % with four labelled instances on each arm.
"""

PEERS = """## Comparison with other tools

All methods judge the same releases, with the same seeds. Each tests at a one-sided level of 5 % whether the candidate
is worse at all (margin 0). Two exceptions: the built-in policy uses its own margins, and Kayenta its own constants
(98 % interval, tolerance 0.25).

"At the end" is one look at the last minute. "At any minute" is a look each minute, as people do: the other tools from
minute 5, the evaluator by its calendar of looks, which spends alpha for them. The median is over all releases, with a
look each minute.
"""

NAMES = {
    "latency_mean": "mean",
    "latency_p50": "p50",
    "latency_p95": "p95",
    "latency_p99": "p99",
    "failure_rate": "failures",
    "endpoint_mean": "mean of the changed endpoint",
}


def write_table(results: Mapping[str, Sequence[Record]]) -> str:
    """Write docs/accuracy.md from the designs that have results."""
    readings = {name: Reading(name, tuple(results[name])) for name in SCENARIOS if results.get(name)}
    parts = [
        HEAD,
        _count(readings),
        REACHED,
        _draw(("Property", "On", "Result", "Target", "Reached"), check_targets(readings)),
        DESIGNS,
        _draw(("Design", "n", "NO-GO", "Median", "GO", "INCONCLUSIVE"), (_verdicts(r) for r in readings.values())),
        WORSE,
        _draw(("Design", *(NAMES[m] for m in METRICS)), list_false_worse(readings)),
        COVERAGE,
        _draw(("Design", *(NAMES[m] for m in METRICS)), list_coverage(readings)),
        PEERS,
        *(part for name in PEERED if name in readings for part in _compare(readings[name])),
    ]
    parts += [FAULTS.read_text(encoding="utf-8")] if FAULTS.exists() else []
    return "\n".join([*parts, *([NOTES.read_text(encoding="utf-8")] if NOTES.exists() else [])])


def _count(readings: Mapping[str, Reading]) -> str:
    releases = sum(len(reading.records) for reading in readings.values())
    crashed = [f"{reading.crashes} × {name}" for name, reading in readings.items() if reading.crashes]
    errors = f"**Errors on {', '.join(crashed)}.**" if crashed else "None ended with an error."
    return f"{releases:,} releases of {len(readings)} designs. {errors}\n"


def _draw(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _verdicts(reading: Reading) -> list[str]:
    no_go, go, neither = (str(reading.words("auto", "policy", word)) for word in ("no_go", "go", "inconclusive"))
    times = "" if is_unchanged(reading.design) else str(reading.no_go_times("auto", "policy"))
    return [f"`{reading.design}`", str(len(reading.asked("auto"))), no_go, times, go, neither]


def _compare(reading: Reading) -> list[str]:
    rows = [*_own_rows(reading), *_peer_rows(reading)]
    head = ("Method", "At the end", "At any minute", "Median", "Interval contains the truth")
    return [f"### `{reading.design}` ({len(reading.records)} releases)\n", _draw(head, rows)]


def _own_rows(reading: Reading) -> Iterable[list[str]]:
    metrics = [*METRICS, *(["endpoint_mean"] if "endpoint" in reading.design else [])]
    for metric in metrics:
        covered = str(reading.covered(metric))
        yield [
            f"**evaluator, {NAMES[metric]}**",
            str(reading.worse("fixed", metric)),
            str(reading.worse("auto", metric)),
            str(reading.worse_times("auto", metric)),
            covered,
        ]
    books = {"gates": "five gates together", "scan": "endpoint scan", "policy": "built-in policy, NO-GO"}
    for book, name in books.items():
        at_end, ever = (str(reading.words(mode, book, "no_go")) for mode in ("fixed", "auto"))
        yield [f"**evaluator, {name}**", at_end, ever, str(reading.no_go_times("auto", book)), ""]
    if reading.asked("anytime"):
        yield from _anytime_rows(reading, metrics, books)


def _anytime_rows(reading: Reading, metrics: Sequence[str], books: Mapping[str, str]) -> Iterable[list[str]]:
    def row(name: str, found: object, times: Times) -> list[str]:
        return [f"evaluator without a planned end, {name}", "", str(found), str(times), ""]

    for metric in metrics:
        yield row(NAMES[metric], reading.worse("anytime", metric), reading.worse_times("anytime", metric))
    for book, name in books.items():
        yield row(name, reading.words("anytime", book, "no_go"), reading.no_go_times("anytime", book))


def _peer_rows(reading: Reading) -> Iterable[list[str]]:
    for peer in reading.peers():
        at_end, ever = str(reading.flagged_at_end(peer)), str(reading.flagged_ever(peer))
        yield [peer, at_end, ever, str(reading.flag_times(peer)), ""]

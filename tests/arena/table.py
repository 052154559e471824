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
"""What was tried where a figure is not reached; written by hand, added at the end."""

HEAD = """# Accuracy

Written by `make bench-arena`; do not edit.

Every row is simulated releases with a known truth (`evaluator.simulate`): nothing in them is independent, load drifts,
both arms share spikes, instances have levels and moods of their own, failures come in bursts. Unless a design says
otherwise a release has 4 + 4 instances, 30 requests a second an arm and 60 minutes. Shares are percent with Wilson's
95 % interval, medians are minutes with a 95 % interval of order statistics, – is less than half found.
"""

REACHED = """## What must be reached

"Looked at each minute" is the policy's own calendar of looks with the end planned. Reached: yes; **no**; **no?**,
missed but within what chance allows with so few releases; open, the share is low enough but there are too few releases
to be sure.
"""

DESIGNS = """## The built-in policy on every design

Verdicts when looked at each minute; the median is the minute of the NO-GO. `AA…` and `single_75s` are identical
versions, so every NO-GO there is false; in `margin_…` one gate is worse by exactly its margin, so every GO there is.
"""

WORSE = """## False "worse" at margin 0

Each metric by itself, identical versions, looked at each minute. To reach: at most 5 %, upper limit below 7.5 %.
"""

COVERAGE = """## Coverage of the 90 % interval at the end

To reach: at least 88 %, and at most 97 % where there are four labelled instances an arm.
"""

PEERS = """## Beside its peers

The same releases and seeds. Every method asks one-sided at 5 % whether the candidate is worse at all (margin 0), but
for the policy, which asks for its margins, and Kayenta, whose constants are its own (98 % interval, tolerance 0.25).
"At the end": one look at the last minute. "At any minute": looked at each minute, as people do; peers from minute 5,
ours by its calendar of looks, which is what makes that allowed. Median: of all releases, over looks at each minute.
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
    """All of docs/accuracy.md, of the designs that there are."""
    readings = {name: Reading(name, tuple(results[name])) for name in SCENARIOS if results.get(name)}
    parts = [
        HEAD,
        _count(readings),
        REACHED,
        _draw(("Property", "On", "Found", "To reach", "Reached"), check_targets(readings)),
        DESIGNS,
        _draw(("Design", "n", "NO-GO", "Median", "GO", "INCONCLUSIVE"), (_verdicts(r) for r in readings.values())),
        WORSE,
        _draw(("Design", *(NAMES[m] for m in METRICS)), list_false_worse(readings)),
        COVERAGE,
        _draw(("Design", *(NAMES[m] for m in METRICS)), list_coverage(readings)),
        PEERS,
        *(part for name in PEERED if name in readings for part in _compare(readings[name])),
    ]
    return "\n".join([*parts, *([NOTES.read_text(encoding="utf-8")] if NOTES.exists() else [])])


def _count(readings: Mapping[str, Reading]) -> str:
    releases = sum(len(reading.records) for reading in readings.values())
    crashed = [f"{reading.crashes} × {name}" for name, reading in readings.items() if reading.crashes]
    errors = f"**On {', '.join(crashed)} something raised.**" if crashed else "None raised an error."
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
    head = ("Method", "At the end", "At any minute", "Median", "Interval holds the truth")
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

"""How often a verdict names where a fault is, and how often a wrong place: simulated releases with a known fault.

python benchmarks/faults.py [RELEASES] [--write]       (default: 8)

`--write` writes the table to docs/accuracy.md. A fault begins at random between 15 and 75 % of the run, at one random
endpoint on one random instance (unless the design says otherwise) with at least 200 requests from then on. Promised
where the card is to name all three: it does in at least 90 % of the releases, the onset within a minute, and in at most
2 % it names a wrong endpoint or instance.
"""

from __future__ import annotations

import itertools
import math
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from fault_designs import DESIGNS, HOUR, LEAST_REQUESTS, ON_CURVE, ONE_OF_LOG, ONE_OF_SERVICES, Design, Truth, draw

from evaluator.assess import ReleaseData
from evaluator.faults import find_fault, find_faults
from evaluator.pipeline.assessing import judge_data
from evaluator.policy import load_policy
from evaluator.records import Fault, FaultPlace, Run, RunFacts, RunState, VerdictWord, choose_bucket_s
from evaluator.simulate import Requests, Scenario, to_cells
from evaluator.simulate.faults import SimulatedFault

ROOT = Path(__file__).parent.parent
NOTES, ACCURACY = ROOT / "tests" / "arena" / "faults.md", ROOT / "docs" / "accuracy.md"
HEADING = "## Where a fault is"
TOLERANCE_S = 60.0
OF_CURVE, A_MINUTE = (50, 200, 500, 1000, math.inf), (0, 10, 25, 50, 100, math.inf)
"""Edges of the numbers of requests by which the curve is written: at the place, and there in a minute."""
LEAST_OF_CURVE = 10
MOST_PLACES = 0.95
LEAST_NAMED, MOST_WRONG = 0.9, 0.02


def judge(requests: Requests, bucket_s: int) -> tuple[VerdictWord, tuple[Fault, ...]]:
    """Judge a release by the built-in policy; returns the word and the faults.

    With a GO, which shows none, those that would be found: few releases of some designs are anything else.
    """
    cells = to_cells(requests, bucket_s)
    users = dict.fromkeys(requests.arms, 10)
    runs = tuple(
        Run(run, "cart@2", "g1", "import", state=RunState.COMPLETE, facts=RunFacts(users=users))
        for run in requests.runs
    )
    judged = judge_data(ReleaseData(runs, cells), load_policy().rulebook, "cart@2")
    word, pairs = judged.judgement.word, judged.requests
    found = find_faults(pairs, judged.evidence, word) or ()
    if word is VerdictWord.GO and pairs is not None:
        kinds = [(arm, what) for arm in requests.arms[1:] for what in ("failures", "response_time")]
        found = tuple(fault for arm, what in kinds if (fault := find_fault(pairs, arm, what)) is not None)
    return word, found


def is_named(place: FaultPlace, truth: frozenset[str]) -> bool:
    """Is the place the true one?"""
    if place.scope == "all":
        return len(truth) == place.count
    return place.scope == "some" and frozenset(place.names) == truth


def is_wrong(place: FaultPlace, truth: frozenset[str]) -> bool:
    """Is a wrong endpoint (instance) named, or are all named where only some have it?"""
    if place.scope == "all":
        return len(truth) != place.count
    return place.scope == "some" and (
        not frozenset(place.names) <= truth or (frozenset(place.names) != truth and place.others_fine)
    )


def find_onset_state(fault: Fault, truth: SimulatedFault) -> Literal["named", "range", "wrong", "not_known"]:
    """Is the onset named, within a minute? `range`: it is not, and lies in the range that is written."""
    onset = fault.onset
    if onset.kind == "not_known":
        return "not_known"
    if truth.grows or onset.kind == "growth":
        return "named" if truth.grows and onset.kind == "growth" else "wrong"
    if onset.kind == "start":
        return "named" if truth.onset_s <= TOLERANCE_S else "wrong"
    if onset.elapsed_s is not None and abs(onset.elapsed_s - truth.onset_s) <= TOLERANCE_S:
        return "named"
    earliest_s, latest_s = onset.earliest_s or 0.0, onset.latest_s or 0.0
    is_written = onset.elapsed_s is None or latest_s - earliest_s > 2 * TOLERANCE_S
    return "range" if is_written and earliest_s <= truth.onset_s <= latest_s else "wrong"


@dataclass(frozen=True, slots=True)
class Found:
    """How a failure at one endpoint on one instance was named."""

    requests: int
    """Requests there since the onset."""
    per_minute: float
    place: bool
    onset: bool
    could: bool
    """Does one who knows the place and both rates name the onset?"""
    design: Design


def find_by_rates(requests: Requests, truth: Truth) -> float:
    """Find the likeliest two minutes of an onset for one who knows the place, and the share that fails there before it.

    He also knows what is added to it, and that the onset is between 15 and 75 % of the run. Returns their middle.
    """
    fault = truth.fault
    assert fault is not None
    endpoint = requests.endpoint == requests.endpoints.index(next(iter(truth.endpoints)))
    there = endpoint & (requests.instance == requests.instances.index(next(iter(truth.instances))))
    before = float(requests.failed[endpoint & (requests.arm == 0)].sum() + 0.5) / (
        (endpoint & (requests.arm == 0)).sum() + 1
    )
    since = before + (fault.size or 0.05)
    second = (requests.ts_us[there] - requests.ts_us.min()) // 1_000_000
    seconds = math.ceil(truth.duration_s) + 1
    n, failures = np.bincount(second, minlength=seconds), np.bincount(second, requests.failed[there], seconds)
    log = failures * math.log(since / before) + (n - failures) * math.log((1 - since) / (1 - before))
    log = np.cumsum(log[::-1])[::-1]
    possible = np.arange(int(0.15 * truth.duration_s), int(0.75 * truth.duration_s) + 1)
    cumulated = np.concatenate([[0.0], np.cumsum(np.exp(log[possible] - log[possible].max()))])
    first = np.searchsorted(possible, possible - TOLERANCE_S)
    after = np.searchsorted(possible, possible + TOLERANCE_S, side="right")
    near = cumulated[after] - cumulated[first]
    as_likely = np.flatnonzero(near >= near.max() * 0.999)
    return float(possible[as_likely[as_likely.size // 2]])


def count(design: Design, releases: int, curve: list[Found]) -> Counter[str]:
    """Judge so many releases of a design, and count how their faults are named; add those of one place to `curve`."""
    counts: Counter[str] = Counter()
    first = 1000 * DESIGNS.index(design)  # no two designs have the same releases
    for seed in range(first, first + releases):
        requests, truth = draw(design, seed)
        word, faults = judge(requests, design.scenario.bucket_s or choose_bucket_s(truth.duration_s))
        counts[word.value] += 1
        counts["releases"] += 1
        expected = truth.fault
        own = next((f for f in faults if expected and (f.arm, f.what) == (expected.arm, expected.what)), None)
        others = [fault for fault in faults if fault is not own]
        wrong = any("some" in (fault.endpoints.scope, fault.instances.scope) for fault in others)
        if own is not None and expected is not None:
            onset = find_onset_state(own, expected)
            named = is_named(own.endpoints, truth.endpoints), is_named(own.instances, truth.instances)
            counts["endpoint"] += named[0]
            counts["instance"] += named[1]
            counts[f"onset {onset}"] += 1
            counts["all three"] += all(named) and onset == "named"
            wrong = wrong or is_wrong(own.endpoints, truth.endpoints) or is_wrong(own.instances, truth.instances)
        counts["wrong name"] += wrong
        counts["tried"] += truth.tried
        if expected is not None and design in ON_CURVE:
            seconds = truth.duration_s - expected.onset_s
            place = own is not None and is_named(own.endpoints, truth.endpoints)
            place = place and own is not None and is_named(own.instances, truth.instances)
            is_dated = own is not None and find_onset_state(own, expected) == "named"
            could = abs(find_by_rates(requests, truth) - expected.onset_s) <= TOLERANCE_S
            curve.append(Found(truth.requests, 60 * truth.requests / seconds, place, is_dated, could, design))
    return counts


def write_share(count: int, of: int) -> str:
    """Write a share in percent with Wilson's 95 % interval; a dash of nothing."""
    if not of:
        return "–"
    z, share = 1.96, count / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return f"{100 * share:.3g} [{100 * low:.3g}–{100 * high:.3g}]"


def write_row(design: Design, counts: Counter[str]) -> list[str]:
    """Write the row of a design."""
    releases = counts["releases"]

    def to_percent(key: str) -> str:
        """Write a share in percent, without an interval."""
        return f"{100 * counts[key] / releases:.3g}"

    go, wrong = to_percent("go"), write_share(counts["wrong name"], releases)
    if not design.what:
        return [design.name, str(releases), go, "", "", "", "", "", wrong]
    name = f"**{design.name}**" if design.promised else design.name
    shares = (to_percent(key) for key in ("endpoint", "instance", "onset named", "onset wrong"))
    return [name, str(releases), go, write_share(counts["all three"], releases), *shares, wrong]


HEAD = ("Design", "n", "GO", "All three", "Endpoint", "Instance", "Onset", "Onset wrong", "Wrong name")


def is_large(scenario: Scenario) -> bool:
    """Does a release take so long that half as many are drawn?"""
    return scenario.endpoints > 100 or scenario.duration_s > 2 * HOUR.duration_s - 1


def list_missed(design: Design, counts: Counter[str]) -> Iterable[str]:
    """Yield the promises that a design surely misses, by more than chance explains."""
    releases = counts["releases"]
    if design.what and design.promised and _is_below(counts["all three"], releases, LEAST_NAMED):
        yield f"{design.name}: all three are named in {write_share(counts['all three'], releases)} %"
    if _is_below(releases - counts["wrong name"], releases, 1 - MOST_WRONG):
        yield f"{design.name}: a wrong name in {write_share(counts['wrong name'], releases)} %"


def _is_below(count: int, of: int, promised: float) -> bool:
    """Is a share below what is promised by more than three standard errors?"""
    return count / of < promised - 3 * math.sqrt(promised * (1 - promised) / of)


def write_curve(curve: Sequence[Found]) -> str:
    """Write how often place and onset are named, by the number of requests at the place, and by that a minute."""
    lines = [
        "| Requests there | a minute | n | Endpoint and instance | Onset | All three | Onset, rates known | Bound |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for least, most in itertools.pairwise(OF_CURVE):
        for fewest, below in itertools.pairwise(A_MINUTE):
            own = [one for one in curve if least <= one.requests < most and fewest <= one.per_minute < below]
            if len(own) < LEAST_OF_CURVE:
                continue
            bound = sum(1 - math.exp(-0.1 * one.per_minute) for one in own) / len(own)
            counted = zip(*((f.place, f.onset, f.place and f.onset, f.could) for f in own), strict=True)
            shares = (write_share(sum(values), len(own)) for values in counted)
            named = " | ".join((_name_range(least, most), _name_range(fewest, below), str(len(own)), *shares))
            lines.append(f"| {named} | {100 * bound:.3g} |")
    return "\n".join(lines)


def write_simulators(curve: Sequence[Found]) -> str:
    """Write how often all three are named in each simulator, where failures are at one endpoint on one instance."""
    lines = [
        "| Simulator | Requests there, a minute | n | Endpoint and instance | Onset | All three | Onset, rates known |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, design in (("first", DESIGNS[0]), ("logs", ONE_OF_LOG), ("services", ONE_OF_SERVICES)):
        for fewest, below in ((0.0, math.inf), *itertools.pairwise(A_MINUTE)):
            own = [one for one in curve if one.design is design and fewest <= one.per_minute < below]
            if len(own) < LEAST_OF_CURVE:
                continue
            counted = zip(*((f.place, f.onset, f.place and f.onset, f.could) for f in own), strict=True)
            shares = " | ".join(write_share(sum(values), len(own)) for values in counted)
            asked = "any" if math.isinf(below) and not fewest else _name_range(fewest, below)
            lines.append(f"| {name} | {asked} | {len(own)} | {shares} |")
    return "\n".join(lines)


def _name_range(least: float, most: float) -> str:
    """Name a range of numbers: `200 to 300`, `from 1,000`."""
    return f"from {least:,}" if math.isinf(most) else f"{least:,} to {most:,}"


def write_places(places: Mapping[str, float]) -> str:
    """Write which share of the places that were drawn has 200 requests, where that is not nearly all."""
    few = [f"{100 * share:.3g} % ({name})" for name, share in places.items() if share < MOST_PLACES]
    others = f"in the other designs of these, at least {100 * MOST_PLACES:.0f} %"
    text = (
        f"Of all places (an endpoint on an instance), {', '.join(few)} have 200 requests since such an onset; {others}."
    )
    return textwrap.fill(text, 120)


def write_section(
    rows: Sequence[Sequence[str]], releases: int, curve: Sequence[Found], places: Mapping[str, float]
) -> str:
    """Write the section of docs/accuracy.md.

    `places`: name of a design → share of the places that have enough requests.
    """
    table = "\n".join(f"| {' | '.join(row)} |" for row in (HEAD, ["---"] * len(HEAD), *rows))
    return f"""{HEADING}

How often it is right where a verdict says that a fault is ([method B.5a](method.md#b5a-where-a-fault-is)), on
n simulated releases of each design, judged by the built-in policy
(`python benchmarks/faults.py {releases} --write`). Unless the name of the design says something else, releases are as
above, and the fault is +5 points of failures or twice the time, at one endpoint on one instance, both chosen at random,
with at least 200 requests from its onset on, which is chosen at random between 15 and 75 % of the run.

Shares are in percent; in brackets Wilson's 95 % interval of the Monte Carlo error.

- GO: verdicts that show no fault, because they are GO. The other shares are of all releases: what these would show is
  counted as well.
- Onset: named within a minute, or rightly as "from the start" or as a growth.
- Onset wrong: more than a minute off, and outside of the range that is written next to it.
- Wrong name: an endpoint or instance without the fault is named, or all where only some have it, or any for a metric
  that has no fault. Where nothing is wrong, nothing may be named.
- In bold: at least 90 % of "all three" are promised. At most 2 % of "wrong name" are promised for all.

- Designs whose name begins with "log" are of a second simulator, written apart from the first
  (`benchmarks/fault_logs.py`): traffic in surges, unequal loads, cold starts, pauses, an instance that restarts in half
  of the releases, bad requests in a row, heavy tails, and retries of what failed.
- Those that begin with "services" are of a third one (`benchmarks/fault_services.py`): each release is of another
  service, with 5 to 60 minutes, 5 to 200 endpoints, 2 to 6 instances a side and 10 to 50 % of the traffic; traffic is
  overdispersed, instances are unequal, times drift in waves, usual failures come in episodes of a minute and in bursts
  of an instance or of both arms, and the fault itself is now weaker, now stronger.

{table}

**At +5 points of failures since a time, at one endpoint on one instance**, by simulator. "Rates known" is the same
simulated releases dated by one who knows the place, the share that fails there before, the five points that are added,
and that the onset is between 15 and 75 % of the run: the likeliest two minutes (Bayes). Who knows less can hardly do
better.

{write_simulators(curve)}

**Requests at the place.** "At least 200 requests there" does not say how many there are in a minute. At +5 points, k
requests a minute have 0.05 k failures a minute, so that no method can show the onset to ±1 minute with a probability
above 1 - exp(-0.1 k) ("bound"): 90 % for 23 a minute, 63 % for 10. That is without any usual failures; with them,
"rates known" is below it. There are few a minute with 10 % of the traffic for two hours, with 20 requests a second for
six hours, and among 200 endpoints; there, the place is promised, and the onset is given as a range. All releases of all
designs with such a fault:

{write_curve(curve)}

{write_places(places)}

What is not named is a range ("between minute 5 and minute 11") or not known, rarely a wrong minute: see "onset wrong".
In the services, places are missed as well: where usual failures of an endpoint or of an instance come and go, +5 points
of a few hundred requests are little evidence, and the card says "not known".

Wrong names in short runs are mostly bursts or episodes of failures that continue to the end, which the simulated
releases have without any fault. For designs with few releases, the intervals do not prove "at most 2 %".
"""


def main() -> None:
    """Count all designs, print the table, and fail if a promise is missed."""
    words = sys.argv[1:]
    releases = int(next((word for word in words if word.isdecimal()), "8"))
    rows, missed, curve = [], [], list[Found]()
    places: dict[str, float] = {}
    for design in DESIGNS:
        counts = count(design, design.times * (releases // 2 if is_large(design.scenario) else releases), curve)
        if design in ON_CURVE and design.least_requests == LEAST_REQUESTS and design.source != "services":
            places[design.name] = counts["releases"] / counts["tried"]
        rows.append(write_row(design, counts))
        missed += list_missed(design, counts)
        print(" | ".join(rows[-1]), dict(counts) if "--counts" in words else "", flush=True)
    if "--write" in words:
        section = write_section(rows, releases, curve, places)
        NOTES.write_text(section, encoding="utf-8")
        text = ACCURACY.read_text(encoding="utf-8")
        before, _, after = text.partition(f"{HEADING}\n")
        following = after[after.index("\n## ") + 1 :] if "\n## " in after else ""
        if not after:
            before, _, following = text.partition("## Why some targets")
            following = f"## Why some targets{following}"
        ACCURACY.write_text(f"{before}{section}\n{following}", encoding="utf-8")
    if missed:
        raise SystemExit("\n".join(missed))


if __name__ == "__main__":
    main()

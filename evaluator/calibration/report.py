"""How often a policy raises a false alarm on the user's own data, and which regressions it finds.

Identical releases are made from stored baselines (`splits`) and judged by the whole policy, without and with an added
regression (`inject`). Splits of one run are not independent: m instances have m - 1 independent halvings, each in two
directions. So a run counts for at most that many comparisons, however many are judged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluator.assess import assess
from evaluator.calibration.inject import fail_more, slow_down
from evaluator.calibration.learn import learn_instances
from evaluator.calibration.splits import (
    balanced_halves,
    both_ways,
    only_baseline,
    only_runs,
    pair_runs,
    split_instances,
    split_time,
)
from evaluator.judges import judge_evidence
from evaluator.records import (
    BASELINE,
    CANDIDATE,
    Cells,
    EvidenceKind,
    Learnt,
    Role,
    Rulebook,
    Run,
    RunFacts,
    RunState,
    VerdictWord,
)
from evaluator.stats.inference.score import wilson_interval

Cases = Iterator[tuple[Cells, tuple[Run, ...]]]
Step = Callable[[str], None]
JudgedCases = tuple[list[VerdictWord], float]
"""Verdicts of some cases, and the number of independent comparisons that they count for."""

TIME_SPLITS = 4
PAIRINGS = 4


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored run group."""

    name: str
    cells: Cells
    runs: tuple[Run, ...]
    same_version: bool = False
    """Both arms ran one version, so they are identical without being halves."""


@dataclass(frozen=True, slots=True)
class Injection:
    """A regression added to the candidate: relative change of latency, and increase of the failure rate."""

    latency: float = 0.0
    failures: float = 0.0


CHANGES = (
    Injection(),
    Injection(latency=0.05),
    Injection(latency=0.10),
    Injection(latency=0.20),
    Injection(failures=0.005),
)
"""The first one is no change: A/A."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Verdicts of one kind of comparison under one change."""

    kind: str
    """versions (one on both arms), instances, replicates, time, or between (past runs)."""
    change: Injection
    judged: int
    effective: float
    """Number of independent comparisons that they count for."""
    no_go: int
    go: int

    def interval(self, count: int) -> tuple[float, float]:
        """95 % interval of `count` as a share of the judged verdicts (Wilson, at the effective number)."""
        if not self.judged:
            return 0.0, 1.0
        return wilson_interval(count / self.judged, self.effective, 1.959963984540054)


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """The results of a policy on a history."""

    alpha: float
    tallies: tuple[Tally, ...]
    """By kind of comparison, each under all changes."""
    overall: Tally
    """A/A of all kinds whose arms ran together."""
    between: Tally | None
    """Past runs against each other: not at the same time, so changes in between count as well."""
    learnt: Learnt
    used: tuple[str, ...]
    left_out: tuple[str, ...]
    """Groups that were not used, and why."""

    @property
    def conclusion(self) -> str:
        """`keeps` its false-alarm rate, `cries_wolf` (exceeds it), or `unknown`: too little history."""
        low, high = self.overall.interval(self.overall.no_go)
        if not self.overall.judged:
            return "unknown"
        return "cries_wolf" if low > self.alpha else "keeps" if high <= self.alpha else "unknown"


def needed_comparisons(alpha: float) -> int:
    """Number of comparisons without a false alarm that shows a rate of at most alpha (95 % interval)."""
    return math.ceil(1.959963984540054**2 * (1 - alpha) / alpha)


def calibrate(
    stored: Sequence[Stored], rulebook: Rulebook, *, splits: int = 6, seed: int = 1, step: Step | None = None
) -> CalibrationReport:
    """Judge identical halves of stored baselines, without and with regressions. `splits`: maximum for each group.

    `step` is called with the name of the group that is judged. The same history, policy and seed give the same report.
    """
    random = np.random.default_rng(seed)
    used: list[Stored] = []
    left_out: list[str] = []
    for item in stored:
        if any(run.state is not RunState.COMPLETE for run in item.runs):
            left_out.append(f"{item.name}: a run is not complete")
        elif not (item.cells.moments.arm == 0).any() or item.cells.arms[0] != BASELINE:
            left_out.append(f"{item.name}: no requests of the baseline")
        else:
            used.append(item)
    left_out += [
        f"{rule.name}: only metrics of requests are calibrated"
        for rule in rulebook.rules
        if rule.evidence is not EvidenceKind.REQUESTS and rule.role is not Role.WATCH
    ]
    counted: dict[tuple[str, Injection], list[JudgedCases]] = {}
    for item in used:
        if step:
            step(f"{item.name}: {len(item.runs)} run{'s' if len(item.runs) != 1 else ''}")
        for kind, worth, cases in _make_cases(item, splits, random):
            judged = list(cases)
            for change in CHANGES:
                words = []
                for cells, runs in judged:
                    changed = slow_down(cells, CANDIDATE, change.latency) if change.latency else cells
                    if change.failures:
                        changed = fail_more(changed, CANDIDATE, change.failures, random)
                    words.append(_judge(changed, runs, rulebook))
                counted.setdefault((kind, change), []).append((words, worth))
    between = [([_judge(cells, runs, rulebook)], 1.0) for cells, runs in _between(used)]
    unchanged = [case for (_, change), judged in counted.items() if change == CHANGES[0] for case in judged]
    return CalibrationReport(
        alpha=rulebook.alpha,
        tallies=tuple(_tally(kind, change, judged) for (kind, change), judged in counted.items()),
        overall=_tally("all", CHANGES[0], unchanged),
        between=_tally("between", CHANGES[0], between) if between else None,
        learnt=learn_instances([item.cells for item in used], [item.same_version for item in used]),
        used=tuple(item.name for item in used),
        left_out=tuple(left_out),
    )


def _make_cases(item: Stored, most: int, random: np.random.Generator) -> Iterator[tuple[str, float, Cases]]:
    """Kinds of identical releases of this group: name, number of independent comparisons, and cases.

    If both arms ran one version, the group as it ran; and its baseline, split by instances, else by replicates, else
    by time.
    """
    # The arms are not those of the recorded facts, so facts are left out.
    neutral = tuple(replace(run, facts=RunFacts()) for run in item.runs)
    if item.same_version and len(item.cells.arms) > 1:
        yield "versions", 2.0, ((cells, neutral) for cells in both_ways(item.cells))
    moments = only_baseline(item.cells).moments
    by_run = [set(moments.instance[moments.run == run].tolist()) for run in np.unique(moments.run)]
    names = [item.cells.instances[code] for code in sorted(set.intersection(*by_run))] if by_run else []
    if len(names) >= 2:
        halves = balanced_halves(names, most, random)
        worth = float(min(len(halves), 2 * (len(names) - 1)))
        yield "instances", worth, ((split_instances(item.cells, half), neutral) for half in halves)
        return
    runs = [only_runs(item.cells, k) for k in range(len(item.cells.runs))]
    runs = [cells for cells in runs if (cells.moments.arm == 0).any()]
    if len(runs) >= 4:
        count = min(PAIRINGS, most)
        yield "replicates", float(min(count, len(runs) - 1)), _pairings(runs, count, random)
    else:
        count = min(TIME_SPLITS, most)
        yield "time", float(count), ((split_time(item.cells, random), neutral) for _ in range(count))


def _pairings(runs: Sequence[Cells], count: int, random: np.random.Generator) -> Cases:
    """Random pairs of runs, each pair as if its runs had been the arms of one run."""
    for _ in range(count):
        order = random.permutation(len(runs))
        pairs = [(runs[order[k]], runs[order[k + 1]]) for k in range(0, len(runs) - 1, 2)]
        yield pair_runs(pairs, together=True), _invented(len(pairs))


def _between(used: Sequence[Stored]) -> Cases:
    """Neighbouring groups with equal buckets, first run against first run, in both directions."""
    for first, second in itertools.pairwise(used):
        if first.cells.bucket_s == second.cells.bucket_s:
            baselines = only_runs(first.cells, 0), only_runs(second.cells, 0)
            if all((cells.moments.arm == 0).any() for cells in baselines):
                for pair in (baselines, baselines[::-1]):
                    yield pair_runs([pair], together=False), _invented(1)


def _invented(count: int) -> tuple[Run, ...]:
    return tuple(
        Run(f"pair-{k}", "calibration", "calibration", "import", replicate=k, state=RunState.COMPLETE)
        for k in range(count)
    )


def _judge(cells: Cells, runs: tuple[Run, ...], rulebook: Rulebook) -> VerdictWord:
    """Judge one case by the whole policy, except rules on readings, on outcomes and on endpoints without requests."""
    prior = replace(rulebook.prior, baseline=None, canary=None)
    on_requests = replace(rulebook, rules=rulebook.on_requests(cells.endpoints), prior=prior, sample_ratio={})
    return judge_evidence(assess(cells, runs, on_requests), on_requests, "calibration").word


def _tally(kind: str, change: Injection, judged: Sequence[JudgedCases]) -> Tally:
    words = [word for part, _ in judged for word in part]
    worth = float(sum(worth for _, worth in judged))
    return Tally(kind, change, len(words), worth, words.count(VerdictWord.NO_GO), words.count(VerdictWord.GO))

"""How often the policy at hand cries wolf on the team's own data, and what it would have found.

Identical releases are made from stored baselines (`splits`) and judged by the whole policy; regressions are put into
the same ones (`inject`). Splits of one run are not independent: of m instances there are m - 1 independent halvings,
each in two directions, so a run counts for at most that many comparisons however many are judged.
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
from evaluator.judges import JUDGES
from evaluator.metrics import OUTCOME_METRICS
from evaluator.records import CANDIDATE, Cells, Learnt, Rulebook, Run, RunFacts, RunState, VerdictWord
from evaluator.stats.score import wilson_interval

__all__ = ["CHANGES", "CalibrationReport", "Change", "Stored", "Tally", "calibrate", "needed_comparisons"]

Cases = Iterator[tuple[Cells, tuple[Run, ...]]]
Step = Callable[[str], None]

TIME_SPLITS = 4
PAIRINGS = 4


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored run group."""

    name: str
    cells: Cells
    runs: tuple[Run, ...]
    same_version: bool = False
    """Both arms ran one version: identical by what they are, not by being halves."""


@dataclass(frozen=True, slots=True)
class Change:
    """A regression put into the candidate: relative latency, and failures added to its rate."""

    latency: float = 0.0
    failures: float = 0.0


CHANGES = (Change(), Change(latency=0.05), Change(latency=0.10), Change(latency=0.20), Change(failures=0.005))
"""The first is none at all: A/A."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Verdicts of one kind of comparison under one change."""

    kind: str
    """versions (one on both arms), instances, replicates, time, or between (past runs)."""
    change: Change
    judged: int
    effective: float
    """Independent comparisons that these are worth."""
    no_go: int
    go: int

    def interval(self, count: int) -> tuple[float, float]:
        """95 % interval of the share that `count` is (Wilson, at the effective number)."""
        if not self.judged:
            return 0.0, 1.0
        return wilson_interval(count / self.judged, self.effective, 1.959963984540054)


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What the history says of the policy."""

    alpha: float
    tallies: tuple[Tally, ...]
    """A kind of comparison after the other, each under all changes."""
    overall: Tally
    """A/A of all kinds whose arms ran together."""
    between: Tally | None
    """Past runs against each other: not at the same time, so what changed in between counts as well."""
    learnt: Learnt
    used: tuple[str, ...]
    left_out: tuple[str, ...]
    """Groups that were not used, and why."""

    @property
    def conclusion(self) -> str:
        """`keeps`, `cries_wolf`, or `unknown`: too little history to tell."""
        low, high = self.overall.interval(self.overall.no_go)
        if not self.overall.judged:
            return "unknown"
        return "cries_wolf" if low > self.alpha else "keeps" if high <= self.alpha else "unknown"


def needed_comparisons(alpha: float) -> int:
    """Comparisons without a single false alarm that it takes to show a rate of at most alpha (95 %)."""
    return math.ceil(1.959963984540054**2 * (1 - alpha) / alpha)


def calibrate(
    stored: Sequence[Stored], rulebook: Rulebook, *, splits: int = 6, seed: int = 1, step: Step | None = None
) -> CalibrationReport:
    """Judge identical halves of stored baselines, without and with regressions. `splits`: at most so many a group.

    `step` is told what is being judged. The same history, policy and seed give the same report.
    """
    random = np.random.default_rng(seed)
    used, left_out = _choose(stored)
    counted: dict[tuple[str, Change], list[float]] = {}
    for item in used:
        if step:
            step(f"{item.name}: {len(item.runs)} run{'s' if len(item.runs) != 1 else ''}")
        for kind, worth, cases in _make_cases(item, splits, random):
            judged = list(cases)
            for change in CHANGES:
                words = [_judge(_inject(cells, change, random), runs, rulebook) for cells, runs in judged]
                _add(counted, (kind, change), words, worth)
    between: dict[tuple[str, Change], list[float]] = {}
    for cells, runs in _between(used):
        _add(between, ("between", CHANGES[0]), [_judge(cells, runs, rulebook)], 1.0)
    tallies = tuple(_tally(kind, change, sums) for (kind, change), sums in counted.items())
    return CalibrationReport(
        alpha=rulebook.alpha,
        tallies=tallies,
        overall=_sum_up([tally for tally in tallies if tally.change == CHANGES[0]]),
        between=next((_tally(*key, sums) for key, sums in between.items()), None),
        learnt=learn_instances([item.cells for item in used], [item.same_version for item in used]),
        used=tuple(item.name for item in used),
        left_out=left_out,
    )


def _choose(stored: Sequence[Stored]) -> tuple[list[Stored], tuple[str, ...]]:
    used, left_out = [], []
    for item in stored:
        why = _unusable(item)
        if why:
            left_out.append(f"{item.name}: {why}")
        else:
            used.append(item)
    return used, tuple(left_out)


def _unusable(item: Stored) -> str:
    if any(run.state is not RunState.COMPLETE for run in item.runs):
        return "a run is not complete"
    if not (item.cells.moments.arm == 0).any() or item.cells.arms[0] != "baseline":
        return "no requests of the baseline"
    return ""


def _make_cases(item: Stored, most: int, random: np.random.Generator) -> Iterator[tuple[str, float, Cases]]:
    """Identical releases that this group gives: as it ran where both arms had one version, and its halves."""
    if item.same_version and len(item.cells.arms) > 1:
        neutral = _neutral(item.runs)
        yield "versions", 2.0, ((cells, neutral) for cells in both_ways(item.cells))
    yield _split(item, most, random)


def _split(item: Stored, most: int, random: np.random.Generator) -> tuple[str, float, Cases]:
    """Kind of split that this group allows, how many independent comparisons it is worth, and the cases."""
    alone = only_baseline(item.cells)
    names = _common_instances(alone)
    if len(names) >= 2:
        halves = balanced_halves(names, most, random)
        worth = float(min(len(halves), 2 * (len(names) - 1)))
        neutral = _neutral(item.runs)
        return "instances", worth, ((split_instances(item.cells, half), neutral) for half in halves)
    runs = [only_runs(item.cells, k) for k in range(len(item.cells.runs))]
    runs = [cells for cells in runs if (cells.moments.arm == 0).any()]
    if len(runs) >= 4:
        count = min(PAIRINGS, most)
        return "replicates", float(min(count, len(runs) - 1)), _pairings(runs, count, random)
    count = min(TIME_SPLITS, most)
    return "time", float(count), ((split_time(item.cells, random), _neutral(item.runs)) for _ in range(count))


def _common_instances(alone: Cells) -> tuple[str, ...]:
    """Baseline's instances that took part in every run of the group."""
    moments = alone.moments
    by_run = [set(moments.instance[moments.run == run].tolist()) for run in np.unique(moments.run)]
    shared = set.intersection(*by_run) if by_run else set()
    return tuple(alone.instances[code] for code in sorted(shared))


def _pairings(runs: Sequence[Cells], count: int, random: np.random.Generator) -> Cases:
    """Runs dealt into pairs by chance, each pair as if its runs had been the arms of one."""
    for _ in range(count):
        order = random.permutation(len(runs))
        pairs = [(runs[order[k]], runs[order[k + 1]]) for k in range(0, len(runs) - 1, 2)]
        yield pair_runs(pairs, together=True), _invented(len(pairs))


def _between(used: Sequence[Stored]) -> Cases:
    """Neighbouring groups with equal buckets, first run against first run, in both directions."""
    for first, second in itertools.pairwise(used):
        if first.cells.bucket_s == second.cells.bucket_s:
            sides = only_runs(first.cells, 0), only_runs(second.cells, 0)
            if all((side.moments.arm == 0).any() for side in sides):
                for pair in (sides, sides[::-1]):
                    yield pair_runs([pair], together=False), _invented(1)


def _neutral(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs without what was seen of their arms: the arms are others now."""
    return tuple(replace(run, facts=RunFacts()) for run in runs)


def _invented(count: int) -> tuple[Run, ...]:
    return tuple(
        Run(f"pair-{k}", "calibration", "calibration", "import", replicate=k, state=RunState.COMPLETE)
        for k in range(count)
    )


def _inject(cells: Cells, change: Change, random: np.random.Generator) -> Cells:
    if change.latency:
        cells = slow_down(cells, CANDIDATE, change.latency)
    return fail_more(cells, CANDIDATE, change.failures, random) if change.failures else cells


def _judge(cells: Cells, runs: tuple[Run, ...], rulebook: Rulebook) -> VerdictWord:
    """The whole policy on one case; rules of outcomes, and of endpoints that were not called, are not asked."""
    rules = tuple(
        rule
        for rule in rulebook.rules
        if rule.type not in OUTCOME_METRICS and (rule.slice.endpoint is None or rule.slice.endpoint in cells.endpoints)
    )
    prior = replace(rulebook.prior, baseline=None, canary=None)
    asked = replace(rulebook, rules=rules, prior=prior, sample_ratio={})
    return JUDGES["native"](assess(cells, runs, asked), asked, "calibration").word


def _add(
    counted: dict[tuple[str, Change], list[float]], key: tuple[str, Change], words: Sequence[VerdictWord], worth: float
) -> None:
    sums = counted.setdefault(key, [0.0, 0.0, 0.0, 0.0])
    news = (len(words), worth, words.count(VerdictWord.NO_GO), words.count(VerdictWord.GO))
    for place, value in enumerate(news):
        sums[place] += value


def _tally(kind: str, change: Change, sums: Sequence[float]) -> Tally:
    return Tally(kind, change, int(sums[0]), sums[1], int(sums[2]), int(sums[3]))


def _sum_up(tallies: Sequence[Tally]) -> Tally:
    return Tally(
        kind="all",
        change=CHANGES[0],
        judged=sum(tally.judged for tally in tallies),
        effective=sum(tally.effective for tally in tallies),
        no_go=sum(tally.no_go for tally in tallies),
        go=sum(tally.go for tally in tallies),
    )

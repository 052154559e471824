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
Z_OF_INTERVAL = 1.959963984540054
"""Normal quantile of a 95 % interval."""


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
        return wilson_interval(count / self.judged, self.effective, Z_OF_INTERVAL)


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
        if not self.overall.judged:
            return "unknown"
        # The 95 % interval of the rate of false alarms, all of which are NO-GO.
        low, high = self.overall.interval(self.overall.no_go)
        if low > self.alpha:
            return "cries_wolf"
        return "keeps" if high <= self.alpha else "unknown"


def needed_comparisons(alpha: float) -> int:
    """Number of comparisons without a false alarm that shows a rate of at most alpha (95 % interval of Wilson)."""
    return math.ceil(Z_OF_INTERVAL**2 * (1 - alpha) / alpha)


def calibrate(
    stored: Sequence[Stored], rulebook: Rulebook, *, splits: int = 6, seed: int = 1, step: Step | None = None
) -> CalibrationReport:
    """Judge identical halves of stored baselines, without and with regressions.

    `splits`: maximum for each group. `step` is called with a description of each group before it is judged. The same
    history, policy and seed give the same report.
    """
    random = np.random.default_rng(seed)
    used: list[Stored] = []
    left_out: list[str] = []
    for group in stored:
        if any(run.state is not RunState.COMPLETE for run in group.runs):
            left_out.append(f"{group.name}: a run is not complete")
        elif not (group.cells.moments.arm == 0).any() or group.cells.arms[0] != BASELINE:
            left_out.append(f"{group.name}: no requests of the baseline")
        else:
            used.append(group)
    left_out += [
        f"{rule.name}: only metrics of requests are calibrated"
        for rule in rulebook.rules
        if rule.evidence is not EvidenceKind.REQUESTS and rule.role is not Role.WATCH
    ]
    judged: dict[tuple[str, Injection], list[JudgedCases]] = {}
    for group in used:
        if step:
            step(f"{group.name}: {len(group.runs)} run{'s' if len(group.runs) != 1 else ''}")
        # `effective`: number of independent comparisons that the cases of a kind count for.
        for kind, effective, cases in _make_cases(group, splits, random):
            case_list = list(cases)  # each case is judged under every change
            for change in CHANGES:
                words = []
                for cells, runs in case_list:
                    changed = slow_down(cells, CANDIDATE, change.latency) if change.latency else cells
                    if change.failures:
                        changed = fail_more(changed, CANDIDATE, change.failures, random)
                    words.append(_judge(changed, runs, rulebook))
                judged.setdefault((kind, change), []).append((words, effective))
    # Past baselines against each other: each pair counts as one independent comparison.
    no_change = CHANGES[0]
    between = [([_judge(cells, runs, rulebook)], 1.0) for cells, runs in _pair_groups(used)]
    unchanged = [part for (_, change), parts in judged.items() if change == no_change for part in parts]
    return CalibrationReport(
        alpha=rulebook.alpha,
        tallies=tuple(_tally(kind, change, parts) for (kind, change), parts in judged.items()),
        overall=_tally("all", no_change, unchanged),
        between=_tally("between", no_change, between) if between else None,
        learnt=learn_instances([group.cells for group in used], [group.same_version for group in used]),
        used=tuple(group.name for group in used),
        left_out=tuple(left_out),
    )


def _make_cases(group: Stored, most: int, random: np.random.Generator) -> Iterator[tuple[str, float, Cases]]:
    """Make identical releases of a group. Yields for each kind its name, number of independent comparisons, and cases.

    If both arms ran one version, the group as it ran; and its baseline, split by instances, else by replicates, else
    by time. `most`: maximum number of cases of a split.
    """
    # The arms are not those of the recorded facts, so facts are left out.
    runs_without_facts = tuple(replace(run, facts=RunFacts()) for run in group.runs)
    if group.same_version and len(group.cells.arms) > 1:
        yield "versions", 2.0, ((cells, runs_without_facts) for cells in both_ways(group.cells))
    moments = only_baseline(group.cells).moments
    instances_by_run = [set(moments.instance[moments.run == run].tolist()) for run in np.unique(moments.run)]
    in_all_runs = set.intersection(*instances_by_run) if instances_by_run else set()
    names = [group.cells.instances[code] for code in sorted(in_all_runs)]
    if len(names) >= 2:
        halves = balanced_halves(names, most, random)
        # Halves share instances: n instances have no more than n - 1 independent differences, each in both directions.
        effective = float(min(len(halves), 2 * (len(names) - 1)))
        yield "instances", effective, ((split_instances(group.cells, half), runs_without_facts) for half in halves)
        return
    all_runs = [only_runs(group.cells, run_code) for run_code in range(len(group.cells.runs))]
    runs = [cells for cells in all_runs if (cells.moments.arm == 0).any()]  # those with a baseline
    if len(runs) >= 4:
        count = min(PAIRINGS, most)
        yield "replicates", float(min(count, len(runs) - 1)), _pair_at_random(runs, count, random)
    else:
        count = min(TIME_SPLITS, most)
        cases = ((split_time(group.cells, random), runs_without_facts) for _ in range(count))
        yield "time", float(count), cases


def _pair_at_random(runs: Sequence[Cells], count: int, random: np.random.Generator) -> Cases:
    """Pair runs at random, each pair as if its runs had been the arms of one run; `count` times."""
    for _ in range(count):
        order = random.permutation(len(runs))
        pairs = [(runs[order[k]], runs[order[k + 1]]) for k in range(0, len(runs) - 1, 2)]
        yield pair_runs(pairs, together=True), _make_runs(len(pairs))


def _pair_groups(used: Sequence[Stored]) -> Cases:
    """Pair the baselines of neighbouring groups, first run with first run, and yield each pair in both directions.

    Groups with buckets of different widths are not paired.
    """
    for first, second in itertools.pairwise(used):
        if first.cells.bucket_s != second.cells.bucket_s:
            continue
        earlier, later = only_runs(first.cells, 0), only_runs(second.cells, 0)
        if (earlier.moments.arm == 0).any() and (later.moments.arm == 0).any():
            yield pair_runs([(earlier, later)], together=False), _make_runs(1)
            yield pair_runs([(later, earlier)], together=False), _make_runs(1)


def _make_runs(count: int) -> tuple[Run, ...]:
    """Make the runs of cells from `pair_runs`: complete replicates named `pair-0`, `pair-1` and so on."""
    return tuple(
        Run(f"pair-{number}", "calibration", "calibration", "import", replicate=number, state=RunState.COMPLETE)
        for number in range(count)
    )


def _judge(cells: Cells, runs: tuple[Run, ...], rulebook: Rulebook) -> VerdictWord:
    """Judge one case by the whole policy, except rules on readings, on outcomes and on endpoints without requests."""
    # Numbers of instances, and shares of the users, are those of the arms that ran, not of these halves.
    prior = replace(rulebook.prior, baseline=None, canary=None)
    on_requests = replace(rulebook, rules=rulebook.on_requests(cells.endpoints), prior=prior, sample_ratio={})
    return judge_evidence(assess(cells, runs, on_requests), on_requests, "calibration").word


def _tally(kind: str, change: Injection, judged: Sequence[JudgedCases]) -> Tally:
    """Count the verdicts of one kind of comparison under one change.

    `judged`: for each group, its verdicts, and the number of independent comparisons that they count for.
    """
    words = [word for words_of_part, _ in judged for word in words_of_part]
    return Tally(
        kind=kind,
        change=change,
        judged=len(words),
        effective=float(sum(effective for _, effective in judged)),
        no_go=words.count(VerdictWord.NO_GO),
        go=words.count(VerdictWord.GO),
    )

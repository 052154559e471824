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
        """95 % interval of `count` as a share of the judged verdicts (Wilson, at the effective number).

        0 to 1 if no verdict was judged.
        """
        if not self.judged:
            return 0.0, 1.0
        return wilson_interval(count / self.judged, self.effective, Z_OF_INTERVAL)


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """The results of a policy on a history."""

    alpha: float
    """False-alarm rate that the policy allows."""
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

    `splits`: maximum number of comparisons made of each group. `step`: called with a description of each group before
    the group is judged. The same history, policy and seed give the same report.
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
    judged: dict[tuple[str, Injection], list[JudgedCases]] = {}  # kind and change → an entry for each group
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
    no_change = CHANGES[0]
    unchanged = [part for (_, change), parts in judged.items() if change == no_change for part in parts]
    # Past baselines against each other: each case counts as one independent comparison.
    between = [([_judge(cells, runs, rulebook)], 1.0) for cells, runs in _pair_groups(used)]
    return CalibrationReport(
        alpha=rulebook.no_go_level,
        tallies=tuple(_tally(kind, change, parts) for (kind, change), parts in judged.items()),
        overall=_tally("all", no_change, unchanged),
        between=_tally("between", no_change, between) if between else None,
        learnt=learn_instances([group.cells for group in used], [group.same_version for group in used]),
        used=tuple(group.name for group in used),
        left_out=tuple(left_out),
    )


def _make_cases(group: Stored, max_cases: int, random: np.random.Generator) -> Iterator[tuple[str, float, Cases]]:
    """Make releases that change nothing from the stored runs of a group: a case is the cells and runs of one release.

    If both arms ran one version, the group is used as it ran. In addition its baseline is split in two arms: by
    instances if there are two or more, else by replicates if there are four or more, else by time.

    Yields for each kind of comparison: its name, the number of independent comparisons that its cases count for, and
    the cases, at most `max_cases` of a split.
    """
    # The facts were recorded of the arms that ran, not of the arms that are made here, so they are left out.
    runs_without_facts = tuple(replace(run, facts=RunFacts()) for run in group.runs)
    if group.same_version and len(group.cells.arms) > 1:
        # Two cases: the arms as they ran, and exchanged.
        yield "versions", 2.0, ((cells, runs_without_facts) for cells in both_ways(group.cells))
    moments = only_baseline(group.cells).moments
    instances_by_run = [set(moments.instance[moments.run == run].tolist()) for run in np.unique(moments.run)]
    # Only instances that are in every run: so both halves have requests in each of them.
    in_all_runs = set.intersection(*instances_by_run) if instances_by_run else set()
    names = [group.cells.instances[code] for code in sorted(in_all_runs)]
    if len(names) >= 2:
        halves = balanced_halves(names, max_cases, random)
        # Halves share instances: n instances have no more than n - 1 independent differences, each in both directions.
        effective = float(min(len(halves), 2 * (len(names) - 1)))
        yield "instances", effective, ((split_instances(group.cells, half), runs_without_facts) for half in halves)
        return
    all_runs = [only_runs(group.cells, run_code) for run_code in range(len(group.cells.runs))]
    runs = [cells for cells in all_runs if (cells.moments.arm == 0).any()]  # those with a baseline
    if len(runs) >= 4:
        count = min(PAIRINGS, max_cases)
        # As above: n runs have no more than n - 1 independent differences, here each in one direction.
        yield "replicates", float(min(count, len(runs) - 1)), _pair_at_random(runs, count, random)
    else:
        count = min(TIME_SPLITS, max_cases)
        cases = ((split_time(group.cells, random), runs_without_facts) for _ in range(count))
        yield "time", float(count), cases


def _pair_at_random(runs: Sequence[Cells], count: int, random: np.random.Generator) -> Cases:
    """Make `count` cases, each of which pairs the runs at random: the two runs of a pair become the arms of one run."""
    for _ in range(count):
        order = random.permutation(len(runs))  # of an odd number, the last one is left out
        pairs = [(runs[order[k]], runs[order[k + 1]]) for k in range(0, len(runs) - 1, 2)]
        yield pair_runs(pairs, together=True), _make_runs(len(pairs))


def _pair_groups(used: Sequence[Stored]) -> Cases:
    """Pair the baselines of neighbouring groups (first run with first run), and yield a case in each direction.

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
    # The policy's numbers of instances and shares of users describe the arms that ran, not these halves: left out.
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

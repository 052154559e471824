"""Verdicts with figures, of simulated releases: what tests of curves, figures and the report share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from judging import RULEBOOK

from evaluator.assess import ReleaseData, assess_release
from evaluator.faults import find_faults
from evaluator.figure_data import trace_release
from evaluator.judges import judge_evidence
from evaluator.records import (
    Bins,
    Cells,
    InstanceBins,
    Moments,
    Release,
    Rulebook,
    Run,
    RunFacts,
    RunState,
    Service,
    Verdict,
)
from evaluator.simulate import SCENARIOS, Change, Scenario, simulate_cells
from evaluator.stats.shaping.failures import list_failures

JUDGED_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SHORT = replace(Scenario(), duration_s=300.0)
SLOWER = replace(SHORT, changes=(Change(latency=0.5),))
HOUR = Scenario(
    duration_s=3600.0, endpoints=20, instances=(4, 4), users=30, spawn_s=120.0, changes=(Change(endpoint=0.6),)
)
HOSTILE = "GET /<script>alert(1)</script></style>\"'><img src=x onerror=alert(2)>\u202egpj.exe\x1b[31m"
NAMES = (HOSTILE, "=cmd|' /C calc'!A0 " + "x" * 100_000, "POST /orders | `a` ::error::")


def runs_of(cells: Cells, **facts: object) -> tuple[Run, ...]:
    users = dict.fromkeys(cells.arms, 10)
    return tuple(
        Run(name, "cart@2", "g1", "locust", position, state=RunState.COMPLETE, landed=1000, facts=RunFacts(users=users))
        for position, name in enumerate(cells.runs)
    )


def give_verdict(
    design: Scenario,
    *,
    edit: Callable[[Cells], Cells] = lambda cells: cells,
    rulebook: Rulebook = RULEBOOK,
    figures: bool = True,
    release: str = "cart@2",
) -> Verdict:
    """A verdict as the pipeline would give it."""
    cells = edit(simulate_cells(design, seed=1))
    runs = runs_of(cells)
    assessment = assess_release(ReleaseData(runs, cells), rulebook)
    judgement = judge_evidence(assessment.evidence, rulebook, release)
    evidence = replace(assessment.evidence, comparisons=judgement.comparisons)
    traced = {
        **trace_release(assessment.requests, rulebook, judgement.comparisons),
        "runs": [describe(run) for run in runs],
    }
    traced["candidates"] = [{"release": "cart@1", "verdict": "no_go", "judged_at": JUDGED_AT.isoformat()}]
    return Verdict(
        release=Release(release, (Service("cart", "1.4.1", "1.5.0"),)),
        word=judgement.word,
        reasons=judgement.reasons,
        next_action=judgement.next_action,
        evidence=evidence,
        judge="native",
        monitoring=evidence.monitoring,
        alpha=rulebook.alpha,
        time_to_decision_s=judgement.decided_at_s or None,
        policy={"version": 1, "service": "cart"},
        queries=({"query": "up{version='1'}", "arm": "canary"},),
        policy_hash="sha256:" + "ab" * 32,
        data_hash="sha256:" + "cd" * 32,
        evaluator_version="0.1.0",
        judged_at=JUDGED_AT,
        faults=find_faults(assessment.requests, evidence, judgement.word),
        failures=None if assessment.requests is None else list_failures(assessment.requests.cells),
        figures=traced if figures else None,
    )


def describe(run: Run) -> dict[str, object]:
    return {
        "id": run.id,
        "source": run.source,
        "replicate": run.replicate,
        "state": run.state.value,
        "started": JUDGED_AT.isoformat(),
        "ended": None,
        "rows": run.landed,
        "users": dict(run.facts.users),
        "stopped_by": run.facts.stopped_by,
    }


def with_hostile_names(cells: Cells) -> Cells:
    instances = ("<b>pod\u202e</b>", *cells.instances[1:])
    return replace(cells, endpoints=(*NAMES, *cells.endpoints[len(NAMES) :]), instances=instances)


def without_requests(cells: Cells) -> Cells:
    tables = {"moments": Moments, "bins": Bins, "instance_bins": InstanceBins}
    empty = {
        name: kind(**{column: getattr(getattr(cells, name), column)[:0] for column in kind.__dataclass_fields__})
        for name, kind in tables.items()
    }
    return replace(cells, **empty)


@cache
def find_verdict(kind: str) -> Verdict:
    """One verdict of each kind for all tests: they are immutable, and take a while."""
    return KINDS[kind]()


def write_pages(folder: Path) -> None:
    """The report of each kind of verdict as a file, for all test modules that look at them."""
    from evaluator.reports.html import to_html

    for kind in KINDS:
        (folder / f"{kind}.html").write_text(to_html(find_verdict(kind)), encoding="utf-8")


KINDS: dict[str, Callable[[], Verdict]] = {
    "no_go": lambda: give_verdict(SLOWER),
    "hour": lambda: give_verdict(HOUR),
    "inconclusive": lambda: give_verdict(SHORT),
    "three_arms": lambda: give_verdict(replace(SHORT, changes=(Change(latency=0.5), Change()))),
    "replicates": lambda: give_verdict(SCENARIOS["AA_replicates"]),
    "hostile": lambda: give_verdict(SLOWER, edit=with_hostile_names, release="cart@<b>2</b>"),
    "bare": lambda: give_verdict(SLOWER, figures=False),
    "no_data": lambda: give_verdict(SHORT, edit=without_requests),
}

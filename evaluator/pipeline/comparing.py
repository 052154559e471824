"""Compare any two runs or releases: check whether they are comparable, then compare as in any verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from evaluator.assess import ReleaseData
from evaluator.assess.requests import pair_requests
from evaluator.calibration import pair_runs
from evaluator.errors import UnknownName, UsageError
from evaluator.figure_data import trace_release
from evaluator.pipeline.assessing import judge_data
from evaluator.pipeline.runs import choose_runs
from evaluator.policy import Policy
from evaluator.records import BASELINE, CANDIDATE, Cells, Comparison, EvidenceKind, Finding, Monitoring, Run, RunState
from evaluator.stats.shaping.cells import recode, where
from evaluator.store import Store

MUST_MATCH = ("locustfile", "users", "pace", "pacing", "spawn_rate")
"""Keys of a fingerprint in which a difference makes it another test."""
UNSAID = ("targets", "files", "replicates")
"""Keys that differ between any two releases, and do not matter."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: an arm of the runs of a release, or of one of its runs."""

    label: str
    release: str
    services: frozenset[str]
    runs: tuple[Run, ...]
    arm: str

    @property
    def run_ids(self) -> list[str]:
        """Ids of its runs."""
        return [run.id for run in self.runs]


@dataclass(frozen=True, slots=True)
class Difference:
    """One key of the fingerprints: both values, whether they differ, and what a difference means."""

    what: str
    first: str
    second: str
    level: Literal["same", "warn", "refuse"]
    why: str = ""


@dataclass(frozen=True, slots=True)
class SideComparison:
    """The second side against the first."""

    comparisons: tuple[Comparison, ...]
    findings: tuple[Finding, ...]
    figures: Mapping[str, Any]


def find_side(store: Store, release_id: str, selection: str, arm: str) -> Side:
    """Find the runs of one side: `latest`, `all`, or the id of a run or group. Raises UnknownName, UsageError."""
    release = store.control.release(release_id)
    chosen = choose_runs(store.data.runs(release_id), selection)
    loads = tuple(run for run in chosen if run.kind is EvidenceKind.REQUESTS and run.landed)
    label = release_id if selection == "latest" else f"{release_id}, run {selection}"
    if not loads:
        raise UsageError(
            f"no requests have landed of {label}",
            hint=f"`evaluator load {release_id}` or `evaluator import` lands some",
        )
    return Side(label, release_id, frozenset(service.name for service in release.services), loads, arm)


def differences(first: Side, second: Side) -> tuple[Difference, ...]:
    """Compare the fingerprints of both sides key by key; differences that forbid the comparison come first."""
    first_facts, second_facts = (_gather(side.runs) for side in (first, second))
    rows = [_compare_services(first, second)]
    for key in dict.fromkeys([*first_facts, *second_facts]):
        if key in UNSAID:
            continue
        level: Literal["same", "warn", "refuse"] = "warn"
        why = "may change the numbers by itself"
        if first_facts.get(key) == second_facts.get(key):
            level, why = "same", ""
        elif key not in first_facts or key not in second_facts:
            why = "recorded on one side only"
        elif key in MUST_MATCH:
            level, why = "refuse", "they were different tests"
        texts = [facts.get(key) or "not recorded" for facts in (first_facts, second_facts)]
        rows.append(Difference(key, texts[0], texts[1], level, why))
    order = {"refuse": 0, "warn": 1, "same": 2}
    return tuple(sorted(rows, key=lambda row: order[row.level]))


def refusals(rows: Sequence[Difference]) -> tuple[Difference, ...]:
    """Return the differences that forbid the comparison."""
    return tuple(row for row in rows if row.level == "refuse")


def _gather(runs: Sequence[Run]) -> dict[str, str]:
    """Join the fingerprints of a side's runs; several values of a key are separated by slashes."""
    values_of: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in run.fingerprint.items():
            text = "–" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)
            values_of.setdefault(key, {})[text] = None
    return {key: " / ".join(values) for key, values in values_of.items()}


def _compare_services(first: Side, second: Side) -> Difference:
    first_names, second_names = (", ".join(sorted(side.services)) or "not known" for side in (first, second))
    if first.services and second.services and not first.services & second.services:
        return Difference("service", first_names, second_names, "refuse", "different services do different work")
    if first_names == second_names:
        return Difference("service", first_names, second_names, "same")
    return Difference("service", first_names, second_names, "warn", "may be different services")


def compare_sides(store: Store, first: Side, second: Side, policy: Policy) -> SideComparison:
    """Compare the second side with the first under a policy. They did not run together: common disturbances stay.

    Raises UsageError if the fingerprints forbid it or an arm has no requests, and UnknownName for an unknown arm.
    """
    forbidden = refusals(differences(first, second))
    if forbidden:
        differing = "; ".join(f"{row.what}: {row.first} against {row.second}" for row in forbidden)
        raise UsageError(f"these cannot be compared: {differing}", hint="compare runs of one test of one service")
    both = store.data.read_cells(list(dict.fromkeys([*first.run_ids, *second.run_ids])))
    sides = [_only(both, side) for side in (first, second)]
    called = [{cells.endpoints[code] for code in np.unique(cells.moments.endpoint)} for cells in sides]
    if not called[0] & called[1]:
        raise UsageError("these cannot be compared: they have no endpoint in common", hint="compare runs of one test")
    cells = pair_runs([(sides[0], sides[1])], together=False)
    rules = policy.rulebook.on_requests(cells.endpoints)
    rulebook = replace(policy.rulebook, rules=rules, monitoring=Monitoring(mode="fixed"))
    runs = (Run(cells.runs[0], second.release, "compare", "import", state=RunState.COMPLETE),)
    judged = judge_data(ReleaseData(runs, cells), rulebook, second.release)
    evidence = judged.evidence
    figures = trace_release(judged.requests, rulebook, evidence.comparisons)
    figures["timeline"] = None
    if all(len(side.runs) == 1 for side in (first, second)):
        together = pair_requests(pair_runs([(sides[0], sides[1])], together=True), runs, rulebook)
        figures["timeline"] = trace_release(together, rulebook, ())["timeline"]
    return SideComparison(evidence.comparisons, evidence.findings, figures)


def _only(cells: Cells, side: Side) -> Cells:
    """Pick the cells of a side's arm, named as the baseline of a comparison."""
    if side.arm not in cells.arms:
        raise UnknownName("arm", side.arm, cells.arms)
    arm = cells.arms.index(side.arm)
    runs = [code for code, run in enumerate(cells.runs) if run in set(side.run_ids)]

    as_baseline = np.zeros(len(cells.arms), dtype=np.int64)
    picked = replace(recode(where(cells, run=runs, arm=[arm]), arm=as_baseline), arms=(BASELINE, CANDIDATE))
    if not picked.moments.run.size:
        raise UsageError(f"{side.label} has no requests on {side.arm}", hint="choose another arm")
    return picked

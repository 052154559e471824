"""Compare any two runs or releases: check whether they are comparable, then compare as in any verdict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
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
from evaluator.wording import quote_command

MUST_MATCH = ("locustfile", "users", "pace", "pacing", "spawn_rate")
"""Keys of a fingerprint in which a difference makes it another test."""
IGNORED_KEYS = ("targets", "files", "replicates")
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
    """One key of the fingerprints: the values of the first and the second side, and what a difference means."""

    what: str
    first: str
    second: str
    level: Literal["same", "warn", "refuse"]
    why: str = ""


@dataclass(frozen=True, slots=True)
class SideComparison:
    """The second side against the first; the arms in it have the `names` of the sides, the first one's first."""

    names: tuple[str, str]
    comparisons: tuple[Comparison, ...]
    findings: tuple[Finding, ...]
    figures: Mapping[str, Any]


def find_side(store: Store, release_id: str, selection: str, arm: str) -> Side:
    """Find the runs of one side of a comparison: those of the release that have requests of a load, or of production.

    `selection`: `latest` (the newest run group), `all`, or the id of a run or group. Raises UnknownName for an unknown
    release or run, and UsageError if there are no requests.
    """
    release = store.control.release(release_id)
    chosen = choose_runs(store.data.runs(release_id), selection)
    runs_with_requests = tuple(run for run in chosen if run.kind is EvidenceKind.REQUESTS and run.landed)
    if not runs_with_requests:
        runs_with_requests = tuple(run for run in chosen if run.kind is EvidenceKind.LIVE and run.landed)
    label = release_id if selection == "latest" else f"{release_id}, run {selection}"
    if not runs_with_requests:
        raise UsageError(
            f"no requests have landed of {label}",
            hint=f"`{quote_command('load', release_id)} …` or `evaluator import` lands some",
        )
    services = frozenset(service.name for service in release.services)
    return Side(label, release_id, services=services, runs=runs_with_requests, arm=arm)


def name_sides(first: Side, second: Side) -> tuple[str, str]:
    """Name two sides in tables and figures: as their releases or runs, with the arm unless both are the candidate."""
    if first.label != second.label and first.arm == second.arm == CANDIDATE:
        return first.label, second.label
    return f"{first.label} ({first.arm})", f"{second.label} ({second.arm})"


def differences(first: Side, second: Side) -> tuple[Difference, ...]:
    """Compare the services and the fingerprints of both sides; one row for each key, also for equal values.

    The fingerprint of a run describes its test: locustfile, users, machine … Differences that forbid the comparison
    come first, equal values last.
    """
    first_values = _join_fingerprints(first.runs)
    second_values = _join_fingerprints(second.runs)
    rows = [_compare_services(first, second), *_compare_kinds(first, second)]
    for key in dict.fromkeys([*first_values, *second_values]):
        if key in IGNORED_KEYS:
            continue
        level: Literal["same", "warn", "refuse"]
        if first_values.get(key) == second_values.get(key):
            level, why = "same", ""
        elif key not in first_values or key not in second_values:
            level, why = "warn", "recorded on one side only"
        elif key in MUST_MATCH:
            level, why = "refuse", "they were different tests"
        else:
            level, why = "warn", "may change the numbers by itself"
        first_text = first_values.get(key, "not recorded") or "none"
        second_text = second_values.get(key, "not recorded") or "none"
        rows.append(Difference(key, first_text, second_text, level, why))
    order = {"refuse": 0, "warn": 1, "same": 2}
    return tuple(sorted(rows, key=lambda row: order[row.level]))


def refusals(all_differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """Return the differences that forbid the comparison."""
    return tuple(difference for difference in all_differences if difference.level == "refuse")


def _join_fingerprints(runs: Sequence[Run]) -> dict[str, str]:
    """Return the values of each key of the runs' fingerprints as text; values that differ are separated by slashes."""
    texts_by_key: dict[str, list[str]] = {}
    for run in runs:
        for key, value in run.fingerprint.items():
            if value is None:
                text = "–"
            elif isinstance(value, list):
                text = " ".join(map(str, value))
            else:
                text = str(value)
            texts = texts_by_key.setdefault(key, [])
            if text not in texts:
                texts.append(text)
    return {key: " / ".join(texts) for key, texts in texts_by_key.items()}


def _compare_services(first: Side, second: Side) -> Difference:
    """Compare the services of both sides: those without a common service cannot be compared, unless one is unknown."""
    first_names = ", ".join(sorted(first.services)) or "not known"
    second_names = ", ".join(sorted(second.services)) or "not known"
    if first.services and second.services and not first.services & second.services:
        return Difference("service", first_names, second_names, "refuse", "different services do different work")
    if first_names == second_names:
        return Difference("service", first_names, second_names, "same")
    return Difference("service", first_names, second_names, "warn", "may be different services")


def _compare_kinds(first: Side, second: Side) -> Iterable[Difference]:
    """Yield a difference that forbids the comparison if one side has requests of a load and the other of production."""
    names = {EvidenceKind.REQUESTS: "a load", EvidenceKind.LIVE: "production"}
    of_first, of_second = (" and ".join(sorted({names[run.kind] for run in side.runs})) for side in (first, second))
    if of_first != of_second:
        yield Difference(
            "kind of requests", of_first, of_second, "refuse", "users do not call a service as a load does"
        )


def compare_sides(store: Store, first: Side, second: Side, policy: Policy) -> SideComparison:
    """Compare the second side, as the candidate, with the first, as the baseline, by the metrics of a policy.

    The sides did not run at the same time, so disturbances do not cancel as they do between arms of one run. Raises
    UsageError if the fingerprints forbid the comparison or an arm has no requests, and UnknownName for an unknown arm.
    """
    forbidden = refusals(differences(first, second))
    if forbidden:
        differing = "; ".join(
            f"{difference.what}: {difference.first} against {difference.second}" for difference in forbidden
        )
        raise UsageError(f"these cannot be compared: {differing}", hint="compare runs of one test of one service")
    cells_of_both = store.data.read_cells(list(dict.fromkeys([*first.run_ids, *second.run_ids])))
    first_cells, second_cells = _pick_cells(cells_of_both, first), _pick_cells(cells_of_both, second)
    if not _list_endpoints(first_cells) & _list_endpoints(second_cells):
        raise UsageError("these cannot be compared: they have no endpoint in common", hint="compare runs of one test")
    # Times are shifted so that the second side begins after the end of the first.
    cells = pair_runs([(first_cells, second_cells)], together=False)
    rules = policy.rulebook.on_requests(cells.endpoints)
    # All data are there, so the comparison is a single look: no alpha is kept for further looks.
    rulebook = replace(policy.rulebook, rules=rules, monitoring=Monitoring(mode="fixed"))
    # `pair_runs` makes one run of both sides.
    run = Run(id=cells.runs[0], release=second.release, group="compare", source="import", state=RunState.COMPLETE)
    runs = (run,)
    judged = judge_data(ReleaseData(runs, cells), rulebook, second.release)
    evidence = judged.evidence
    figures = trace_release(judged.requests, rulebook, evidence.comparisons)
    figures["timeline"] = None
    if len(first.runs) == 1 and len(second.runs) == 1:
        # The timeline shows both runs above each other, from a common start; it is drawn only for one run a side.
        superposed = pair_runs([(first_cells, second_cells)], together=True)
        figures["timeline"] = trace_release(pair_requests(superposed, runs, rulebook), rulebook, ())["timeline"]
    return _name_arms(name_sides(first, second), evidence.comparisons, evidence.findings, figures)


def _name_arms(
    names: tuple[str, str], comparisons: Sequence[Comparison], findings: Sequence[Finding], figures: dict[str, Any]
) -> SideComparison:
    """Give the arms of a comparison, which was made as that of a baseline and a candidate, the names of its sides."""
    by_arm = dict(zip((BASELINE, CANDIDATE), names, strict=True))

    def rename(text: str) -> str:
        """Write a sentence about the sides instead of the arms."""
        return re.sub(rf"\b(?:the )?({BASELINE}|{CANDIDATE})\b", lambda match: by_arm[match[1]], text)

    def rename_curve(curve: Mapping[str, Any]) -> dict[str, Any]:
        """Name the arm of a curve of the figures."""
        return {**curve, "arm": names[1]}

    timeline = figures["timeline"]
    if timeline is not None:
        timeline = {**timeline, "arms": [{**arm, "name": by_arm[arm["name"]]} for arm in timeline["arms"]]}
    return SideComparison(
        names,
        tuple(
            replace(
                row,
                arm=names[1],
                reason=rename(row.reason) if row.reason else row.reason,
                no_data=rename(row.no_data) if row.no_data else row.no_data,
            )
            for row in comparisons
        ),
        tuple(replace(finding, text=rename(finding.text)) for finding in findings),
        {
            **{
                key: [rename_curve(curve) for curve in figures[key]]
                for key in ("metrics", "quantiles", "distributions")
            },
            "timeline": timeline,
        },
    )


def _list_endpoints(cells: Cells) -> set[str]:
    """List the endpoints that have requests; the names in `cells.endpoints` include others."""
    return {cells.endpoints[endpoint_code] for endpoint_code in np.unique(cells.moments.endpoint)}


def _pick_cells(cells: Cells, side: Side) -> Cells:
    """Pick the cells of a side's runs and arm, and call the arm baseline, because `pair_runs` pairs baselines.

    Cells hold codes: positions in the lists of their runs and arms. Raises UnknownName for an unknown arm, and
    UsageError if it has no requests.
    """
    if side.arm not in cells.arms:
        raise UnknownName("arm", side.arm, cells.arms)
    arm_code = cells.arms.index(side.arm)
    run_codes = [run_code for run_code, run in enumerate(cells.runs) if run in set(side.run_ids)]
    of_side = where(cells, run=run_codes, arm=[arm_code])
    all_arms_as_baseline = np.zeros(len(cells.arms), dtype=np.int64)  # new code of each arm: 0, the baseline
    picked = recode(of_side, arm=all_arms_as_baseline)
    picked = replace(picked, arms=(BASELINE, CANDIDATE))
    if not picked.moments.run.size:
        raise UsageError(f"{side.label} has no requests on {side.arm}", hint="choose another arm")
    return picked

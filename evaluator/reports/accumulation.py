"""How far a service has moved over several releases: the changes of each against the version before, added up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evaluator.records import Comparison, Effect, Role, Verdict
from evaluator.reports.overview import HeatMap, build_heat_map, find_chosen_arm
from evaluator.stats.inference.differences import Interval, add, to_log_ratio


@dataclass(frozen=True, slots=True)
class Accumulation:
    """The changes of releases that followed each other, added up from the first to each of them."""

    since: str
    """Version that the first one was compared with."""
    heat: HeatMap
    """A row for each release, the newest first; each comparison has the change since that version as its effect.
    `None`: the metric was not measured in the same way in all of them."""


def accumulate(verdicts: Sequence[Verdict], service: str) -> Accumulation | str:
    """Add up the changes of releases that were promoted one after the other; or say why that cannot be done.

    `verdicts`: their latest, the newest first. The chain ends where a baseline was not the release before: what was
    between them is not known. Changes are independent, as each was measured by a test of its own.
    """
    if not verdicts:
        return "no release of it was promoted"
    chain = [verdicts[0]]
    for earlier in verdicts[1:]:
        before, after = _find_versions(chain[-1], service)[0], _find_versions(earlier, service)[1]
        if not before or before != after:
            break
        chain.append(earlier)
    since = _find_versions(chain[-1], service)[0]
    if not since:
        return f"the version that {chain[-1].release.id} was compared with is not known (--baseline-version)"
    if len(chain) == 1:
        return f"{chain[0].release.id} follows {since}, which was not promoted here"
    heat = build_heat_map(chain)
    columns = [_add_up([row.comparisons[position] for row in heat.rows]) for position in range(len(heat.metrics))]
    rows = tuple(
        replace(row, comparisons=tuple(column[number] for column in columns)) for number, row in enumerate(heat.rows)
    )
    return Accumulation(since, replace(heat, rows=rows))


def _find_versions(verdict: Verdict, service: str) -> tuple[str, str]:
    """Find the version of the baseline and of the candidate; empty where it is not known, or of several candidates."""
    if find_chosen_arm(verdict):
        return "", ""
    known = next((known for known in verdict.release.services if known.name == service), None)
    return (known.baseline, known.canary) if known else ("", "")


def _add_up(newest_first: Sequence[Comparison | None]) -> list[Comparison | None]:
    """Add up the changes of one metric, from the oldest to each release."""
    known = [(row, row.effect) for row in newest_first if row is not None and row.effect is not None]
    kinds = {(row.rule.metric, effect.kind, row.unit) for row, effect in known}
    if len(known) < len(newest_first) or len(kinds) > 1:
        return [None] * len(newest_first)
    total: Interval | None = None
    summed: list[Comparison | None] = []
    for row, effect in reversed(known):
        is_relative = effect.kind == "relative"
        numbers = (effect.estimate, effect.lower, effect.upper)
        own = Interval(*(to_log_ratio(number) for number in numbers)) if is_relative else Interval(*numbers)
        total = own if total is None else add(total, own)
        ends = [math.expm1(number) for number in total] if is_relative else list(total)
        # A sum is only shown: no verdict was given on it.
        summed.append(replace(row, effect=Effect(effect.kind, *ends), rule=replace(row.rule, role=Role.WATCH)))
    return summed[::-1]

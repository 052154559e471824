"""Find the candidate that was rejected before a release, and say what became of its harms."""

from __future__ import annotations

from dataclasses import replace

from evaluator.judges import compare_with_rejected
from evaluator.records import ReleaseSummary, Verdict, VerdictWord
from evaluator.reports import read_stored
from evaluator.store import Store


def add_iteration(store: Store, verdict: Verdict) -> Verdict:
    """Say in a verdict what became of the harms of the candidate that was rejected before; without one, nothing."""
    services = {service.name for service in verdict.release.services if service.name}
    if not services:
        return verdict
    rejected = find_rejected(store.control.releases(), verdict.release.id, services)
    if rejected is None:
        return verdict
    return replace(verdict, iteration=compare_with_rejected(verdict, read_stored(store.control.verdicts(rejected)[-1])))


def find_rejected(summaries: tuple[ReleaseSummary, ...], release: str, services: set[str]) -> str | None:
    """Find the newest candidate of the same services that was NO-GO, since the last one that was GO.

    `summaries`: of all releases, the newest first. Only those that are older than the release count.
    """
    ids = [summary.release.id for summary in summaries]
    for summary in summaries[ids.index(release) + 1 :]:
        if {service.name for service in summary.release.services} & services:
            if summary.verdict == VerdictWord.NO_GO.value:
                return summary.release.id
            if summary.verdict == VerdictWord.GO.value:
                return None
    return None

"""Calibrate a policy on stored releases, and read the history that plans are based on."""

from __future__ import annotations

from collections.abc import Sequence

from evaluator.calibration import CalibrationReport, Stored, calibrate
from evaluator.errors import UsageError
from evaluator.pipeline.base import Say, say_nothing
from evaluator.pipeline.landing import land_release
from evaluator.pipeline.runs import service_of
from evaluator.planning import History, assume_history, learn_precisions
from evaluator.policy import Policy
from evaluator.records import EvidenceKind, Run
from evaluator.store import Store

TIME_OF_ID = 16
NEWEST_GROUPS = 20


def read_history(store: Store, release_ids: Sequence[str], *, land: bool) -> tuple[Stored, ...]:
    """Read the newest run groups of requests of some releases, the oldest group first.

    `release_ids`: the newest release first, as the store lists them. `land`: land waiting segments first.
    """
    groups: dict[str, tuple[str, list[Run]]] = {}
    for release_id in reversed(release_ids):
        if land:
            land_release(store, release_id)
        for run in store.data.runs(release_id):
            if run.kind is EvidenceKind.REQUESTS and run.landed:
                groups.setdefault(run.group, (release_id, []))[1].append(run)
    # Ids of groups begin with the second in which they were made; those of one second stay in the order of releases.
    newest = sorted(groups, key=lambda group: group[:TIME_OF_ID])[-NEWEST_GROUPS:]
    stored = []
    for name, runs in (groups[group] for group in newest):
        services = store.control.release(name).services
        one_version = bool(services) and all(s.baseline and s.baseline == s.canary for s in services)
        stored.append(Stored(name, store.data.read_cells([run.id for run in runs]), tuple(runs), one_version))
    return tuple(stored)


def find_history(
    store: Store | None, policy: Policy, release_id: str | None, *, rate_per_s: float, instances: int, land: bool = True
) -> History:
    """Find the history for a plan: the stored runs of a release and its service, or without a release an assumed one.

    Raises UsageError where no stored runs can be compared.
    """
    if store is None or release_id is None:
        return assume_history(policy.rulebook, rate_per_s=rate_per_s, instances=instances)
    stored = [s for s in read_history(store, related_releases(store, release_id), land=land) if len(s.cells.arms) > 1]
    history = learn_precisions([(item.cells, item.runs) for item in stored], policy.rulebook)
    if not history.precisions:
        raise UsageError(
            f"no stored runs of '{release_id}' or its service can be compared under this policy",
            hint="load or import both arms first, or plan from a rate: `evaluator plan --rate 30`",
        )
    return history


def related_releases(store: Store, release_id: str) -> tuple[str, ...]:
    """Return this release and all others of its service."""
    service = service_of(store.control.release(release_id))
    related = [summary.release.id for summary in store.releases() if service and service_of(summary.release) == service]
    return tuple(dict.fromkeys((*related, release_id)))


def calibrate_releases(
    store: Store,
    release_ids: Sequence[str],
    policy: Policy,
    *,
    splits: int,
    save: bool = False,
    land: bool = True,
    say: Say = say_nothing,
) -> CalibrationReport:
    """Calibrate `policy` on the baselines of stored releases (no names: all); with `save` store what was learnt.

    `splits`: comparisons made from each run. Raises UsageError where `save` is set for releases of several services.
    """
    releases = tuple(release_ids) or tuple(summary.release.id for summary in store.releases())
    services = {service_of(store.control.release(release_id)) for release_id in releases}
    if save and len(services) > 1:
        named = ", ".join(sorted(service or "none" for service in services))
        raise UsageError(
            f"--save stores what was learnt for one service, and these releases belong to several: {named}",
            hint="name the releases of one service",
        )
    report = calibrate(read_history(store, releases, land=land), policy.rulebook, splits=splits, step=say)
    if save and services:
        store.control.save_learnt(services.pop(), report.learnt)
    return report

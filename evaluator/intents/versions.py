"""The versions that hooks get: those that were judged, whatever the release's versions have become since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evaluator.errors import InputError
from evaluator.intents.checking import hash_verdict
from evaluator.records import BASELINE, CANDIDATE, Release, Service
from evaluator.records.intents import PROMOTING, Action
from evaluator.reports import read_stored
from evaluator.store import Store


def read_hook_release(
    store: Store, release_id: str, action: Action, verdict_hash: str, undoes: Sequence[str]
) -> Release:
    """Read a release with the versions that the hooks of an action on it get.

    A promotion gets those of now: it is refused unless they are those that were judged. A rollback gets those of the
    promotions that it undoes (`undoes`: their ids, the newest first): what the newest put live, and what was live
    before the oldest. A hold, and a rollback that undoes no promotion, get those of the verdict with `verdict_hash`
    (empty: there was none, so those of now).
    """
    if action in PROMOTING:
        return store.control.release(release_id)
    if not undoes:
        return _read_judged_release(store, release_id, verdict_hash)
    promotions = read_promoted_releases(store, undoes)
    newest, oldest = promotions[undoes[0]], promotions[undoes[-1]]
    baseline_by_service = {service.name: service.baseline for service in oldest.services}
    services = (
        replace(service, baseline=baseline_by_service.get(service.name, service.baseline))
        for service in newest.services
    )
    return replace(newest, services=tuple(services))


def read_promoted_releases(store: Store, promotion_ids: Sequence[str]) -> Mapping[str, Release]:
    """Map the id of each promotion to its release, with the versions that it promoted."""
    promotions = [store.control.intent(promotion_id) for promotion_id in promotion_ids]
    return {
        promotion.id: _read_judged_release(store, promotion.release, promotion.verdict_hash) for promotion in promotions
    }


def _read_judged_release(store: Store, release_id: str, verdict_hash: str) -> Release:
    """Read a release with the versions that the verdict with this hash judged (empty: none, so those of now).

    If that verdict cannot be read, its versions are not known: hooks must not get others.
    """
    current = store.control.release(release_id)
    if not verdict_hash:
        return current
    for stored in reversed(store.control.verdicts(release_id)):  # mostly the newest
        if hash_verdict(stored) == verdict_hash:
            try:
                return replace(current, services=read_stored(stored).release.services)
            except InputError:  # it was written by another version of the evaluator
                break
    return replace(current, services=tuple(Service(service.name) for service in current.services))


def write_versions(release: Release, arm: str) -> str:
    """Write the version of the release's service in an arm (`baseline`, `canary`, …); of several: `name=version,…`.

    Empty if the version of any service is not known.
    """
    services = release.services
    versions = {service.name: service.find_version(arm) for service in services}
    if not all(versions.values()):
        return ""
    if len(services) == 1:
        return next(iter(versions.values()))
    return ",".join(f"{name}={version}" for name, version in versions.items())


def explain_other_versions(judged: Release, current: Release) -> str:
    """Say how the versions that hooks get now differ from those that were judged; empty if they do not.

    `judged`: the release as the verdict has it; `current`: as the store has it.
    """
    changes = []
    for arm in (BASELINE, CANDIDATE):
        before, now = write_versions(judged, arm), write_versions(current, arm)
        if before != now:
            changes.append(f"{arm} is {now or 'of an unknown version'}, not {before or 'of an unknown version'}")
    return f"the versions are not those that were judged: {' and '.join(changes)}" if changes else ""

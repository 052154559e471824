"""The conditions for a promotion."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from evaluator.errors import StoreBusy, StoreError
from evaluator.intents.checking import BEFORE_RESTART, CLOCK_TOLERANCE, is_before_restart
from evaluator.intents.observing import hash_data_now, hash_policy_now, services_of
from evaluator.intents.rollout_plans import find_of_services
from evaluator.intents.steps import LINK_VARIABLE
from evaluator.intents.versions import explain_other_versions
from evaluator.pipeline.runs import is_live, is_stale
from evaluator.policy import Policy
from evaluator.records import BASELINE, CANDIDATE, WHOLE, Release, Service, Verdict, VerdictWord
from evaluator.records.intents import JUDGED, Action, AuditRow, Intent, IntentState
from evaluator.reports.overview import find_chosen_arm
from evaluator.store import Store
from evaluator.store.intents import REPEATED, REQUESTED
from evaluator.wording import format_duration, quote_command

NO_HOOKS = "add hooks to the policy, or promote it where it is deployed: docs/promotion.md"


@dataclass(frozen=True, slots=True)
class PromotionCondition:
    """One condition for a promotion: `text` describes it where it is met, `otherwise` where it is not."""

    text: str
    met: bool
    otherwise: str
    remedy: str = ""

    @property
    def description(self) -> str:
        """`text` if the condition is met, else `otherwise`."""
        return self.text if self.met else self.otherwise


def list_conditions(store: Store, policy: Policy, verdict: Verdict) -> tuple[PromotionCondition, ...]:
    """List the conditions for promoting a release now, met or not.

    `verdict`: the newest of the release; `policy`: the one that applies to it now.
    """
    release = verdict.release.id
    with store.reading():
        runs = store.data.runs(release)
        is_policy_same = verdict.policy_hash == hash_policy_now(store, policy, release)
        are_data_same = bool(hash_data_now(store, release, verdict.data_hash))
        current_release = store.control.release(release)
    rejudge = f"judge it again: `{policy.command(release)}`"
    return (
        PromotionCondition(
            "the verdict is GO",
            met=verdict.word is VerdictWord.GO,
            otherwise=f"the verdict is {verdict.word.value.replace('_', '-').upper()}",
            remedy=verdict.next_action,
        ),
        _check_period(verdict, policy.command(release)),
        _check_step(verdict, policy.command(release)),
        _check_arm(verdict),
        PromotionCondition(
            "nothing landed after the verdict",
            met=not is_stale(runs, verdict.judged_at),
            otherwise="data landed after the verdict",
            remedy=rejudge,
        ),
        PromotionCondition(
            "no load or import is running",
            met=not is_live(runs),
            otherwise="a run is still being recorded",
            remedy="wait, then judge again",
        ),
        _check_policy(verdict, policy, rejudge, is_same=is_policy_same),
        PromotionCondition(
            "every run was complete",
            met=not verdict.evidence.incomplete,
            otherwise="a run ended early",
            remedy="load it again",
        ),
        PromotionCondition(
            "the data are unchanged since the verdict",
            met=are_data_same,
            otherwise="its data have changed, or there are newer data",
            remedy=rejudge,
        ),
        _check_age(verdict, policy.promotion.approvals.max_age, rejudge),
        _check_restart(store, verdict, rejudge),
        _check_hooks(policy),
        _check_versions(policy, verdict.release),
        _check_words(policy, current_release),
        _check_judged_versions(verdict.release, current_release, rejudge),
        _check_decisions(store, release),
        _check_rollouts(store, release),
        _check_stops(store, verdict, policy.command(release)),
    )


def _check_policy(verdict: Verdict, policy: Policy, rejudge: str, *, is_same: bool) -> PromotionCondition:
    """Check that the policy is the one that judged. `rejudge`: how to judge again by the one that applies here."""
    otherwise, remedy = "the policy is not the one that judged", rejudge
    if verdict.policy_path and verdict.policy_path != policy.path:
        otherwise = f"it was judged by {verdict.policy_path}, and {policy.path or 'another policy'} applies here"
        promote = quote_command("promote", verdict.release.id, "--policy", verdict.policy_path)
        remedy = f"{rejudge}; or, if the policy that judged was meant, `{promote}`"
    return PromotionCondition("the policy is the one that judged", met=is_same, otherwise=otherwise, remedy=remedy)


def _check_period(verdict: Verdict, command: str) -> PromotionCondition:
    """Check that the verdict is on all the time that was recorded. `command` judges the release."""
    return PromotionCondition(
        "the verdict is on the whole time",
        met=verdict.period == WHOLE,
        otherwise="the verdict is on a part of the time (--from, --to)",
        remedy=f"judge the whole time: `{command}`",
    )


def _check_step(verdict: Verdict, command: str) -> PromotionCondition:
    """Check that the verdict is on the release, not on a single step of a rollout. `command` judges the release."""
    return PromotionCondition(
        "the verdict is on the release, not on one step alone",
        met=not verdict.only_step,
        otherwise=f"the verdict is on step {verdict.step} alone (--step)",
        remedy=f"judge the release, which takes its newest step and all else that was recorded: `{command}`",
    )


def _check_rollouts(store: Store, release: str) -> PromotionCondition:
    """Check that no rollout of the release, or of one of its services, is moving traffic."""
    running = find_of_services(store, release, services_of(store, release))
    return PromotionCondition(
        "no rollout of its services is running",
        met=running is None,
        otherwise=f"the rollout {running.id} of {running.release} has not ended" if running else "",
        remedy=f"see `{quote_command('rollout', 'status', running.release)}`" if running else "",
    )


def _check_stops(store: Store, verdict: Verdict, command: str) -> PromotionCondition:
    """Check that a release was neither held nor rolled back since it was judged. `command` judges the release."""
    release = verdict.release.id
    intents = store.control.intents(release)
    stop = find_stop(intents, _list_later(intents, store.control.audit(release), verdict.judged_at))
    otherwise, remedy = "", ""
    if stop is not None:
        is_rollback = stop.action is Action.ROLLBACK
        verb = "rolled back" if is_rollback else "held"
        at = f"at {stop.requested_at:%Y-%m-%d %H:%M} UTC"
        otherwise = f"it was {verb} by {stop.requester} {at} ({stop.id}): {stop.reason}"
        remedy = f"once the cause is gone, judge it again: `{command}`"
        if is_rollback and stop.state is not IntentState.ACKNOWLEDGED:
            otherwise = f"the rollback by {stop.requester} {at} ({stop.id}) is {stop.state}: {stop.reason}"
            remedy = f"complete it first: `{quote_command('hooks', 'log', stop.release)}` shows what is left of it"
    return PromotionCondition(
        "it was neither held nor rolled back since the verdict", met=stop is None, otherwise=otherwise, remedy=remedy
    )


def _list_later(intents: Sequence[Intent], rows: Sequence[AuditRow], judged_at: datetime | None) -> set[str]:
    """List the ids of the intents that were requested, also again, after the newest verdict of their release.

    `rows`: those of the release in the audit trail, in their order: a clock that was set back changes nothing. Only
    what was executed from the journal is recorded later than it was done, and is taken by its own time.
    """
    judged_row = max((row.number for row in rows if row.event == JUDGED), default=0)
    # An action from the journal has no hash of the policy's hooks.
    done_before = {
        intent.id for intent in intents if not intent.hooks_hash and judged_at and intent.requested_at < judged_at
    }
    return {
        row.intent
        for row in rows
        if row.number > judged_row
        and (row.event == REPEATED or (row.event == REQUESTED and row.intent not in done_before))
    }


def find_stop(intents: Sequence[Intent], later: Collection[str]) -> Intent | None:
    """Find the newest hold or rollback that a verdict does not know of; None: there is none.

    That is one of `later`, the ids of those that were requested after it, or a rollback that has not ended well,
    whenever it was requested. `intents`: those of the release, the oldest first. What held a rollout is not meant: that
    has ended before a release is promoted.
    """
    for intent in reversed(intents):
        if not intent.stops or (intent.action is Action.HOLD and intent.rollout):
            continue
        if intent.id in later:
            return intent
        if intent.action is Action.ROLLBACK:
            return intent if intent.state is not IntentState.ACKNOWLEDGED else None
    return None


def _check_decisions(store: Store, release: str) -> PromotionCondition:
    """Check that the verdicts, requests and approvals of a release are as the audit trail recorded them."""
    changed_by_hand = explain_change_by_hand(store, release)
    return PromotionCondition(
        "the decisions are as they were written",
        met=not changed_by_hand,
        otherwise=changed_by_hand,
        remedy="find out who changed them, and how: `evaluator audit verify`",
    )


def explain_change_by_hand(store: Store, release: str) -> str:
    """Say which verdict, request, approval or audit row of a release was changed by hand; empty if none was."""
    try:
        store.control.verify_release(release)
    except StoreBusy:
        raise
    except StoreError as error:
        return error.message
    return ""


def _check_restart(store: Store, verdict: Verdict, remedy: str) -> PromotionCondition:
    """Check that no decision was lost since the verdict: a newer one, or a hold, may be among them."""
    return PromotionCondition(
        "no decision was lost since the verdict",
        met=not is_before_restart(verdict.judged_at, store.control.restarted_at()),
        otherwise=f"the verdict is {BEFORE_RESTART}",
        remedy=remedy,
    )


def _check_arm(verdict: Verdict) -> PromotionCondition:
    """Check that the arm that is GO is the one whose version the hooks get: only `canary`, also if there is no other.

    Of several candidates, a reason names the one that is GO.
    """
    arms = {comparison.arm for comparison in verdict.evidence.comparisons}
    go_arm = find_chosen_arm(verdict) or (next(iter(arms)) if len(arms) == 1 else "")
    otherwise = f"the candidate is {go_arm}, and hooks get the version of {CANDIDATE}"
    if not go_arm:
        otherwise = f"none of {', '.join(sorted(arms))} is GO" if arms else f"{CANDIDATE} was not compared"
    return PromotionCondition(
        "hooks get the version of the candidate that was judged",
        met=go_arm == CANDIDATE,
        otherwise=otherwise,
        remedy=f"import or load {go_arm or 'each candidate'} alone, as {CANDIDATE} of a release of its own,"
        " and judge that",
    )


def _check_hooks(policy: Policy) -> PromotionCondition:
    """Check that the policy has a hook that promotes: without any, a promotion would change nothing."""
    return PromotionCondition(
        "the policy names hooks that promote",
        met=bool(policy.promotion.hooks.get(Action.PROMOTE)),
        otherwise="the policy names no hooks that promote",
        remedy=NO_HOOKS,
    )


def _check_versions(policy: Policy, release: Release) -> PromotionCondition:
    """Check that the versions are known that a hook that promotes uses: it would act with an empty one."""
    options = json.dumps([entry.options for entry in policy.promotion.hooks.get(Action.PROMOTE, ())])
    # `${version}` is that of the arm that a promotion gives the requests to.
    unknown = {
        word: arm
        for word, arm in ((BASELINE, BASELINE), (CANDIDATE, CANDIDATE), ("version", CANDIDATE))
        if f"${{{word}}}" in options
        and not all(getattr(service, arm) for service in release.services or (Service(""),))
    }
    return PromotionCondition(
        "the versions that hooks use are known",
        met=not unknown,
        otherwise=" and ".join(
            f"a hook uses ${{{word}}}, and no version of {arm} is known" for word, arm in unknown.items()
        ),
        remedy="land its data again with "
        + " and ".join(f"--{arm}-version" for arm in dict.fromkeys(unknown.values())),
    )


def _check_words(policy: Policy, release: Release) -> PromotionCondition:
    """Check that the other words have a value that a hook that promotes uses: it would fail after others have acted."""
    options = json.dumps([entry.options for entry in policy.promotion.hooks.get(Action.PROMOTE, ())])
    set_service = f"`{quote_command('data', 'service', release.id)} NAME`"
    remedies = {
        "service": ("" if any(service.name for service in release.services) else f"set the service: {set_service}"),
        "link": "" if policy.promotion.link or os.environ.get(LINK_VARIABLE) else "add `link` to the policy",
        "step": "leave ${step} out: a promotion is no step of a rollout",
    }
    unknown = {word: remedy for word, remedy in remedies.items() if remedy and f"${{{word}}}" in options}
    return PromotionCondition(
        "the words that hooks use have a value",
        met=not unknown,
        otherwise=" and ".join(f"a hook uses ${{{word}}}, which has no value" for word in unknown),
        remedy="; ".join(unknown.values()),
    )


def _check_judged_versions(judged: Release, current: Release, remedy: str) -> PromotionCondition:
    """Check that the release has the versions now that it had when it was judged: hooks get those of now."""
    other_versions = explain_other_versions(judged, current)
    return PromotionCondition(
        "the versions are those that were judged", met=not other_versions, otherwise=other_versions, remedy=remedy
    )


def _check_age(verdict: Verdict, max_age_s: float, remedy: str) -> PromotionCondition:
    """Check that a verdict is not older than `max_age_s` seconds, and not from the future."""
    age_s = (datetime.now(UTC) - verdict.judged_at).total_seconds() if verdict.judged_at else math.inf
    if age_s < 0:
        age_text = f"it was judged {format_duration(round(-age_s))} from now: the clock was set back"
    elif math.isfinite(age_s):
        age_text = f"it was judged {format_duration(round(age_s))} ago"
    else:
        age_text = "it is not known when it was judged"
    return PromotionCondition(
        f"it was judged within the last {format_duration(max_age_s)}",
        # The clock of the machine that judged may be ahead of ours a little.
        met=-CLOCK_TOLERANCE.total_seconds() <= age_s <= max_age_s,
        otherwise=age_text,
        remedy=remedy,
    )

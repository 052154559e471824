"""What a rollout that was started says of its steps: the hooks of each, its grounds, and the rules of its policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import ValidationError

from evaluator.errors import EvaluatorError, PlanNotReadable
from evaluator.hooks import make_step
from evaluator.intents.baseline_servers import describe_missing_baseline
from evaluator.intents.restoring import RESTORE, add_time, expand, write_restore
from evaluator.intents.steps import PlannedHook, narrow_release
from evaluator.intents.versions import write_versions
from evaluator.policy.promotion import ApprovalsSection, HooksSection, PromotionRules, RolesSection, to_rules
from evaluator.policy.rollout import InstancesSection
from evaluator.records import CANDIDATE, Release, StoredVerdict
from evaluator.records.intents import VERIFY, Action, HookEntry, Intent
from evaluator.records.rollouts import (
    Act,
    Event,
    EventKind,
    InstanceWork,
    Rollout,
    RolloutPlan,
    from_plain,
    split_traffic,
)
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts
from evaluator.wording import count_of, quote_command

DRAIN_AGAIN_S = 10.0
"""How long the requests of instances are waited for that have the new version, and servers that are to serve again."""
LEAST_WAIT_S = 0.1


def read_rollout(store: Store, intent: Intent) -> Rollout:
    """Read the rollout of a step. Raises UnknownName."""
    return Rollouts(store.control.file).rollout(intent.rollout)


def find_running(store: Store, release: str) -> Rollout | None:
    """Find the rollout of a release that has not ended; None: there is none."""
    return next(iter(Rollouts(store.control.file).find_running(release)), None)


def describe_rollout_stop(store: Store, action: Action, release: str) -> str:
    """Say what a hold or a rollback does to the rollout of a release that is running; empty if none is."""
    rollout = find_running(store, release)
    if rollout is None or action not in (Action.HOLD, Action.ROLLBACK):
        return ""
    if action is Action.ROLLBACK and (missing := describe_missing_baseline(store, rollout.id)):
        return (
            f"the rollout {rollout.id} goes back: first what its acts changed, then its traffic, if the baseline "
            f"serves then: {missing}"
        )
    if action is Action.ROLLBACK:
        return f"the rollout {rollout.id} goes back: first all its traffic to the baseline, then what its acts changed"
    return write_hold(rollout.id, release)


def write_hold(rollout: str, release: str) -> str:
    """Say what a hold does to a rollout, and how it continues."""
    command = quote_command("rollout", "resume", release)
    return f"the rollout {rollout} waits, its traffic stays as it is, and no hook is executed; to go on: {command}"


def find_of_services(store: Store, release: str, services: Sequence[str]) -> Rollout | None:
    """Find a rollout that has not ended, of a release or of one of these services; None: there is none."""
    for rollout in Rollouts(store.control.file).find_running():
        if rollout.release == release or set(services) & set(rollout.plan["services"]):
            return rollout
    return None


def read_plan(rollout: Rollout) -> RolloutPlan:
    """Read the plan of a rollout as it was started. Raises PlanNotReadable, also for one that was changed since."""
    plan = from_plain(rollout.plan)
    if plan.hash() != rollout.plan_hash:
        raise PlanNotReadable(
            f"the plan of {rollout.id} is not the one that was started", hint="go back with `evaluator rollback`"
        )
    return plan


def read_rules(rollout: Rollout) -> PromotionRules:
    """Read the rules of promotion of the policy with which a rollout was started, without its hooks.

    Raises PlanNotReadable.
    """
    policy = rollout.policy
    try:
        return to_rules(
            HooksSection(),
            ApprovalsSection.model_validate(policy.get("approvals") or {}),
            RolesSection.model_validate(policy["roles"]) if policy.get("roles") is not None else None,
            sensitive=bool(policy.get("sensitive")),
            journal=policy.get("journal") or "",
            link=policy.get("link") or "",
        )
    except (ValidationError, TypeError) as error:
        raise PlanNotReadable(
            f"the policy of {rollout.id} cannot be read by this version of the evaluator",
            hint="go back with `evaluator rollback`, or continue it with the version that started it",
        ) from error


def explain_missing_agreement(rules: PromotionRules, first: str, agree: int) -> str:
    """Say why users would meet the candidate with fewer agreements than a promotion needs; empty if they would not.

    `first`: what gives it to users first, such as `stage 5 %`; `agree`: how many people have to agree to that.
    """
    needed = rules.needed(Action.PROMOTE)
    # Where one approval is needed and their own counts, who starts the rollout gives it by that.
    if not rules.distinct(Action.PROMOTE) or agree >= needed:
        return ""
    return (
        f"a promotion needs {count_of(needed, 'approval')} by other people, and {first}, the first in which users meet "
        f"the candidate, asks for {agree or 'none'}: write agree: {needed} there"
    )


def explain_full_share(rules: PromotionRules, stage: str, agree: int) -> str:
    """Say why a sensitive service would give all users the candidate without people; empty if it would not.

    `stage`: that with all traffic; `agree`: how many people have to agree to it.
    """
    needed = rules.needed(Action.PROMOTE)
    if not rules.sensitive or agree >= needed:
        return ""
    return (
        f"the service is sensitive, so {needed} other people have to agree before all users get the candidate, and "
        f"stage {stage} asks for {agree or 'none'}: write agree: {needed} there"
    )


def count_agreements(plan: RolloutPlan, act: Act) -> int:
    """Count the people who have to agree to the stage of an act: it asks before the first change of its traffic."""
    return max(
        (
            step.agree
            for step in plan.steps
            if isinstance(step, Act) and step.is_shift and (step.stage, step.services) == (act.stage, act.services)
        ),
        default=0,
    )


def plan_act(rollout: Rollout, act: Act, release: Release, winner: str = "") -> tuple[PlannedHook, ...]:
    """Plan the hooks of an act in their order, then those that verify it; of a shift one router per service.

    `release`: with the versions that the hooks get. `winner`: the arm that won; empty: none has, or nothing is to win.
    Raises the errors of `make_step`, and PlanNotReadable for a service without a router, or while no arm has won.
    """
    link = rollout.policy.get("link") or ""
    if act.work is not None:
        return tuple(
            PlannedHook(
                position, Action.STEP.value, entry, make_step(entry.kind, entry.options),
                promoted=narrow_release(release, act.services[0]), link=link, words=words,
            )
            for position, (entry, words) in enumerate(list_instance_hooks(rollout, act))
        )  # fmt: skip
    entries = [(Action.STEP.value, entry, "") for entry in act.hooks]
    if act.is_shift:
        shares = _split_traffic(act, winner)
        entries += [(Action.STEP.value, make_shift(rollout, service, shares), service) for service in act.services]
    entries += [(VERIFY, entry, "") for entry in act.verify]
    return tuple(
        PlannedHook(
            position,
            event,
            entry,
            make_step(entry.kind, entry.options),
            promoted=narrow_release(release, service),
            link=link,
            words=make_words(act.name, act.share, service, winner if act.to_winner else act.arm, release),
        )
        for position, (event, entry, service) in enumerate(entries)
    )


def _split_traffic(act: Act, winner: str) -> dict[str, float]:
    """Split the traffic of a shift among the arms. Raises PlanNotReadable for one to a winner while no arm has won."""
    try:
        return split_traffic(act, winner)
    except ValueError:
        raise PlanNotReadable(
            f"{act.name} gives all users to the arm that won, and none has", hint="go back with `evaluator rollback`"
        ) from None


def make_shift(rollout: Rollout, service: str, shares: Mapping[str, float]) -> HookEntry:
    """Make the hook that splits a service's traffic, by the router of the rollout's policy. `shares`: arm → share.

    Raises PlanNotReadable.
    """
    try:
        ((kind, options),) = rollout.policy["rollout"]["router"][service].items()
        return HookEntry(kind, {**options, "shares": dict(shares)})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanNotReadable(
            f"the policy of {rollout.id} has no router of {service}", hint="go back with `evaluator rollback`"
        ) from error


def list_instance_hooks(rollout: Rollout, act: Act) -> Iterator[tuple[HookEntry, dict[str, str]]]:
    """List the hooks of an act on a batch of instances, each with the words that it has alone.

    The hook that drains the batch also has how it is restored. Raises PlanNotReadable.
    """
    (service,) = act.services
    words = {"action": Action.STEP.value, "step": act.name, "service": service, "instances": " ".join(act.instances)}
    if act.work in (InstanceWork.REPLACE, InstanceWork.HEALTH):
        for entry, instance in expand(act.hooks, act.instances):
            yield entry, words | {"instance": instance}
        return
    try:
        section = InstancesSection.model_validate(rollout.policy["rollout"]["instances"])
        ((kind, options),) = rollout.policy["rollout"]["router"][service].items()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanNotReadable(
            f"the policy of {rollout.id} does not say how instances of {service} are replaced",
            hint="go back with `evaluator rollback`",
        ) from error
    is_drain = act.work is InstanceWork.DRAIN
    # A server that starts is waited for by trying again: the guard, which undrains it, must not wait.
    wait_s = section.drain if is_drain else DRAIN_AGAIN_S
    batch = {
        "do": "drain" if is_drain else "undrain",
        "servers": list(act.instances),
        "least_serving": section.least_serving,
        "wait": f"{max(wait_s, LEAST_WAIT_S):g}s",
        "arms": {arm: list(names) for arm, names in act.arms.items()},
    }
    entry = add_time(HookEntry(kind, {**options, "batch": batch}), wait_s)
    yield entry, words | ({RESTORE: write_restore(section)} if is_drain else {})


def make_words(
    name: str, share: float | None, service: str, arm: str = "", release: Release | None = None
) -> dict[str, str]:
    """Make the words that a hook of an act has alone.

    Args:
        name: Name of the act.
        share: Share of the traffic that the act gives to candidates; None: it changes none.
        service: Whose router the hook is; empty for other hooks.
        arm: The arm that the act is about; empty: the only candidate, or several.
        release: Has the versions of the arms.
    """
    words = {"action": Action.STEP.value, "step": name, "share": ""}
    if service and share is not None:
        words |= {"service": service, "share": f"{share:.9g}", "arm": CANDIDATE}
    if arm:
        words |= {"arm": arm}
    if arm and release is not None:
        words |= {"canary": write_versions(release, arm)}  # the version of this arm
    return words


def read_words(store: Store, intents: Sequence[Intent]) -> Mapping[tuple[str, int], Mapping[str, str]]:
    """Read the words that hooks of steps had: the id of the intent and the position of the hook → words.

    Intents that are no steps have none. A plan that this version cannot continue is read as well as that is possible:
    going back needs the words.
    """
    words: dict[tuple[str, int], Mapping[str, str]] = {}
    for intent in intents:
        if intent.action is not Action.STEP:
            continue
        try:
            rollout = read_rollout(store, intent)
            act = rollout.plan["steps"][intent.step]
            if act.get("work"):
                own = read_plan(rollout).steps[intent.step]
                listed = list_instance_hooks(rollout, own) if isinstance(own, Act) else ()
                words |= {(intent.id, n): of_hook for n, (_, of_hook) in enumerate(listed)}
                continue
            hooks, share = len(act["hooks"]), act.get("share")
            services = [""] * hooks + (list(act["services"]) if share is not None else [])
            release = store.control.release(rollout.release)
            arm = find_winner(Rollouts(store.control.file).events(rollout.id)) if act["to_winner"] else act["arm"]
            words |= {
                (intent.id, n): make_words(act["name"], share, service, arm, release)
                for n, service in enumerate(services)
            }
        except (EvaluatorError, LookupError, TypeError, AttributeError):
            continue
    return words


def find_winner(events: Sequence[Event]) -> str:
    """Find the arm that won the A/B test of a rollout by its newest verdict; empty: none has."""
    return next((event.arm for event in reversed(events) if event.kind is EventKind.JUDGED and event.is_sound), "")


# ------------------------------------------------------------------ what holds while it goes on


def explain_end(plan: RolloutPlan, events: Sequence[Event]) -> str:
    """Say that a rollout has ended or goes back, so that no other step begins; empty if it does not.

    As the fold of its events: what stops it turns it back, unless an act without a way back was begun before, or one
    that may take down the servers of the baseline; then only a person turns it back.
    """
    is_one_way = False
    for event in events:
        if event.kind is EventKind.ENDED:
            return "the rollout has ended"
        if event.kind is EventKind.STOPPED and (event.person or not is_one_way):
            return f"the rollout goes back: {event.text}" if event.text else "the rollout goes back"
        is_one_way = is_one_way or _ends_way_back(plan, event)
    return ""


def _ends_way_back(plan: RolloutPlan, event: Event) -> bool:
    """Does only a person turn a rollout back after an event? See `RolloutProgress.explain_no_return`."""
    if event.kind is not EventKind.BEGUN or not 0 <= event.step < len(plan.steps):
        return False
    step = plan.steps[event.step]
    return isinstance(step, Act) and (step.irreversible or step.may_take_down)


def explain_hold(events: Sequence[Event]) -> str:
    """Say what holds a rollout that does not go back (see `explain_end`); empty if it goes on."""
    why = ""
    for event in events:
        if event.kind is EventKind.HELD:
            why = f"{event.person or 'it'} holds the rollout: {event.text}" if event.person else event.text or "held"
        elif event.kind is EventKind.CONTINUED:
            why = ""
        elif event.kind is EventKind.STOPPED:
            why = event.text or "it was to go back"
    return why


def find_seen_until(plan: RolloutPlan, events: Sequence[Event]) -> float:
    """Find until when (s since 1970) people have seen verdicts and let it go on, because there is no way back; or 0."""
    is_one_way, seen_until = False, 0.0
    for event in events:
        is_one_way = is_one_way or _ends_way_back(plan, event)
        if event.kind is EventKind.CONTINUED and is_one_way:
            seen_until = event.at
    return seen_until


def find_grounds(
    verdicts: Sequence[StoredVerdict], events: Sequence[Event], position: int
) -> tuple[StoredVerdict | None, str]:
    """Find the grounds of a step: the newest verdict of an observation of the rollout up to it, and its hash of data.

    `verdicts`: those of the release, the oldest first. None and an empty hash: nothing was judged before.
    """
    judged = [event for event in events if event.kind is EventKind.JUDGED and event.step <= position]
    data_hash = next((event.data_hash for event in reversed(judged) if event.data_hash), "")
    if not data_hash:
        return None, ""
    verdict = next((verdict for verdict in reversed(verdicts) if verdict.data_hash == data_hash), None)
    return verdict, data_hash

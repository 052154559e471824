"""The plan of a rollout, made of the policy: what is frozen when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from evaluator.errors import PolicyError
from evaluator.policy import Policy
from evaluator.policy.rollout import AB_TEST, ROLLING, RolloutSection
from evaluator.records import BASELINE, CANDIDATE
from evaluator.records.rollouts import GuardLimits, Observe, RolloutPlan, StepNeeds, Unanswered
from evaluator.rollout.contradictions import refuse_contradictions, refuse_impossible_test
from evaluator.rollout.strategies import STRATEGIES
from evaluator.version import find_version


def make_plan(policy: Policy, release: str) -> RolloutPlan:
    """Make the plan of a release by the section `rollout` of its policy. Raises PolicyError."""
    section = policy.rollout
    if section is None:
        raise PolicyError(
            f"{policy.origin} has no section `rollout`",
            hint="docs/rollouts.md has an example; without it, `evaluator promote` moves all traffic at once",
        )
    groups = _choose_groups(policy, section)
    services = tuple(service for group in groups for service in group)
    _check_routers(policy, section, services)
    _check_logs(policy, section, services)
    refuse_contradictions(policy, section)
    if section.strategy == AB_TEST:
        refuse_impossible_test(policy, section, services)
    steps = STRATEGIES[section.strategy](section, groups)
    observations = [step for step in steps if isinstance(step, Observe) and step.needs is not StepNeeds.NOTHING]
    guard = section.guard
    plan = RolloutPlan(
        release=release,
        strategy=section.strategy,
        services=services,
        steps=steps,
        guard=GuardLimits(
            guard.failures, None if guard.p95 is None else 1000 * guard.p95, guard.over, guard.least, guard.health
        ),
        lease_s=section.lease,
        answer_within_s=section.unanswered.after,
        unanswered=Unanswered(section.unanswered.then),
        joint_margin=section.joint_margin,
        policy_hash=policy.hash,
        evaluator_version=find_version(),
    )
    if plan.joint_margin is not None and not any(plan.is_joint(step) for step in observations):
        raise policy.refuse(
            ("rollout", "joint_margin"),
            "no stage has users of several services at the same time, so nothing is judged together",
            hint="order: [[cart, shop]] rolls out services together; without that, leave joint_margin out",
        )
    # Each question of an observation may be a false alarm on an unchanged release: together at most alpha.
    questions = sum(len(step.services) + plan.is_joint(step) for step in observations)
    return replace(plan, alpha_no_go=policy.rulebook.no_go_level / max(questions, 1))


def _choose_groups(policy: Policy, section: RolloutSection) -> list[list[str]]:
    """Choose the services in their order: those of `order`, else those of the policy, one after the other.

    Raises PolicyError if `order` does not name each service of the policy once.
    """
    named = list(policy.services)
    if section.order is None:
        if not named:
            raise PolicyError(
                f"{policy.origin} names no service to roll out", hint="add service: NAME, or rollout: {order: [NAME]}"
            )
        return [[service] for service in named]
    ordered = [service for group in section.order for service in group]
    if len(ordered) != len(set(ordered)):
        raise PolicyError(f"{policy.origin}: rollout.order names a service twice", hint="name each service once")
    if named and set(ordered) != set(named):
        different = ", ".join(sorted(set(ordered) ^ set(named)))
        raise PolicyError(
            f"{policy.origin}: rollout.order and the services of the policy differ: {different}",
            hint="name the same services in both",
        )
    return section.order


def _check_routers(policy: Policy, section: RolloutSection, services: tuple[str, ...]) -> None:
    """Raise PolicyError if users meet the candidate, and a service has no router; or if a router has no service."""
    unknown = [service for service in section.router if service not in services]
    if unknown:
        raise PolicyError(
            f"{policy.origin}: rollout.router names {', '.join(unknown)}, which is not rolled out",
            hint=f"the services are {', '.join(services)}",
        )
    for service, entry in section.router.items():
        is_rolling = section.strategy == ROLLING
        if entry.options.get("instances") and not is_rolling:
            raise policy.refuse(
                ("rollout", "router", service),
                "it names instances, which only strategy: rolling replaces",
                hint=f"servers: {{{BASELINE}: [b1, b2], {CANDIDATE}: [c1, c2]}}",
            )
        if is_rolling and entry.options.get("batch"):
            raise policy.refuse(
                ("rollout", "router", service), "it names a batch: the stages do that", hint="remove it"
            )
        servers = entry.options.get("servers")
        candidates = next((list(stage.shares) for stage in section.stages if stage.shares), [CANDIDATE])
        if isinstance(servers, Mapping) and not {BASELINE, *candidates} <= set(servers):
            raise policy.refuse(
                ("rollout", "router", service),
                f"its servers are those of {', '.join(servers)}, but the rollout has the arms "
                f"{', '.join([BASELINE, *candidates])}",
                hint=f"servers: {{{BASELINE}: [b1, b2], {candidates[0]}: [c1, c2]}}",
            )
    missing = [service for service in services if service not in section.router]
    if missing and any(stage.has_users for stage in section.stages):
        raise PolicyError(
            f"{policy.origin}: rollout.router has no router of {', '.join(missing)}",
            hint="name the hook that changes its traffic, such as {haproxy: {socket: …, backend: …}}",
        )


def _check_logs(policy: Policy, section: RolloutSection, services: tuple[str, ...]) -> None:
    """Raise PolicyError if two services have the same log: requests of one would count as the other's."""
    owners: dict[Path, str] = {}
    for service in services:
        log = section.live.find_log(service)
        if not log or service not in section.router:
            continue
        other = owners.setdefault(Path(log).absolute(), service)
        if other != service:
            raise policy.refuse(
                ("rollout", "live", "access_log"),
                f"{other} and {service} have the same log, {log}, so requests of one would count as the other's",
                hint="let the router write a log for each service (in HAProxy, a `log` in each frontend), and name "
                f"them: access_log: {{{other}: FILE, {service}: FILE}}",
            )

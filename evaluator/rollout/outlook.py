"""What a plan will probably show: chances of an unchanged release, and how many requests the candidate gets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from evaluator.errors import EvaluatorError
from evaluator.guard.limits import estimate_reaction_s
from evaluator.health.per_instance_load import MOST
from evaluator.intents.baseline_servers import describe_way_back
from evaluator.pipeline.hindsight import ProductionHistory, find_service_history
from evaluator.planning import Goal, History, choose_harms, find_chances
from evaluator.policy import Policy
from evaluator.policy.rollout import RolloutSection
from evaluator.records import Rulebook
from evaluator.records.rollouts import Observe, RolloutPlan, StepNeeds
from evaluator.rollout.contradictions import (
    compare_loads,
    count_servers,
    has_time_gate,
    refuse_unreachable_least,
    split_servers,
)
from evaluator.rollout.evidence import make_step_policy
from evaluator.rollout.forecast import (
    ForecastStage,
    JudgedService,
    RolloutForecast,
    describe_forecast,
    forecast_rollout,
)
from evaluator.rollout.planning import make_plan
from evaluator.stats.inference.score import wilson_interval
from evaluator.stats.inference.student import t_quantile
from evaluator.store import Store


@dataclass(frozen=True, slots=True)
class StepOutlook:
    """What an unchanged release will probably show in one step of one service."""

    service: str
    go: tuple[float, ...] | None
    """Chance of GO by bake and, if there is one, by the deadline; None: not known."""
    no_harm: float | None
    """Chance that no harm is shown by bake; None: not known."""
    exposed: float | None
    """Requests that the candidate gets until bake; None: the rate is not known."""
    note: str = ""
    """What its servers mean for it; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a plan will probably show."""

    by_step: Mapping[int, tuple[StepOutlook, ...]] = field(default_factory=dict)
    """Position of an observation → its services."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Service → why its chances are not known, and what to do."""
    rates_per_s: Mapping[str, float] = field(default_factory=dict)
    """Service → requests of its users per second, where they are known."""
    way_back: str = ""
    """What a rollback after the end will need; empty: nothing more than before."""
    forecast: RolloutForecast | None = None
    """How the whole rollout will probably go; None: the history of a service is not known."""


def look_ahead(store: Store | None, policy: Policy, plan: RolloutPlan) -> Outlook:
    """Find the chances and the exposure of each observation, by the stored runs of each service.

    Raises PolicyError for a stage that its history contradicts. Nothing is written.
    """
    section = policy.rollout
    if section is None:
        return Outlook()
    histories, unknown = {}, {}
    for service in plan.services:
        try:
            histories[service] = find_service_history(store, policy, plan.release, service)
        except EvaluatorError:
            histories[service] = ProductionHistory(None, None)
        if histories[service].history is None:
            unknown[service] = (
                f"no history of {service}: `evaluator load` or `evaluator tail` a release of it first, or see what a "
                "rate would give: `evaluator plan --rate 30`"
            )
    steps = [step for step in plan.steps if isinstance(step, Observe)]
    rates = {service: known.rate_per_s for service, known in histories.items() if known.rate_per_s is not None}
    for service, rate in rates.items():
        refuse_unreachable_least(policy, [step for step in steps if service in step.services], rate)
    by_step = {
        position: tuple(
            _look_at(policy, plan, position, step, histories[service], service) for service in step.services
        )
        for position, step in enumerate(plan.steps)
        if isinstance(step, Observe)
    }
    regression, _ = choose_harms(policy.rulebook)
    forecast = None if unknown else forecast_plan(policy, plan, histories, regression)
    return Outlook(by_step, unknown, rates, describe_way_back(policy, plan), forecast)


def forecast_plan(
    policy: Policy, plan: RolloutPlan, histories: Mapping[str, ProductionHistory], regression: float
) -> RolloutForecast | None:
    """Simulate the rollout of a plan; None if nothing is observed, or if outcomes of users decide.

    `histories`: of each service of the plan.
    `regression`: relative rise of the response times of the worse release.
    """
    observed = [step for step in plan.steps if isinstance(step, Observe)]
    if policy.rollout is None or any(step.needs is StepNeeds.WINNER for step in observed):
        return None
    stages = []
    for position, step in enumerate(plan.steps):
        if isinstance(step, Observe):
            services = [
                _describe_service(policy, plan, position, histories[service], service) for service in step.services
            ]
            stages.append(ForecastStage(step, tuple(services)))
    return forecast_rollout(stages, regression) if stages else None


def describe_rollout(policy: Policy, release: str, history: History, goal: Goal) -> str:
    """Say how the rollout of a policy will probably go; empty if it has none.

    All its services are taken to be as precise as the `history`, at the rate of the goal, which names the regression.
    """
    if policy.rollout is None:
        return ""
    plan = make_plan(policy, release)
    known = ProductionHistory(2 * (goal.rate_per_s or history.rate_per_s), history)
    forecast = forecast_plan(policy, plan, dict.fromkeys(plan.services, known), goal.regression)
    if forecast is None:
        return ""
    return f"By your rollout ({plan.strategy.replace('_', '-')}), {describe_forecast(forecast)}"


def _describe_service(
    policy: Policy, plan: RolloutPlan, position: int, known: ProductionHistory, service: str
) -> JudgedService:
    """Describe what is known of a service in the stage at a position of the plan."""
    step, section = plan.steps[position], policy.rollout
    if not isinstance(step, Observe) or section is None:
        raise ValueError("only an observation of a rollout is judged")
    rulebook, history, rate_per_s = make_step_policy(policy, plan, step).rulebook, known.history, known.rate_per_s
    if rate_per_s is None:
        rate_per_s = 2 * history.rate_per_s if history else 0.0
    if step.needs is StepNeeds.NOTHING or step.share == 1:  # nothing is asked, or nothing is left to compare with
        return JudgedService(None, rulebook, (1, 1), rate_per_s)
    instances, note = _find_instances(section, plan.find_arms(position, service), step, known, service, rulebook)
    if note and history is not None:  # times decide nothing
        gates = tuple(gate for gate in history.precisions if not gate.rule.metric.is_response_time)
        history = replace(history, precisions=gates)
    no_harm = _find_no_harm(plan, step, history, rate_per_s, rulebook) if history else 0.0
    never_go = bool(note) and has_time_gate(rulebook)
    return JudgedService(history, rulebook, instances, rate_per_s, no_harm, never_go=never_go, note=note)


def _look_at(
    policy: Policy, plan: RolloutPlan, position: int, step: Observe, known: ProductionHistory, service: str
) -> StepOutlook:
    """Find what one service will probably show in one step."""
    exposed = None if known.rate_per_s is None else known.rate_per_s * step.share * step.bake_s
    judged = _describe_service(policy, plan, position, known, service)
    history = judged.history
    if history is None:
        return StepOutlook(service, None, None, exposed, judged.note)
    ends_s = [step.bake_s] if step.deadline_s == step.bake_s else [step.bake_s, step.deadline_s]
    chances = [
        find_chances(
            history,
            judged.rulebook,
            seconds=seconds,
            share=step.share or 0.5,
            instances=judged.instances,
            rate_per_s=known.rate_per_s,
        )
        for seconds in ends_s
        if history.precisions
    ]
    go = tuple(0.0 if judged.never_go else chance.go for chance in chances) or None
    no_harm = judged.no_harm * (1 - (chances[0].no_go if chances else 0.0))
    return StepOutlook(service, go, no_harm, exposed, judged.note)


def _find_instances(
    section: RolloutSection,
    arms: Mapping[str, Sequence[str]],
    step: Observe,
    known: ProductionHistory,
    service: str,
    rulebook: Rulebook,
) -> tuple[tuple[int, int], str]:
    """Find the instances of both arms in a step, and say if their loads differ too much for response times.

    `arms`: arm → its servers in the step; empty: those of the router's options.
    """
    if step.load is not None:
        replicates = int(step.load.get("replicates", 1))
        if replicates > 1:
            return (replicates, replicates), ""
        return (len(step.load["baseline"]), len(step.load["canary"])), ""
    baseline, candidate = split_servers(
        {arm: len(names) for arm, names in arms.items()} or count_servers(section, service)
    )
    if baseline is None or candidate is None:
        several = max(known.history.instances if known.history else 1, 1)
        return (several, several), ""
    ratio = compare_loads(step.share, baseline, candidate)
    if 1 / MOST <= ratio <= MOST or not has_time_gate(rulebook):
        return (baseline, candidate), ""
    return (baseline, candidate), "response times decide nothing: loads of single servers differ"


def _find_no_harm(plan: RolloutPlan, step: Observe, history: History, rate_per_s: float, rulebook: Rulebook) -> float:
    """Find the chance that no harm is shown by bake, for a release that is not NO-GO."""
    share = step.share or 0.5
    of_candidate, of_baseline = (rate_per_s * part * step.bake_s for part in (share, 1 - share))
    fewest = min(of_candidate, of_baseline)
    enough = _find_normal_tail((step.least - fewest) / math.sqrt(max(fewest, 1.0)))
    failing = [gate.baseline for gate in history.precisions if gate.rule.metric.is_failure_rate]
    rate_of_failures = max(failing, default=0.0)
    critical = float(t_quantile(1 - rulebook.alpha, math.inf))
    _, bound = wilson_interval(rate_of_failures, max(of_candidate, 1.0), critical)
    return 0.0 if bound >= plan.guard.failures else enough


def find_guarded_rate(plan: RolloutPlan, within_s: float) -> float:
    """Find the candidate's requests per second from which the guard reacts in time if half of them fail.

    `within_s`: until the candidate is off the traffic. Infinite: no rate is enough, by the limits of the plan.
    """
    rates = [tenths / 10 for tenths in range(1, 10_000)]
    return next((rate for rate in rates if (estimate_reaction_s(plan.guard, rate) or math.inf) <= within_s), math.inf)


def _find_normal_tail(z: float) -> float:
    """Probability that a standard normal number is above z."""
    return 0.5 * math.erfc(z / math.sqrt(2))

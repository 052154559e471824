"""The plan of a rollout, for people and for programs: what each step needs, and what it will probably show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from evaluator.guard.limits import estimate_reaction_s
from evaluator.records.rollouts import Observe, RolloutPlan, Step, StepNeeds
from evaluator.reports import Page
from evaluator.reports.base import align_columns
from evaluator.rollout.describing import describe_needs, describe_place
from evaluator.rollout.forecast import RolloutForecast, describe_forecast
from evaluator.rollout.outlook import Outlook, StepOutlook, find_guarded_rate
from evaluator.wording import format_count, format_duration, format_number

HEAD = ("#", "step", "where", "users", "needs", "time", "if unchanged", "exposed")


def write_plan(plan: RolloutPlan, outlook: Outlook, page: Page) -> list[str]:
    """Write a plan as lines: a head, a row a step, the rules, and what is not known."""
    rows = [
        (str(number), *_make_row(step), *_write_outlook(step, outlook.by_step.get(number - 1, ())))
        for number, step in enumerate(plan.steps, start=1)
    ]
    table = align_columns([HEAD, *rows], page)
    forecast = (
        [f"As far as earlier comparisons show, {describe_forecast(outlook.forecast)}", ""] if outlook.forecast else []
    )
    return [*forecast, *_write_head(plan), "", *table, "", *_write_notes(plan, outlook), *_write_rules(plan)]


def to_plain_outlook(outlook: Outlook) -> dict[str, Any]:
    """Return the outlook as values of JSON: chances from 0 to 1, null where they are not known."""
    return {
        "steps": {
            str(position): [asdict(service) for service in services] for position, services in outlook.by_step.items()
        },
        "unknown": dict(outlook.unknown),
        "requests_per_s": dict(outlook.rates_per_s),
        "way_back": outlook.way_back,
        "forecast": _forecast_to_plain(outlook.forecast),
    }


def _forecast_to_plain(forecast: RolloutForecast | None) -> dict[str, Any] | None:
    """Return a forecast as values of JSON; null where a time is not known."""
    if forecast is None:
        return None
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in asdict(forecast).items()
    }


def _write_outlook(step: Step, services: Sequence[StepOutlook]) -> tuple[str, str]:
    """Write the chances and the exposure of a step: of several services those of each."""
    if not isinstance(step, Observe):
        return "–", "–"
    chances = [_write_chance(step, service) for service in services] or ["–"]
    return " / ".join(dict.fromkeys(chances)), " / ".join(dict.fromkeys(map(_write_exposed(step), services))) or "–"


def _write_chance(step: Observe, outlook: StepOutlook) -> str:
    """Write the chance that an unchanged release shows what a step needs."""
    if step.needs is StepNeeds.NOTHING:
        return "–"
    if step.needs is StepNeeds.NO_HARM:
        return "not known" if outlook.no_harm is None else f"{_write_percent(outlook.no_harm)} no harm"
    if outlook.go is None:
        return "not known"
    text = f"{_write_percent(outlook.go[0])} GO"
    if len(outlook.go) > 1:
        text += f", {_write_percent(outlook.go[-1])} by {format_duration(step.deadline_s)}"
    return text


def _write_percent(share: float) -> str:
    """Write a chance as whole percent."""
    return f"{format_number(round(100 * share))} %"


def _write_exposed(step: Observe) -> Any:
    """Return a function that writes the requests that the candidate of a service gets until bake."""

    def write(outlook: StepOutlook) -> str:
        if not step.share:
            return "no users"
        if outlook.exposed is None:
            return f"{format_number(1000 * step.share)} of 1,000 requests"
        return f"{format_count(round(outlook.exposed))} requests"

    return write


def _write_notes(plan: RolloutPlan, outlook: Outlook) -> Iterator[str]:
    """Explain the columns, and say what is not known."""
    yield "  if unchanged: chance that an identical release shows what the step needs; health checks, the scan of the"
    yield "  endpoints and the last third are left out. exposed: requests of users that the candidate gets meanwhile"
    for service, why in outlook.unknown.items():
        yield f"  {service}: chances are not known: {why}"
    for service, rate in outlook.rates_per_s.items():
        yield f"  {service}: {format_number(rate)} requests a second, as in its stored production requests"
    for number, services in outlook.by_step.items():
        for known in services:
            if known.note:
                yield f"  step {number + 1}, {known.service}: {known.note}; failures still decide"
    yield from _write_guard(plan, outlook)
    if plan.replaces_instances:
        yield "  the last batch is not compared, because no instance has the old version then: the guard watches it by"
        yield "  its limits. A batch that fails, and those before it, get the old version again, the last one first"
    yield ""
    if outlook.way_back:
        yield outlook.way_back


RATES = (0.1, 0.5, 1, 5, 20)
"""Requests of a candidate per second that stand for others, where those of the service are not known."""
IN_TIME_S = 15.0
"""A candidate that fails half of its requests should be off the traffic within this time."""


def _write_guard(plan: RolloutPlan, outlook: Outlook) -> Iterator[str]:
    """Say how fast the guard reacts, and at which steps it is slower for want of requests."""
    if not plan.has_shift:
        return
    rate = find_guarded_rate(plan, IN_TIME_S)
    text = (
        f"  guard: a candidate that fails half of its requests is off the traffic within {format_duration(IN_TIME_S)}"
    )
    if math.isinf(rate):
        yield f"{text} at no rate, by these limits"
        return
    yield f"{text} from {format_number(rate)} of its requests a second on; with fewer it takes longer"
    if outlook.unknown:
        takes = ", ".join(f"{format_number(each)}: {_write_reaction(plan, each)}" for each in RATES)
        yield f"  by its requests a second: {takes}"
    for number, services in outlook.by_step.items():
        step = plan.steps[number]
        for known in services:
            total = outlook.rates_per_s.get(known.service)
            if not isinstance(step, Observe) or not step.share or total is None or step.share * total >= rate:
                continue
            seconds = estimate_reaction_s(plan.guard, step.share * total)
            takes = "is not seen by it" if seconds is None else f"takes about {format_duration(round(seconds))}"
            own_rate = format_number(step.share * total)
            yield f"  step {number + 1}, {known.service}: {own_rate} of its requests a second, so that {takes}"


def _write_reaction(plan: RolloutPlan, requests_per_s: float) -> str:
    """Write how long the guard needs for a candidate with so many requests, of which half fail."""
    seconds = estimate_reaction_s(plan.guard, requests_per_s)
    return "not seen" if seconds is None else f"about {format_duration(round(seconds))}"


def _write_head(plan: RolloutPlan) -> Iterator[str]:
    """Write which rollout is planned, and how long it takes if all goes well, or at most."""
    seconds = sum(step.bake_s for step in plan.steps if isinstance(step, Observe))
    longest = sum(step.deadline_s for step in plan.steps if isinstance(step, Observe))
    services, strategy = ", ".join(plan.services), plan.strategy.replace("_", "-")
    yield f"rollout of {plan.release}: {strategy}, {services}; {format_duration(seconds)} at least"
    if longest > seconds:
        yield f"  {format_duration(longest)} if every step takes until its deadline; then people are asked"


def _make_row(step: Step) -> tuple[str, ...]:
    """Make the cells of a step, without its number."""
    if isinstance(step, Observe):
        time = format_duration(step.bake_s) if step.bake_s else "–"
        if step.deadline_s > step.bake_s:
            time += f", a person is asked after {format_duration(step.deadline_s)}"
        what = f"observe {step.name}" + (" under load" if step.load else "")
        return what, step.environment, _write_share(step.share), describe_needs(step), time
    return step.name, describe_place(step), _write_share(step.share), describe_needs(step) or "–", "–"


def _write_share(share: float | None) -> str:
    """Write the share of users that meet the candidate."""
    return f"{format_number(100 * share)} %" if share else "–"


def _write_rules(plan: RolloutPlan) -> Iterator[str]:
    """Write the rules that hold while the rollout goes on."""
    guard = plan.guard
    limits = f"{format_number(100 * guard.failures)} % failures"
    if guard.p95_ms is not None:
        limits += f" or a p95 of {format_number(guard.p95_ms)} ms"
    yield (
        f"back to the baseline: at NO-GO (alpha {format_number(plan.alpha_no_go)} each), at {limits} over "
        f"{format_duration(guard.over_s)}, and {format_duration(plan.lease_s)} after its driver is gone"
    )
    if plan.joint_margin is not None:
        yield (
            "services of a stage with users are also judged together: back if their geometric means are shown to have "
            f"risen by more than {format_number(100 * plan.joint_margin)} %"
        )
    silence = "back to the baseline" if plan.unanswered == "baseline" else "it goes on waiting"
    yield f"if a person who is asked does not answer within {format_duration(plan.answer_within_s)}: {silence}"
    yield f"plan {plan.hash()}"

"""Can the answers of a metrics server be trusted, and do they agree with the load's own measurements?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from evaluator.health.base import TOLERATED, ReadingContext, fail, grade, name_some, ok, warn
from evaluator.records import BASELINE, Comparison, Finding, QueryFacts
from evaluator.stats.shaping.reading_panels import measures_the_same, name_of
from evaluator.wording import format_change, format_count, format_number, name_comparison

ENOUGH = 3


def check_selectors(context: ReadingContext) -> Iterable[Finding]:
    """A series of both baseline and candidate: the selectors do not distinguish the arms."""
    readings = context.readings
    for arm in readings.arms[1:]:
        shared = [fact for fact in readings.facts if fact.arm == arm and fact.shared]
        if shared:
            worst = max(shared, key=lambda fact: fact.shared)
            lives = {fact.arm: fact.lives for fact in readings.facts if fact.query == worst.query}
            both = name_some(sorted(name for name in lives.get(arm, {}) if name in lives.get(BASELINE, {}) and name))
            text = (
                f"the selectors of baseline and {arm} find the same {format_count(worst.shared)} series of "
                f"{name_of(worst.query)}{f' ({both})' if both else ''}: they do not distinguish the arms"
            )
            remedy = f"change sources.prometheus.selectors so that they distinguish {arm} and baseline; collect again"
            yield fail("selectors", text, remedy, void=True)


def check_shared_instances(context: ReadingContext) -> Iterable[Finding]:
    """Instances that count both arms: proxies in front of them, or a load balancer."""
    names = context.shared_instances
    if names:
        text = (
            f"baseline and candidate are both counted by {name_some(list(names))}: these are proxies, so they do not "
            "show how instances of the service differ, and are not counted as its instances"
        )
        remedy = (
            "set sources.prometheus.instance_label to a label that names the service's own instances, or "
            "`instances: {baseline: N, canary: N}` in the policy to the number of instances behind them"
        )
        yield warn("shared_instances", text, remedy)


def check_series(context: ReadingContext) -> Iterable[Finding]:
    """Arms without any series, and queries that only some of the arms answer."""
    readings = context.readings
    silent = [arm for code, arm in enumerate(readings.arms) if not (readings.arm == code).any()]
    for arm in silent:
        why = next((f": {fact.impossible}" for fact in readings.facts if fact.arm == arm and fact.impossible), "")
        remedy = (
            f"if {arm} ran in that time, it never answered a scrape; if it did not, check {arm} in "
            f"sources.prometheus.selectors, then run `evaluator collect {context.release}` again"
        )
        yield fail("series", f"no query has a series of {arm}{why}", remedy)
    lacking = 0
    for number, query in enumerate(readings.queries):
        arms_with_series = readings.arm[readings.query == number]
        absent = [arm for code, arm in enumerate(readings.arms) if arm not in silent and code not in arms_with_series]
        if not absent:
            continue
        lacking += 1
        name, arms = query.text.strip(), " and ".join(absent)
        facts = (fact for fact in readings.facts if fact.query == query and fact.arm in absent)
        impossible = next((fact.impossible for fact in facts if fact.impossible), "")
        if impossible:
            yield warn("series", f"{name}: {impossible}", "check the query's labels")
        elif any(measures_the_same(query, counter) for counter in readings.queries if counter != query):
            # Libraries create such a counter at its first event.
            yield warn("series", f"{name} never happened on {arms}, so it counts as 0")
        else:
            yield warn("series", f"{name} has no series of {arms}", "check the query's labels")
    if not silent and not lacking:
        yield ok("series", f"all {len(readings.queries)} queries have series of every arm")


def check_form(context: ReadingContext) -> Iterable[Finding]:
    """Queries that return no histogram, and histograms that are recorded differently on the two arms."""
    for query in context.readings.queries:
        forms = {fact.arm: fact.form for fact in context.readings.facts if fact.query == query and fact.form}
        if len(set(forms.values())) > 1 or set(forms.values()) - {"classic", "native"}:
            listed = ", ".join(f"{form} on {arm}" for arm, form in forms.items())
            yield warn("histogram_form", f"{name_of(query)} is {listed}")


def check_partial(context: ReadingContext) -> Iterable[Finding]:
    """The server's own warnings: part of the data may be missing. Its hints are only shown."""
    notes = dict.fromkeys(text for fact in context.readings.facts for text in fact.notes)
    if notes:
        yield ok("server_notes", f"the server notes: {'; '.join(notes)}")
    warnings = dict.fromkeys(text for fact in context.readings.facts for text in fact.warnings)
    if warnings:
        text = f"the server added warnings to its answers: {'; '.join(warnings)}"
        remedy = f"fix the server, then run `evaluator collect {context.release}` again"
        yield fail("partial_answer", text, remedy)


def check_scrapes(context: ReadingContext) -> Iterable[Finding]:
    """Scrapes that are missing within the series of each instance."""
    worst = max(context.readings.facts, key=_missing_share, default=None)
    share = _missing_share(worst) if worst else 0.0
    if worst is None or share <= TOLERATED:
        yield ok("scrapes", "no gaps")
        return
    others = [_missing_share(fact) for fact in context.readings.facts if fact.arm != worst.arm]
    text = f"{format_number(share * 100)} % of the scrapes of {name_of(worst.query)} of {worst.arm} are missing"
    text += f" ({format_number(max(others, default=0.0) * 100)} % of the other arm's)"
    remedy = f"find out why its scrapes fail, then run `evaluator collect {context.release}` again"
    yield grade("scrapes", text, remedy, fails=share > context.rulebook.silence)


def _missing_share(fact: QueryFacts) -> float:
    return fact.missing / fact.expected if fact.expected else 0.0


def check_restarts(context: ReadingContext) -> Iterable[Finding]:
    """Counters that started again, as their process did, and counters that dropped for another reason."""
    for arm in context.readings.arms:
        facts = [fact for fact in context.readings.facts if fact.arm == arm]
        resets = max((fact.resets for fact in facts), default=0)
        if resets:
            times = "once" if resets == 1 else f"{format_count(resets)} times"
            yield warn("restarts", f"counters of {arm} started again {times}: its instances were restarted")
        worst = max(facts, default=None, key=lambda fact: fact.falls / fact.read if fact.read else 0.0)
        if worst is None or not worst.falls:
            continue
        text = (
            f"{name_of(worst.query)} of {arm} dropped by less than half {format_count(worst.falls)} times, which is no "
            "restart (another server of a pair answered, or digits were lost); these steps are left out"
        )
        if worst.falls > TOLERATED * worst.read:
            remedy = "if its values go up and down, it is not a counter: compare it as a gauge"
            yield fail("counter_drops", text, remedy)
        else:
            yield warn("counter_drops", text)


def check_samples(context: ReadingContext) -> Iterable[Finding]:
    """Samples and series that were left out; all that were read must be used or named."""
    facts = context.readings.facts
    for kind, noun in (("nan", "not a number"), ("infinite", "infinite")):
        shares = {arm: _left_out_share(context, arm, kind) for arm in context.readings.arms}
        for arm, (count, share) in shares.items():
            if count:
                baseline_share = shares[context.readings.arms[0]][1]
                lopsided = arm != context.readings.arms[0] and share > max(
                    1 - context.rulebook.coverage, 2 * baseline_share
                )
                text = f"{format_count(count)} samples of {arm} were {noun} ({format_number(share * 100)} %); left out"
                remedy = "check what the query divides by: the samples left out may hide a fault" if lopsided else ""
                check = "not_a_number" if kind == "nan" else "infinite"
                yield grade(check, text, remedy, fails=lopsided or share > context.rulebook.silence)
    twice = sum(fact.duplicates for fact in facts)
    if twice:
        yield warn("duplicate_series", f"{format_count(twice)} series have the same samples as another; left out")
    outside = sum(fact.outside for fact in facts)
    if outside > sum(fact.series for fact in facts):  # one of each series may lie on the very start
        yield warn("other_times", f"{format_count(outside)} samples were outside of the requested time; left out")
    if any(fact.series and not fact.read for fact in facts):
        text = (
            "these readings were collected by an earlier version, which did not store the times of each arm's samples"
        )
        remedy = f"run `evaluator collect {context.release}` again"
        yield fail("samples", text, remedy)
        return
    named = [fact.nan + fact.infinite + fact.repeated + fact.outside + fact.falls for fact in facts]
    lost = sum(abs(fact.read - sum(n for _, n in fact.used) - n) for fact, n in zip(facts, named, strict=True))
    if lost:
        yield fail("samples", f"{format_count(lost)} samples were read, but are neither used nor named")


def _left_out_share(context: ReadingContext, arm: str, kind: str) -> tuple[int, float]:
    """How many samples of an arm were left out for one reason (`nan`, `infinite`), and the largest share of a query."""
    facts = [fact for fact in context.readings.facts if fact.arm == arm and getattr(fact, kind)]
    share = max((getattr(fact, kind) / max(fact.read, getattr(fact, kind)) for fact in facts), default=0.0)
    return sum(getattr(fact, kind) for fact in facts), share


def check_source_clock(context: ReadingContext) -> Iterable[Finding]:
    """The server's clock against ours: together with a load it decides which readings belong to it."""
    offset = context.readings.sources.get("clock_offset_s")
    if not isinstance(offset, int | float):
        return
    text = f"the clock of the metrics server differs from ours by {format_number(abs(offset))} s"
    if abs(offset) <= context.rulebook.max_clock_offset_s:
        yield ok("source_clock", text)
    elif context.client:
        yield fail("source_clock", text, "set both clocks by NTP, then load again", void=True)
    else:
        yield warn("source_clock", text)


def check_single_instance(context: ReadingContext) -> Iterable[Finding]:
    """With one instance a side the release cannot be distinguished from its machine (method B.3a)."""
    for arm in context.readings.arms[1:]:
        single = [c for c in context.comparisons if c.arm == arm and not c.no_data and c.method.endswith("single")]
        fewest = min((c.instances for c in single), key=min, default=None)
        if fewest is not None and min(fewest) < ENOUGH:
            text = (
                f"readings of one instance a side ({arm} {fewest[1]}, baseline {fewest[0]}): "
                "the release cannot be distinguished from the machine it ran on"
            )
            remedy = (
                "run three instances of each arm; or set sources.prometheus.instance_label to the label that "
                "distinguishes them, or `instances: {baseline: N, canary: N}` to the number behind one label"
            )
            yield fail("single_instance", text, remedy)


def check_bounds(context: ReadingContext) -> Iterable[Finding]:
    """Histograms too coarse for the margin that is set on them."""
    for comparison in context.comparisons:
        if comparison.unresolved:
            yield warn("bucket_bounds", f"{name_comparison(comparison)}: {comparison.unresolved}")


def check_agreement(context: ReadingContext) -> Iterable[Finding]:
    """Do the load's clients and the server agree on the change of response times?"""

    def find(rows: Sequence[Comparison], p_value: Literal["p_worse", "p_within"]) -> Comparison | None:
        """The first of some comparisons that was shown to be beyond, or within, its margin."""
        alpha = context.rulebook.alpha
        shown = (c for c in rows for q in c.questions if q.kind == "margin" and getattr(q, p_value) < alpha)
        return next(shown, None)

    for arm in context.readings.arms[1:]:
        client = [c for c in context.client if c.arm == arm and c.rule.metric.is_response_time and not c.scan]
        server = [c for c in context.comparisons if c.arm == arm and c.rule.metric.is_response_time]
        slow_outside, slow_inside = find(client, "p_worse"), find(server, "p_worse")
        if slow_outside and not slow_inside and (fine := find(server, "p_within")):
            why = "check what is between them: queues, network or load balancer"
            yield warn("disagreement", f"the load sees {_moved(slow_outside)}, the server {_moved(fine)}: {why}")
        elif slow_inside and not slow_outside and (fine := find(client, "p_within")):
            why = "the load does not call what is slow"
            yield warn("disagreement", f"the server sees {_moved(slow_inside)}, the load {_moved(fine)}: {why}")


def _moved(comparison: Comparison) -> str:
    change = format_change(comparison.effect, comparison.unit) if comparison.effect else "?"
    return f"{name_comparison(comparison)} of {comparison.arm} at {change}"

"""Can the answers of a metrics server be trusted, and do they agree with the load's own measurements?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from evaluator.health.base import LOPSIDED, TOLERATED, ReadingContext, fail, grade, name_some, ok, warn
from evaluator.records import BASELINE, Comparison, Finding, QueryFacts
from evaluator.stats.shaping.reading_panels import measures_the_same, name_of
from evaluator.wording import format_change, format_count, format_number, name_comparison, quote_command

ENOUGH = 3


def check_selectors(context: ReadingContext) -> Iterable[Finding]:
    """Fail if a series belongs to baseline and candidate: then the selectors do not distinguish the arms.

    Such a comparison is void: neither a GO nor a NO-GO is possible.
    """
    readings = context.readings
    for arm in readings.arms[1:]:
        # `shared`: number of series that the baseline has as well.
        facts_with_shared = [fact for fact in readings.facts if fact.arm == arm and fact.shared]
        if facts_with_shared:
            worst = max(facts_with_shared, key=lambda fact: fact.shared)
            # Arm → names of the instances that the worst query has seen.
            instances = {fact.arm: fact.lives.keys() for fact in readings.facts if fact.query == worst.query}
            # Names of instances that both arms have; a series without a name of its instance has an empty one.
            shared_instances = instances.get(arm, set()) & instances.get(BASELINE, set()) - {""}
            names = name_some(sorted(shared_instances))
            text = (
                f"the selectors of baseline and {arm} find the same {format_count(worst.shared)} series of "
                f"{name_of(worst.query)}{f' ({names})' if names else ''}: they do not distinguish the arms"
            )
            remedy = f"change sources.prometheus.selectors so that they distinguish {arm} and baseline; collect again"
            yield fail("selectors", text, remedy, void=True)


def check_shared_instances(context: ReadingContext) -> Iterable[Finding]:
    """Warn of instances that count requests of both arms: proxies in front of them, or a load balancer."""
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
    """Name arms without any series (no GO), and queries that only some of the arms answer."""
    readings = context.readings
    without_series = [arm for arm_code, arm in enumerate(readings.arms) if not (readings.arm == arm_code).any()]
    for arm in without_series:
        # `impossible`: why the query can have no series of this arm.
        why = next((f": {fact.impossible}" for fact in readings.facts if fact.arm == arm and fact.impossible), "")
        remedy = (
            f"if {arm} ran in that time, it never answered a scrape; if it did not, check {arm} in "
            f"sources.prometheus.selectors, then run `{quote_command('collect', context.release)}` again"
        )
        yield fail("series", f"no query has a series of {arm}{why}", remedy)
    incomplete_queries = 0
    for query_number, query in enumerate(readings.queries):
        codes_with_series = set(readings.arm[readings.query == query_number].tolist())  # of arms
        lacking_arms = [
            arm
            for arm_code, arm in enumerate(readings.arms)
            if arm not in without_series and arm_code not in codes_with_series
        ]
        if not lacking_arms:
            continue
        incomplete_queries += 1
        name, arms = query.text.strip(), " and ".join(lacking_arms)
        facts = (fact for fact in readings.facts if fact.query == query and fact.arm in lacking_arms)
        impossible = next((fact.impossible for fact in facts if fact.impossible), "")
        if impossible:
            yield warn("series", f"{name}: {impossible}", "check the query's labels")
        elif any(measures_the_same(query, counter) for counter in readings.queries if counter != query):
            # Libraries create such a counter at its first event.
            yield warn("series", f"{name} never happened on {arms}, so it counts as 0")
        else:
            yield warn("series", f"{name} has no series of {arms}", "check the query's labels")
    if not without_series and not incomplete_queries:
        yield ok("series", f"all {len(readings.queries)} queries have series of every arm")


def check_form(context: ReadingContext) -> Iterable[Finding]:
    """Warn of histogram queries that return no histogram, and of histograms that the arms record differently.

    A form is how an arm records a query: `classic`, `native`, or for example a summary.
    """
    for query in context.readings.queries:
        forms = {fact.arm: fact.form for fact in context.readings.facts if fact.query == query and fact.form}
        if len(set(forms.values())) > 1 or set(forms.values()) - {"classic", "native"}:
            listed = ", ".join(f"{form} on {arm}" for arm, form in forms.items())
            yield warn("histogram_form", f"{name_of(query)} is {listed}")


def check_partial(context: ReadingContext) -> Iterable[Finding]:
    """Fail if the server added warnings to its answers: part of the data may be missing. Its notes are only shown."""
    notes = dict.fromkeys(text for fact in context.readings.facts for text in fact.notes)
    if notes:
        yield ok("server_notes", f"the server notes: {'; '.join(notes)}")
    warnings = dict.fromkeys(text for fact in context.readings.facts for text in fact.warnings)
    if warnings:
        text = f"the server added warnings to its answers: {'; '.join(warnings)}"
        remedy = f"fix the server, then run `{quote_command('collect', context.release)}` again"
        yield fail("partial_answer", text, remedy)


def check_scrapes(context: ReadingContext) -> Iterable[Finding]:
    """Judge the query with the largest share of scrapes missing within the series of its instances."""
    worst = max(context.readings.facts, key=_share_missing, default=None)
    share = _share_missing(worst) if worst else 0.0
    if worst is None or share <= TOLERATED:
        yield ok("scrapes", "no gaps")
        return
    others = [fact for fact in context.readings.facts if fact.arm != worst.arm]
    missing_of_others = format_number(max((_share_missing(fact) for fact in others), default=0.0) * 100)
    whose = "of any other arm's, at most" if len({fact.arm for fact in others}) > 1 else "of the other arm's"
    text = f"{format_number(share * 100)} % of the scrapes of {name_of(worst.query)} of {worst.arm} are missing"
    text += f" ({missing_of_others} % {whose})"
    remedy = f"find out why its scrapes fail, then run `{quote_command('collect', context.release)}` again"
    yield grade("scrapes", text, remedy, fails=share > context.rulebook.silence)


def _share_missing(fact: QueryFacts) -> float:
    """Share of the expected samples that are missing; 0 if none was expected."""
    return fact.missing / fact.expected if fact.expected else 0.0


def check_restarts(context: ReadingContext) -> Iterable[Finding]:
    """Name counters that started again, as their process did (resets), and those that dropped otherwise (falls)."""
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
    """Name the samples and series that were left out; all samples that were read must be used or named."""
    facts = context.readings.facts
    yield from _judge_not_finite(context, "nan", "not_a_number", "not a number")
    yield from _judge_not_finite(context, "infinite", "infinite", "infinite")
    duplicates = sum(fact.duplicates for fact in facts)
    if duplicates:
        yield warn("duplicate_series", f"{format_count(duplicates)} series have the same samples as another; left out")
    outside = sum(fact.outside for fact in facts)
    if outside > sum(fact.series for fact in facts):  # a sample of each series may lie on the very start
        yield warn("other_times", f"{format_count(outside)} samples were outside of the requested time; left out")
    if any(fact.series and not fact.read for fact in facts):
        text = (
            "these readings were collected by an earlier version, which did not store the times of each arm's samples"
        )
        remedy = f"run `{quote_command('collect', context.release)}` again"
        yield fail("samples", text, remedy)
        return
    lost = 0  # samples that are missing from the account of their query, or counted twice
    for fact in facts:
        used = sum(samples for _, samples in fact.used)
        left_out = fact.nan + fact.infinite + fact.repeated + fact.outside + fact.falls
        lost += abs(fact.read - used - left_out)
    if lost:
        yield fail("samples", f"{format_count(lost)} samples were read, but are neither used nor named")


def _judge_not_finite(context: ReadingContext, field: str, check: str, words: str) -> Iterable[Finding]:
    """Judge the samples that were left out because they are not finite: fail if a candidate has many more of them.

    Args:
        context: The readings.
        field: Count of these samples in `QueryFacts`: `nan` or `infinite`.
        check: Name of the check in the findings.
        words: What these samples are, in the findings.
    """
    _, baseline_share = _count_left_out(context, context.readings.arms[0], field)
    for arm_code, arm in enumerate(context.readings.arms):
        count, share = _count_left_out(context, arm, field)
        if count:
            # A candidate may lack what the policy allows, or up to a multiple of the baseline's share.
            allowed_share = max(1 - context.rulebook.coverage, LOPSIDED * baseline_share)
            lopsided = arm_code > 0 and share > allowed_share
            text = f"{format_count(count)} samples of {arm} were {words} ({format_number(share * 100)} %); left out"
            remedy = "check what the query divides by: the samples left out may hide a fault" if lopsided else ""
            yield grade(check, text, remedy, fails=lopsided or share > context.rulebook.silence)


def _count_left_out(context: ReadingContext, arm: str, field: str) -> tuple[int, float]:
    """Count the samples of an arm that are not finite, over all queries (`field`: `nan` or `infinite`).

    Returns their number, and their largest share among the samples that were read by a query.
    """
    facts = [fact for fact in context.readings.facts if fact.arm == arm and getattr(fact, field)]
    # An earlier version did not store how many samples were read (0).
    share = max((getattr(fact, field) / max(fact.read, getattr(fact, field)) for fact in facts), default=0.0)
    return sum(getattr(fact, field) for fact in facts), share


def check_source_clock(context: ReadingContext) -> Iterable[Finding]:
    """Compare the clock of the metrics server with ours: with a load, it decides which readings belong to the load."""
    offset = context.readings.sources.get("clock_offset_s")
    if not isinstance(offset, int | float):
        return
    text = f"the clock of the metrics server differs from ours by {format_number(abs(offset))} s"
    if abs(offset) <= context.rulebook.max_clock_offset_s:
        yield ok("source_clock", text)
    elif context.client:  # there was a load
        yield fail("source_clock", text, "set both clocks by NTP, then load again", void=True)
    else:
        yield warn("source_clock", text)


def check_single_instance(context: ReadingContext) -> Iterable[Finding]:
    """With one instance a side the release cannot be distinguished from its machine (method B.3a)."""
    for arm in context.readings.arms[1:]:
        # Instances of baseline and candidate, of each comparison whose method says that nothing is replicated.
        instances_of_single = [
            comparison.instances
            for comparison in context.comparisons
            if comparison.arm == arm and not comparison.no_data and comparison.method.endswith("single")
        ]
        if not instances_of_single:
            continue
        baseline, candidate = min(instances_of_single, key=min)  # the comparison with the fewest instances
        if min(baseline, candidate) < ENOUGH:
            text = (
                f"readings of one instance a side ({arm} {candidate}, baseline {baseline}): "
                "the release cannot be distinguished from the machine it ran on"
            )
            remedy = (
                "run three instances of each arm; or set sources.prometheus.instance_label to the label that "
                "distinguishes them, or `instances: {baseline: N, canary: N}` to the number behind one label"
            )
            yield fail("single_instance", text, remedy)


def check_bounds(context: ReadingContext) -> Iterable[Finding]:
    """Warn of histograms whose buckets are too coarse for the margin that is set on them."""
    for comparison in context.comparisons:
        if comparison.unresolved:  # why the bounds of the buckets cannot show the margin; else empty
            yield warn("bucket_bounds", f"{name_comparison(comparison)}: {comparison.unresolved}")


def check_agreement(context: ReadingContext) -> Iterable[Finding]:
    """Do the load's clients and the server agree on the change of response times?

    Warn if response times are shown to be beyond their margin on the side of the load, and within it on the side of the
    server, or the other way round.
    """
    alpha = context.rulebook.alpha
    for arm in context.readings.arms[1:]:
        # Comparisons of response times; those of the scan of single endpoints are left out.
        of_load = [c for c in context.client if c.arm == arm and c.rule.metric.is_response_time and not c.scan]
        of_server = [c for c in context.comparisons if c.arm == arm and c.rule.metric.is_response_time]
        # Comparisons that show a change beyond their margin (`slow_…`) or within it (`fine_…`); `None`: there are none.
        slow_for_load = _find_shown(of_load, "p_worse", alpha)
        fine_for_load = _find_shown(of_load, "p_within", alpha)
        slow_on_server = _find_shown(of_server, "p_worse", alpha)
        fine_on_server = _find_shown(of_server, "p_within", alpha)
        if slow_for_load and not slow_on_server and fine_on_server:
            load, server = _describe_change(slow_for_load), _describe_change(fine_on_server)
            why = "check what is between them: queues, network or load balancer"
            yield warn("disagreement", f"the load sees {load}, the server {server}: {why}")
        elif slow_on_server and not slow_for_load and fine_for_load:
            load, server = _describe_change(fine_for_load), _describe_change(slow_on_server)
            why = "the load does not call what is slow"
            yield warn("disagreement", f"the server sees {server}, the load {load}: {why}")


def _find_shown(
    comparisons: Sequence[Comparison], p_value: Literal["p_worse", "p_within"], alpha: float
) -> Comparison | None:
    """Find the first comparison that is shown to be beyond (`p_worse`) or within (`p_within`) its margin.

    `None`: none is shown to be so, at the error rate `alpha`.
    """
    for comparison in comparisons:
        for question in comparison.questions:
            if question.kind == "margin" and getattr(question, p_value) < alpha:
                return comparison
    return None


def _describe_change(comparison: Comparison) -> str:
    """Describe a change: `p95 of canary at +12.4 %`."""
    change = format_change(comparison) if comparison.effect else "?"
    return f"{name_comparison(comparison)} of {comparison.arm} at {change}"

"""Outcomes become evidence, without a store."""

from dataclasses import replace

import numpy as np
import pytest
from judging import RULES as LOAD_RULES
from judging import RUN, SMALL, assess_outcomes, with_options
from scipy.special import ndtri

from evaluator.assess import ReleaseData, assess_release
from evaluator.assess.outcomes import find_needs
from evaluator.errors import UnknownName
from evaluator.judges import judge_evidence
from evaluator.judges.multiplicity import adjust, holm
from evaluator.metrics.outcome_mean import OutcomeMean
from evaluator.metrics.outcome_proportion import OutcomeProportion
from evaluator.metrics.outcome_quantile import OutcomeQuantile
from evaluator.metrics.outcome_ratio import OutcomeRatio
from evaluator.records import (
    Direction,
    LeftOut,
    LeftOutKind,
    Level,
    Limit,
    Margin,
    OutcomeColumn,
    OutcomeFacts,
    Outcomes,
    Role,
    Rule,
    Rulebook,
    RunState,
    VerdictWord,
)
from evaluator.simulate import simulate, to_cells
from evaluator.stats.outcomes.levels import moments_of

NAMES = ("rows", "bought", "bought?", "spent", "before")


def make(sizes=(900, 1000), *, change=1.0, seed=0, **facts):
    rng = np.random.default_rng(seed)
    arms = []
    for arm, size in enumerate(sizes):
        rows = 1.0 + rng.poisson(2, size)
        before = rng.lognormal(1, 0.5, size)
        bought = rng.binomial(rows.astype(int), 0.2 * (change if arm else 1)).astype(float)
        spent = before + bought * rng.gamma(2, 2, size)
        arms.append(np.column_stack([rows, bought, bought > 0, spent, before]))
    columns = (OutcomeColumn("bought", binary=True), OutcomeColumn("spent", binary=False))
    return Outcomes(
        run="r",
        arms=("baseline", *"BCD"[: len(sizes) - 1]),
        columns=(*columns, OutcomeColumn("before", "covariate", binary=False)),
        variables=NAMES,
        moments=tuple(moments_of(arm) for arm in arms),
        skewness=tuple(np.zeros(5) for _ in arms),
        facts=OutcomeFacts(units=sum(sizes), **facts),
        values={name: tuple(arm[:, k] for arm in arms) for k, name in enumerate(NAMES)},
    )


def with_bad_rows(*counts):
    """Outcomes with this many unusable rows in each arm."""
    outcomes = make()
    arms = list(zip(outcomes.arms, counts, strict=True))
    read = {arm: part.n + bad for part, (arm, bad) in zip(outcomes.moments, arms, strict=True)}
    left_out = tuple(LeftOut(arm, LeftOutKind.BAD_ROW, bad) for arm, bad in arms if bad)
    return replace(outcomes, facts=replace(outcomes.facts, read=read, left_out=left_out))


SHARES = Rule("bought", OutcomeProportion(outcome="bought"), margin=Margin(0.08, relative=False))
MEAN = Rule("spent", OutcomeMean(outcome="spent", covariates=("before",)), margin=Margin(0.15))
RATIO = Rule("per_row", OutcomeRatio(outcome="bought", per="rows"), margin=Margin(0.25))
P75 = Rule("p75", OutcomeQuantile(outcome="spent", quantile=0.75), margin=Margin(0.3))
RULES = tuple(replace(rule, direction=Direction.HIGHER) for rule in (SHARES, MEAN, RATIO, P75))
RATIO_OF_SIZES = {"baseline": 0.9, "B": 1.0, "C": 1.0}


def judge(outcomes, rules=RULES, shares=RATIO_OF_SIZES):
    rulebook = Rulebook(rules, sample_ratio=shares)
    return judge_evidence(assess_outcomes(outcomes, rulebook), rulebook, "r")


def test_harmless_harmful_and_unclear():
    assert judge(make()).word is VerdictWord.GO
    assert judge(make(change=0.5)).word is VerdictWord.NO_GO
    unclear = judge(make((90, 100)))
    assert unclear.word is VerdictWord.INCONCLUSIVE
    assert "users in all" in unclear.next_action or "as large as the margin" in unclear.next_action


def test_identical_arms_are_rarely_no_go():
    words = [judge(make((180, 200), seed=seed)).word for seed in range(150)]
    assert words.count(VerdictWord.NO_GO) <= 3


def test_a_wider_margin_never_turns_go_into_no_go():
    order = [VerdictWord.NO_GO, VerdictWord.INCONCLUSIVE, VerdictWord.GO]
    for seed in range(5):
        outcomes = make(change=0.85, seed=seed)
        words = [
            judge(outcomes, tuple(replace(rule, margin=replace(rule.margin, value=value)) for rule in RULES)).word
            for value in (0.0, 0.01, 0.05, 0.2, 0.6)
        ]
        assert [order.index(word) for word in words] == sorted(order.index(word) for word in words)


def test_sums_are_enough_unless_values_are_needed():
    rulebook = Rulebook(RULES[:3])
    assert find_needs(make(), rulebook).values == frozenset()
    assert find_needs(make(), Rulebook(RULES[3:])).values == {"spent"}
    # Beside a gate that is known by its units, those of the other gates say how the two hang together.
    assert find_needs(make(), Rulebook(RULES)).values == {"bought?", "spent", "before", "bought", "rows"}
    watched = tuple(replace(rule, role=Role.WATCH) for rule in RULES[:3])
    assert find_needs(make(), Rulebook((*watched, RULES[3]))).values == {"spent"}
    cut = Rulebook((with_options(RULES[1], winsorise=0.99),))
    assert find_needs(make(), cut).values == {"spent", "before"}
    missing = make(missing={"spent": {"baseline": 1, "B": 0}})
    assert find_needs(missing, Rulebook(RULES[1:2])).values == {"spent", "before"}
    assert find_needs(missing, rulebook).values == {"bought?", "spent", "before", "bought", "rows"}
    by_rows = with_options(RULES[3], per="rows")
    assert find_needs(make(), Rulebook((by_rows,))).row_values == {"spent"}


def test_sums_and_values_give_the_same_answer():
    outcomes = make()
    told = replace(outcomes, facts=replace(outcomes.facts, missing={"spent": {}, "bought": {}}))
    for rule in RULES[:3]:
        one, other = (assess_outcomes(o, Rulebook((rule,))).comparisons[0] for o in (outcomes, told))
        assert one.effect.lower == pytest.approx(other.effect.lower, abs=1e-9)
        assert one.method == other.method


def test_winsorising_cuts_values_and_is_reported():
    outcomes = make()
    outcomes.values["spent"][1][:2] = 1e6
    whole = with_options(RULES[1], covariates=None)
    told = replace(outcomes, facts=replace(outcomes.facts, missing={"spent": {}}))
    wild, tame = (
        assess_outcomes(told, Rulebook((rule,))).comparisons[0] for rule in (whole, with_options(whole, winsorise=0.99))
    )
    assert wild.candidate.value > 1000
    assert tame.candidate.value < 20
    assert "winsorised at 99 % (cut to " in tame.method
    assert "winsorised" not in wild.method


def test_without_outcomes_nothing_passes():
    for outcomes in (None, make((900,))):
        judged = judge(outcomes)
        assert judged.word is VerdictWord.INCONCLUSIVE
        assert all(row.no_data for row in judged.comparisons)


@pytest.mark.parametrize(
    ("outcomes", "rule", "why"),
    [
        pytest.param(make((20, 900)), RULES[0], "only 20 users in the smaller arm", id="few-units"),
        pytest.param(make((60, 60)), with_options(RULES[3], quantile=0.99), "500 are needed", id="far-quantile"),
        pytest.param(make(), with_options(RULES[0], outcome="spent"), "other than 0 and 1", id="not-binary"),
        pytest.param(replace(make(), values={}), RULES[3], "which were purged", id="purged"),
        pytest.param(make(missing_rows={"bought": 3}), RULES[2], "3 rows have no bought", id="rows-without"),
    ],
)
def test_no_data_is_named(outcomes, rule, why):
    comparison = assess_outcomes(outcomes, Rulebook((rule,))).comparisons[0]
    assert why in comparison.no_data


def test_limits_bind_the_candidate():
    rule = replace(RULES[0], margin=None, limit=Limit(min=0.9))
    judged = judge(make(), (rule,))
    assert judged.word is VerdictWord.NO_GO
    # The baseline breaks it as well, which is said first.
    assert judged.reasons[0].text.startswith("baseline breaks the limit of at least 90 % too")


def test_names_that_were_not_imported():
    for rule in (
        with_options(RULES[0], outcome="bougth"),
        with_options(RULES[2], per="x"),
        with_options(RULES[1], covariates=("b",)),
    ):
        with pytest.raises(UnknownName):
            find_needs(make(), Rulebook((rule,)))


# ------------------------------------------------------------------ several questions, several candidates

AT_THE_MARGIN = tuple(replace(rule, margin=replace(rule.margin, value=0.0)) for rule in RULES)


def correlate(comparisons):
    rows = np.array([row.loadings for row in comparisons])
    return rows @ rows.T


def test_metrics_and_candidates_are_correlated_as_their_estimates_are():
    """120 identical releases with two candidates: a correlation of 0.5 is known to ± 0.13 (95 %)."""
    z, stated = [], []
    for seed in range(120):
        rows = assess_outcomes(make((300, 400, 350), seed=seed), Rulebook(AT_THE_MARGIN)).comparisons
        p = [next(q.p_worse for q in row.questions if q.kind == "margin") for row in rows]
        z.append(ndtri(np.clip(p, 1e-9, 1 - 1e-9)))
        stated.append(correlate(rows))
    apart = np.abs(np.mean(stated, axis=0) - np.corrcoef(np.transpose(z)))
    assert apart.max() < 0.25
    assert apart.mean() < 0.08


def test_the_family_of_outcomes_keeps_its_rate_and_is_less_strict_than_holm():
    """250 identical releases, three metrics, two candidates, all at the margin: 5 % plus two Monte Carlo errors."""
    alarms, plain = 0, 0
    for seed in range(250):
        rows = assess_outcomes(make((150, 200, 175), seed=1000 + seed), Rulebook(AT_THE_MARGIN[:3])).comparisons
        p = [next(q.p_worse for q in row.questions if q.kind == "margin") for row in rows]
        alarms += min(adjust(p, [row.loadings for row in rows])) < 0.05
        plain += min(holm(p)) < 0.05
    assert plain <= alarms <= 250 * (0.05 + 2 * np.sqrt(0.05 * 0.95 / 250))


def test_purged_units_do_not_change_metrics_of_sums():
    outcomes = make((300, 400, 350))
    whole = assess_outcomes(outcomes, Rulebook(RULES[:3])).comparisons
    purged = assess_outcomes(replace(outcomes, values={}), Rulebook(RULES)).comparisons
    left = [row for row in purged if not row.no_data]
    assert correlate(left) == pytest.approx(correlate(whole))


def test_covariates_carry_over_to_correlations():
    """Adjusted means are less correlated: their common part was removed."""
    plain = tuple(with_options(rule, covariates=None) for rule in RULES[1:3])
    adjusted = correlate(assess_outcomes(make(), Rulebook(RULES[1:3])).comparisons)[0, 1]
    raw = correlate(assess_outcomes(make(), Rulebook(plain)).comparisons)[0, 1]
    assert adjusted > raw > 0  # what is left of spending is what was bought


def test_quantiles_of_rows_are_correlated_with_other_metrics_by_unit():
    """With one row a unit, rows and units have the same correlation with the mean."""
    outcomes = make()
    places = tuple(np.random.default_rng(1).permutation(part.n) for part in outcomes.moments)
    rows = tuple((place, outcomes.values["spent"][arm][place]) for arm, place in enumerate(places))
    by_rows = with_options(RULES[3], per="rows")
    told = replace(outcomes, row_values={"spent": rows})
    units = correlate(assess_outcomes(told, Rulebook((RULES[1], RULES[3]))).comparisons)
    assert units[0, 1] > 0.2
    assert correlate(assess_outcomes(told, Rulebook((RULES[1], by_rows))).comparisons) == pytest.approx(units)


def test_only_gates_are_traced():
    rules = (RULES[0], replace(RULES[1], role=Role.WATCH))
    found = assess_outcomes(make(), Rulebook(rules)).comparisons
    assert [bool(row.loadings) for row in found] == [True, False]


def test_the_best_of_several_candidates_is_named():
    judged = judge(make((900, 1000, 1000), seed=3))
    assert judged.word is VerdictWord.GO
    assert "of 2 candidates it stays furthest from its margins; also GO: " in judged.reasons[0].text


def test_views_never_gate():
    watched = tuple(replace(rule, role=Role.WATCH) for rule in RULES)
    judged = judge(make((900, 1000, 1000), change=0.4), watched)
    assert judged.word is VerdictWord.INCONCLUSIVE
    rows = [row for row in judged.comparisons if row.rule.name == "spent"]
    assert all(row.view.p_beyond > 0.5 and row.view.p_dunnett < 0.05 and row.view.p_best < 0.2 for row in rows)


@pytest.mark.parametrize(
    ("outcomes", "check", "level"),
    [
        pytest.param(make((900, 1200)), "sample_ratio", Level.FAIL, id="ratio"),
        pytest.param(make(crossed=5), "assignment", Level.WARN, id="few-crossed"),
        pytest.param(make(crossed=50), "assignment", Level.FAIL, id="many-crossed"),
        pytest.param(make(duplicates=5), "duplicates", Level.WARN, id="duplicates"),
        pytest.param(with_bad_rows(5, 5), "coverage", Level.WARN, id="skipped"),
        pytest.param(with_bad_rows(12, 12), "coverage", Level.FAIL, id="too-many-skipped"),
        pytest.param(with_bad_rows(0, 15), "coverage", Level.FAIL, id="skipped-in-one-arm"),
        pytest.param(make(missing={"spent": {"baseline": 50, "B": 55}}), "missing_outcomes", Level.WARN, id="alike"),
        pytest.param(make(missing={"spent": {"baseline": 5, "B": 90}}), "missing_outcomes", Level.FAIL, id="not-alike"),
        pytest.param(
            replace(make(), skewness=(np.full(5, 8.0), np.zeros(5))), "heavy_tail", Level.WARN, id="heavy-tail"
        ),
    ],
)
def test_health_of_outcomes(outcomes, check, level):
    found = assess_outcomes(outcomes, Rulebook(RULES, sample_ratio=RATIO_OF_SIZES)).findings
    assert {finding.level for finding in found if finding.check == check} == {level}
    assert {f.level for f in found if f.check not in (check, "missing_outcomes")} <= {Level.OK}


def ratio_remedy(sizes, shares=None, **facts):
    found = assess_outcomes(make(sizes, **facts), Rulebook(RULES[:1], sample_ratio=shares or {})).findings
    finding = next(finding for finding in found if finding.check == "sample_ratio")
    assert finding.level is Level.FAIL
    return finding.remedy


def test_the_remedy_of_a_sample_ratio_names_the_observed_shares():
    for shares in ({}, {"baseline": 1, "B": 1}, {"baseline": 1, "X": 1}):
        assert "set `health: {sample_ratio: {baseline: 900, B: 1300}}`" in ratio_remedy((900, 1300), shares)
        assert "--outcomes-query" not in ratio_remedy((900, 1300), shares)


def test_the_remedy_of_a_stray_arm_leaves_it_out():
    remedy = ratio_remedy((900, 900, 2), arm_column="variant")
    assert "`--outcomes-query \"SELECT * FROM outcomes WHERE variant NOT IN ('C')\"`" in remedy
    asked = ratio_remedy((900, 900, 2), arm_column="test group", query="SELECT * FROM outcomes LIMIT 9;")
    assert """'SELECT * FROM (SELECT * FROM outcomes LIMIT 9) WHERE "test group" NOT IN""" in asked
    # The baseline is no stray arm, and one arm alone is no test.
    assert "--outcomes-query" not in ratio_remedy((2, 900, 900))
    assert "--outcomes-query" not in ratio_remedy((900, 2))


@pytest.mark.parametrize(
    ("state", "final", "incomplete"),
    [(RunState.COMPLETE, True, False), (RunState.RUNNING, False, False), (RunState.INCOMPLETE, True, True)],
)
def test_outcomes_that_are_final_do_not_end_a_load_that_is_not(state, final, incomplete):
    rulebook = Rulebook((*LOAD_RULES, SHARES))
    runs = (replace(RUN, source="locust", state=state),)
    cells = to_cells(simulate(SMALL, 1))
    outcomes = replace(make(), arms=("baseline", "canary"))
    both = assess_release(ReleaseData(runs, cells, outcomes), rulebook).evidence
    assert (both.final, both.incomplete) == (final, incomplete)
    assert {"spent", "bought"} & {row.rule.name for row in both.comparisons} == {"bought"}
    if not final or incomplete:
        assert judge_evidence(both, rulebook, "cart@2").word is not VerdictWord.GO

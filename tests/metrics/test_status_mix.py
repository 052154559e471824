"""Shares of redirects and client errors: what stops a GO, what has no row, and how often by chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from judging import RULEBOOK, SMALL, evidence, judge

from evaluator.errors import PolicyError
from evaluator.metrics.status_mix import ClientErrorRate, RedirectRate
from evaluator.policy import load_policy
from evaluator.records import Direction, Level, Limit, Margin, MetricStatus, Role, Rule, Rulebook, VerdictWord
from evaluator.simulate import simulate, to_cells

MARGIN = Margin(0.02, relative=False)
REDIRECTS = Rule("redirect_rate", RedirectRate(), Role.HOLD, MARGIN)
CLIENT_ERRORS = Rule("client_error_rate", ClientErrorRate(), Role.HOLD, MARGIN)
WITH_HOLDS = replace(RULEBOOK, rules=(*RULEBOOK.rules, REDIRECTS, CLIENT_ERRORS))
ONLY = Rulebook((REDIRECTS, CLIENT_ERRORS))
LONG = replace(SMALL, duration_s=900.0, rate_per_s=60.0, instances=(3,), endpoints=20, zipf=0.0)
"""Twenty endpoints with equal traffic, three instances an arm."""


def answer(requests, chosen, status):
    """The requests, of which the successes that are chosen have another status."""
    return replace(requests, status=np.where(chosen & ~requests.failed, status, requests.status))


def in_both(requests, share, status, seed=1):
    """The requests with a share of them, the same in both arms, at another status."""
    return answer(requests, np.random.default_rng(seed).random(len(requests)) < share, status)


def keep(requests, kept):
    """The requests where `kept` is true."""
    columns = ("run", "arm", "endpoint", "instance", "ts_us", "response_us", "failed", "response_bytes", "status")
    return replace(requests, **{name: getattr(requests, name)[kept] for name in (*columns, "exception")})


def of_canary(requests):
    return requests.arm == requests.arms.index("canary")


@pytest.fixture(scope="module")
def plain():
    """A healthy release whose requests all have status 200, or failed."""
    return simulate(LONG, 7)


@pytest.fixture(scope="module")
def mixed(plain):
    """The same with 10 % redirects and 3 % answers of 404 that are no failures, in both arms."""
    return in_both(in_both(plain, 0.1, 302, seed=1), 0.03, 404, seed=2)


def compare(requests, rulebook=ONLY):
    """Type of the metric → its comparison."""
    return {c.rule.type: c for c in evidence(to_cells(requests), rulebook).comparisons if not c.scan}


def test_the_same_mix_in_both_arms_is_go(mixed):
    judgement = judge(to_cells(mixed), WITH_HOLDS)
    assert judgement.word is VerdictWord.GO
    found = {c.rule.type: c.status for c in judgement.comparisons}
    assert found["redirect_rate"] is found["client_error_rate"] is MetricStatus.PASS


def test_the_share_is_that_of_successes_with_a_known_status(mixed):
    """By hand, without strata: endpoints and minutes have nearly equal weights here."""
    redirects = compare(mixed)["redirect_rate"]
    for arm, value in ((0, redirects.baseline), (1, redirects.candidate)):
        successes = (mixed.arm == arm) & ~mixed.failed
        assert value.n == successes.sum()
        assert value.value == pytest.approx((mixed.status[successes] == 302).mean(), abs=0.002)


SHIFTS = {
    "everybody is sent to the login page": (lambda r: answer(r, of_canary(r), 302), "redirects rose"),
    "one endpoint of 20 is not found": (
        lambda r: answer(r, of_canary(r) & (r.endpoint == 4), 404),
        "client errors rose",
    ),
    "redirects answer 200 with nothing": (
        lambda r: replace(r, status=np.where(of_canary(r) & (r.status == 302), 200, r.status)),
        "redirects fell",
    ),
}


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_of_the_mix_is_never_go_though_nothing_fails(mixed, name):
    change, says = SHIFTS[name]
    shifted = change(mixed)
    judgement = judge(to_cells(shifted), WITH_HOLDS)
    assert judgement.word is VerdictWord.INCONCLUSIVE
    assert judgement.reasons[0].code == "hold_breached"
    assert says in judgement.reasons[0].text
    # Without the holds it would be promoted: it is as fast as before, and no request fails.
    assert judge(to_cells(shifted), RULEBOOK).word is VerdictWord.GO


def test_the_direction_is_that_of_the_change(mixed):
    fewer = compare(SHIFTS["redirects answer 200 with nothing"][0](mixed))["redirect_rate"]
    more = compare(SHIFTS["everybody is sent to the login page"][0](mixed))["redirect_rate"]
    assert (fewer.rule.direction, more.rule.direction) == (Direction.HIGHER, Direction.LOWER)
    assert fewer.effect.upper < -MARGIN.value < 0 < MARGIN.value < more.effect.lower
    assert fewer.drift.last_third > 0 < more.drift.last_third  # both are beyond the margin, at the end of the run, too


def test_a_mix_that_drifts_alike_in_both_arms_is_no_shift(plain):
    """At night, fewer users are logged in: the share rises from 5 to 45 %, while the canary's traffic grows, too."""
    since_start = (plain.ts_us - plain.ts_us.min()) / np.ptp(plain.ts_us)
    random = np.random.default_rng(3).random((2, len(plain)))
    drifting = answer(plain, random[0] < 0.05 + 0.4 * since_start, 302)
    # The canary gets more of the traffic towards the end, so its plain mean share is higher.
    kept = ~of_canary(drifting) | (random[1] < 0.2 + 0.8 * since_start)
    drifting = keep(drifting, kept)
    shares = [(drifting.status[drifting.arm == arm] == 302).mean() for arm in (0, 1)]
    assert shares[1] - shares[0] > 2 * MARGIN.value
    redirects = compare(drifting)["redirect_rate"]
    assert abs(redirects.effect.estimate) < MARGIN.value
    margin = next(question for question in redirects.questions if question.kind == "margin")
    assert margin.p_worse > 0.5


def test_a_mix_of_endpoints_that_differs_between_the_arms_is_no_shift(plain):
    """The canary gets three times the requests of the endpoint that always redirects."""
    redirecting = answer(plain, plain.endpoint == 4, 302)
    kept = (redirecting.arm == 1) | (redirecting.endpoint != 4) | (np.arange(len(plain)) % 3 == 0)
    unlike = keep(redirecting, kept)
    redirects = compare(unlike)["redirect_rate"]
    assert redirects.effect.estimate == pytest.approx(0, abs=1e-9)


def test_without_such_statuses_there_is_no_row_and_the_verdict_is_the_same(plain):
    with_holds, without = judge(to_cells(plain), WITH_HOLDS), judge(to_cells(plain), RULEBOOK)
    assert with_holds == without
    # Files without statuses: nothing is known of any request.
    unknown = to_cells(replace(plain, status=np.full(len(plain), -1)))
    assert not unknown.moments.statuses.any()
    assert judge(unknown, WITH_HOLDS) == judge(unknown, RULEBOOK)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(replace(REDIRECTS, role=Role.GATE), id="gate"),
        pytest.param(replace(REDIRECTS, margin=None, limit=Limit(max=0.3)), id="limit"),
    ],
)
def test_what_the_policy_requires_has_no_data_without_statuses(plain, rule):
    unknown = replace(plain, status=np.full(len(plain), -1))
    rulebook = replace(RULEBOOK, rules=(*RULEBOOK.rules, rule))
    judgement = judge(to_cells(unknown), rulebook)
    assert judgement.word is VerdictWord.INCONCLUSIVE
    assert [reason.code for reason in judgement.reasons] == ["no_data"]
    assert "were not recorded" in judgement.reasons[0].text
    # With statuses of 200 only, the share is 0 on both arms, and that is within any margin.
    assert judge(to_cells(plain), rulebook).word is VerdictWord.GO


def test_a_limit_is_that_of_the_candidate_itself(mixed):
    rulebook = Rulebook((replace(REDIRECTS, role=Role.GATE, limit=Limit(max=0.05)),))
    judgement = judge(to_cells(mixed), rulebook)
    assert judgement.word is VerdictWord.NO_GO
    assert "at most 5 %" in judgement.reasons[0].text


def test_statuses_of_one_arm_only_are_no_data(mixed):
    """If the baseline redirects and the statuses of the canary are not known, a shift cannot be excluded."""
    half = replace(mixed, status=np.where(of_canary(mixed), -1, mixed.status))
    assert {c.no_data for c in compare(half).values()} == {"the HTTP statuses of canary were not recorded"}
    assert judge(to_cells(half), WITH_HOLDS).word is VerdictWord.INCONCLUSIVE


def test_a_rare_endpoint_that_is_not_found_fails_a_check_though_the_share_of_all_hardly_moves(mixed):
    """30 requests a minute of one endpoint among 3,600."""
    random = np.random.default_rng(5).random(len(mixed))
    rare = keep(mixed, (mixed.endpoint != 4) | (random < 0.15))
    missing = answer(rare, of_canary(rare) & (rare.endpoint == 4), 404)
    assert compare(missing)["client_error_rate"].effect.estimate < MARGIN.value
    judgement = judge(to_cells(missing), WITH_HOLDS)
    assert judgement.word is VerdictWord.INCONCLUSIVE
    failed = [f for f in evidence(to_cells(missing), WITH_HOLDS).findings if f.level is Level.FAIL]
    assert [f.check for f in failed] == ["status_mix"]
    assert f"{missing.endpoints[4]} " in failed[0].text
    assert "→ 100 %" in failed[0].text
    # The same endpoint without a shift, and the same shift without a hold of it, say nothing.
    for requests, rulebook in ((rare, WITH_HOLDS), (missing, RULEBOOK)):
        assert not [f for f in evidence(to_cells(requests), rulebook).findings if f.check == "status_mix"]


def test_one_user_who_repeats_a_missing_page_is_no_missing_route(mixed):
    """All answers of 404 of a rare endpoint come within four seconds: one burst, not eighty independent ones."""
    random = np.random.default_rng(5).random(len(mixed))
    rare = keep(mixed, (mixed.endpoint != 4) | (random < 0.15))
    repeated = np.flatnonzero(of_canary(rare) & (rare.endpoint == 4))[:80]
    status, ts_us = rare.status.copy(), rare.ts_us.copy()
    status[repeated] = 404
    spread_out = replace(rare, status=status)
    ts_us[repeated] = ts_us.min() + 400_000_000 + 50_000 * np.arange(80)
    in_one_burst = replace(spread_out, ts_us=ts_us)
    found = [
        [f for f in evidence(to_cells(requests), ONLY).findings if f.check == "status_mix"]
        for requests in (spread_out, in_one_burst)
    ]
    assert [len(findings) for findings in found] == [1, 0]


def test_the_built_in_policy_holds_both_shares_at_2_pp():
    rules = {rule.type: rule for rule in load_policy().rulebook.rules}
    for name in ("redirect_rate", "client_error_rate"):
        assert (rules[name].role, rules[name].margin) == (Role.HOLD, MARGIN)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        pytest.param("margin: 5%", "must be in percentage points (such as 1pp), not 5%", id="relative margin"),
        pytest.param("margin: 1pp, direction: lower_is_better", "harm whichever way it goes", id="direction"),
    ],
)
def test_a_policy_that_asks_for_one_direction_is_refused(tmp_path, line, says):
    path = tmp_path / "evaluator.yaml"
    path.write_text(
        f"metrics: [{{name: r, type: redirect_rate, {line}}}, {{name: f, type: failure_rate, margin: 1pp}}]\n"
    )
    with pytest.raises(PolicyError) as refused:
        load_policy(path)
    assert says in str(refused.value)


def test_a_margin_of_0_is_one_in_percentage_points(tmp_path):
    path = tmp_path / "evaluator.yaml"
    path.write_text(
        "metrics: [{name: r, type: redirect_rate, margin: 0}, {name: f, type: failure_rate, margin: 1pp}]\n"
    )
    assert load_policy(path).rulebook.rules[0].margin == Margin(0.0, relative=False)

"""An arm that says nothing is found, wherever its silence lies, and what is no silence is not taken for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from judging import assess_readings

from evaluator.assess.readings import pair_readings
from evaluator.health.reading_silence import check_targets
from evaluator.judges import judge_evidence
from evaluator.metrics.reading_counter import CounterRatio
from evaluator.records import (
    UP,
    Answer,
    InstancePrior,
    Level,
    Margin,
    Query,
    QueryKind,
    Rule,
    Rulebook,
    Run,
    RunState,
    Series,
    VerdictWord,
)
from evaluator.stats.shaping.reading_panels import RunInterval
from evaluator.stats.shaping.readings import sum_up

T0, STEP, SCRAPES = 1_767_571_200, 15, 240
HOUR = SCRAPES * STEP
REQUESTS = Query("http_requests_total{$selector}", QueryKind.COUNTER)
FAILURES = Query('http_requests_total{$selector,code=~"5.."}', QueryKind.COUNTER)
RATIO = Rule(
    "failures", CounterRatio(failures=FAILURES.text, requests=REQUESTS.text), margin=Margin(0.01, relative=False)
)
RULEBOOK = Rulebook((RATIO,))
ARMS = ("baseline", "canary")


def scraped(arm, pod, *, alive=(0.0, 1.0), holes=(), rate=(20.0,), endpoint="/a"):
    """Counters of one instance. `alive`, `holes`: shares of the hour; `rate`: requests a second in its equal parts."""
    rng = np.random.default_rng([len(arm), pod, len(endpoint)])
    at = np.arange(SCRAPES + 1)
    share = at / SCRAPES
    per_s = np.array(rate)[np.minimum((share * len(rate)).astype(int), len(rate) - 1)]
    total = np.cumsum(rng.poisson(per_s * STEP)) + 1000
    alive_then = (share >= alive[0]) & (share <= alive[1])
    for start, end in holes:
        alive_then &= (share < start) | (share > end)
    ts, name = ((T0 + at[alive_then] * STEP) * 1000).astype(np.int64), f"{arm}-{pod}"
    bad = np.cumsum(rng.poisson(per_s * STEP * 0.001)) + 10
    good = Series(
        {"version": arm, "code": "200"}, name, endpoint, "value", np.nan, ts, (total - bad)[alive_then].astype(float)
    )
    return good, Series(
        {"version": arm, "code": "500"}, name, endpoint, "value", np.nan, ts, bad[alive_then].astype(float)
    )


def readings(*pods, start=0.0, end=1.0, more=()):
    """`pods`: what `scraped` returned."""
    start, end = (datetime.fromtimestamp(T0 + share * HOUR, UTC) for share in (start, end))
    answers = []
    for arm in ARMS:
        pods_of_arm = [pod for pod in pods if pod[0].labels["version"] == arm]
        every = tuple(part for pod in pods_of_arm for part in pod if part.ts_ms.size)
        bad = tuple(pod[1] for pod in pods_of_arm if pod[1].ts_ms.size)
        answers.append(Answer(REQUESTS, arm, (REQUESTS.text,), start, end, STEP, every))
        answers.append(Answer(FAILURES, arm, (FAILURES.text,), start, end, STEP, bad))
    return sum_up((*answers, *more), ARMS, STEP)


def answered(arm, *shares):
    """Whether the targets of an arm answered: each from some share of the hour on."""
    at = np.arange(SCRAPES + 1)
    series = tuple(
        Series(
            {"version": arm},
            f"{arm}-{pod}",
            "",
            "value",
            np.nan,
            (T0 + at * STEP) * 1000,
            (at >= share * SCRAPES) * 1.0,
        )
        for pod, share in enumerate(shares)
    )
    start, end = (datetime.fromtimestamp(T0 + share * HOUR, UTC) for share in (0.0, 1.0))
    return Answer(UP, arm, (UP.text,), start, end, STEP, series)


def pods(arm, count=3, **shape):
    return [scraped(arm, pod, **shape) for pod in range(count)]


COLLECTED = Run("c1", "cart@2", "g1", "prometheus", state=RunState.COMPLETE)


def judge(cells, rulebook=RULEBOOK):
    evidence = assess_readings(cells, (COLLECTED,), rulebook)
    return judge_evidence(evidence, rulebook, "cart@2").word, {finding.check: finding for finding in evidence.findings}


def test_arms_with_readings_all_the_time_may_be_go():
    word, findings = judge(readings(*pods("baseline"), *pods("canary")))
    assert word is VerdictWord.GO
    assert findings["silence"].level is Level.OK


@pytest.mark.parametrize("share", [0.3, 0.55, 0.7, 0.9, 0.97])
@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_that_ends_early_is_never_a_pass(arm, share):
    second = ARMS[1 - ARMS.index(arm)]
    word, findings = judge(readings(*pods(arm, alive=(0.0, share)), *pods(second)))
    assert word is not VerdictWord.GO
    finding = findings["silence"]
    last = datetime.fromtimestamp(T0 + int(share * SCRAPES) * STEP, UTC)
    assert finding.level is Level.FAIL
    assert f"{arm} falls silent at {last:%Y-%m-%d %H:%M:%S} UTC" in finding.text
    assert f"--from 2026-01-05T00:00:00Z --to {last:%Y-%m-%dT%H:%M:%SZ}" in finding.remedy


def test_both_arms_that_end_early_are_no_pass_until_the_time_is_given():
    both = [*pods("baseline", alive=(0.0, 0.7)), *pods("canary", alive=(0.0, 0.7))]
    word, findings = judge(readings(*both))
    assert word is not VerdictWord.GO
    assert findings["silence"].level is Level.FAIL
    assert judge(readings(*both, end=0.7))[0] is VerdictWord.GO


def test_a_scrape_that_is_late_or_fails_at_the_end_is_no_silence():
    word, findings = judge(readings(*pods("baseline"), *pods("canary", alive=(0.0, 1 - 2 / SCRAPES))))
    assert (word, findings["silence"].level) == (VerdictWord.GO, Level.OK)


@pytest.mark.parametrize(
    ("holes", "level"),
    [
        ([(0.5, 0.505)], Level.OK),
        ([(0.5, 0.55)], Level.WARN),
        ([(0.4, 0.52), (0.6, 0.72)], Level.FAIL),
    ],
)
@pytest.mark.parametrize("arm", ARMS)
def test_holes_of_an_arm(arm, holes, level):
    second = ARMS[1 - ARMS.index(arm)]
    word, findings = judge(readings(*pods(arm, holes=holes), *pods(second)))
    assert findings["silence"].level is level
    assert (word is VerdictWord.GO) == (level is not Level.FAIL)


def test_the_policy_sets_how_much_silence_is_too_much():
    cells = readings(*pods("baseline"), *pods("canary", holes=[(0.5, 0.55)]))
    word, findings = judge(cells, replace(RULEBOOK, silence=0.03))
    assert (findings["silence"].level, word) == (Level.FAIL, VerdictWord.INCONCLUSIVE)


def test_a_canary_of_an_hour_is_judged_within_the_baselines_day():
    word, findings = judge(readings(*pods("baseline"), *pods("canary", alive=(0.5, 1.0))))
    assert word is VerdictWord.GO
    evidence = assess_readings(readings(*pods("baseline"), *pods("canary", alive=(0.5, 1.0))), (COLLECTED,), RULEBOOK)
    assert evidence.window.seconds == HOUR / 2
    assert findings["late_start"].level is Level.WARN
    assert "canary has its first reading at 2026-01-05 00:30:00 UTC" in findings["late_start"].text
    assert (
        "evaluator collect cart@2 --from 2026-01-05T00:30:00Z --to 2026-01-05T01:00:00Z"
        in findings["late_start"].remedy
    )


def test_readings_of_a_baseline_that_begins_late_are_missing():
    word, findings = judge(readings(*pods("baseline", alive=(0.5, 1.0)), *pods("canary")))
    assert (findings["silence"].level, word) == (Level.FAIL, VerdictWord.INCONCLUSIVE)


def test_an_instance_that_ends_is_turnover():
    dying = [*pods("canary", 2), scraped("canary", 2, alive=(0.0, 0.55))]
    cells = readings(*pods("baseline"), *dying)
    word, findings = judge(cells)
    assert (findings["turnover"].level, word) == (Level.FAIL, VerdictWord.INCONCLUSIVE)
    assert "1 of 3 instances of canary ended" in findings["turnover"].text
    assert "canary-2 at 2026-01-05 00:33:00 UTC" in findings["turnover"].text
    assert "silence" not in findings or findings["silence"].level is Level.OK
    expected = replace(RULEBOOK, prior=InstancePrior(turnover_expected=True))
    word, findings = judge(cells, expected)
    assert "turnover" not in findings
    assert "ended before the others" in findings["instances"].text
    assert word is VerdictWord.GO


@pytest.mark.parametrize(
    ("baseline", "canary", "level"),
    [
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), None),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.2), Level.WARN),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 2.0), Level.FAIL),  # one that never answered leaves no series
        ((0.0, 0.0, 0.0), (0.4, 0.4, 0.4), Level.FAIL),
        ((0.0, 0.0, 2.0), (0.0, 0.0, 2.0), Level.WARN),  # an exporter beside it that answers in neither arm
    ],
)
def test_targets_that_did_not_answer_are_silent(baseline, canary, level):
    """The server records this for each target, also before its first sample: that is no late start."""
    born = [scraped("canary", pod, alive=(share, 1.0)) for pod, share in enumerate(canary) if share < 1]
    up = (answered("baseline", *baseline), answered("canary", *canary))
    word, findings = judge(readings(*pods("baseline"), *born, more=up))
    assert (findings["targets"].level if "targets" in findings else None) is level
    assert word is (VerdictWord.INCONCLUSIVE if level is Level.FAIL else VerdictWord.GO)
    if level is Level.FAIL:
        assert "targets of canary did not answer" in findings["targets"].text


def test_targets_that_are_down_at_the_end_are_no_pass():
    """A gauge that is an expression may be repeated for minutes after the last scrape; `up` is not."""
    up = answered("canary", 0.0, 0.0, 0.0)
    dying = tuple(replace(part, values=part.values * (np.arange(SCRAPES + 1) < SCRAPES - 6)) for part in up.series)
    targets = (answered("baseline", 0.0, 0.0, 0.0), replace(up, series=dying))
    word, findings = judge(readings(*pods("baseline"), *pods("canary"), more=targets))
    assert word is VerdictWord.INCONCLUSIVE
    assert "at the end no target answers (since 2026-01-05 00:58:30 UTC)" in findings["targets"].text
    one_down = replace(up, series=(*up.series[:2], dying[2]))
    assert judge(readings(*pods("baseline"), *pods("canary"), more=(targets[0], one_down)))[0] is VerdictWord.GO


def test_targets_that_are_down_between_replicates_and_never_seen_again_are_no_pass():
    """They fail no judged scrape, and the metrics server forgets them before the second replicate."""
    up = answered("canary", 0.0, 0.0, 0.0)
    at = np.arange(SCRAPES + 1) / SCRAPES
    seen, is_up = at < 0.5, at < 0.42
    gone = tuple(replace(part, ts_ms=part.ts_ms[seen], values=is_up[seen] * 1.0) for part in up.series)
    targets = (answered("baseline", 0.0, 0.0, 0.0), replace(up, series=gone))
    pairs = pair_readings(readings(*pods("baseline"), *pods("canary"), more=targets), (COLLECTED,), RULEBOOK, "cart@2")
    replicates = ((0.0, 0.4), (0.6, 1.0))
    intervals = tuple(RunInterval(f"r{first}", T0 + first * HOUR, T0 + last * HOUR) for first, last in replicates)
    (finding,) = check_targets(replace(pairs, intervals=intervals))
    assert finding.level is Level.FAIL
    assert finding.text == (
        "at the end no target of canary answers (since 2026-01-05 00:25:15 UTC): canary-0, canary-1, canary-2"
    )


def test_failed_scrapes_are_compared_with_the_baseline_or_with_the_worst_candidate():
    arms = {"baseline": 0.1, "canary": 0.04, "dark": 0.2}
    up = [answered(arm, share) for arm, share in arms.items()]
    pairs = pair_readings(readings(*pods("baseline"), *pods("canary")), (COLLECTED,), RULEBOOK, "cart@2")
    targets = sum_up(up, tuple(arms), STEP)
    texts = [finding.text.split(":")[0] for finding in check_targets(replace(pairs, targets=targets))]
    assert texts == [
        "targets of baseline did not answer 9.62 % of their scrapes (19.7 % of dark's, the worst candidate)",
        "targets of canary did not answer 3.77 % of their scrapes (9.62 % of baseline's)",
        "targets of dark did not answer 19.7 % of their scrapes (9.62 % of baseline's)",
    ]


def test_instances_that_come_and_go_in_both_arms_are_named_only():
    churn = [(0.0, 1.0), (0.0, 1.0), (0.0, 0.5), (0.5, 1.0)]
    both = [scraped(arm, pod, alive=alive) for arm in ARMS for pod, alive in enumerate(churn)]
    word, findings = judge(readings(*both))
    assert "turnover" not in findings
    assert findings["instances"].level is Level.WARN
    assert word is VerdictWord.GO


@pytest.mark.parametrize(
    ("rate", "level"),
    [
        ((20.0,) * 7 + (0.0,) * 3, Level.FAIL),
        ((20.0,) * 7 + (0.05,) * 3, Level.FAIL),  # a check of its health now and then
        ((20.0,) * 4 + (0.0,) * 3 + (20.0,) * 3, Level.FAIL),
        ((20.0,) * 40 + (0.0,) * 2 + (20.0,) * 8, Level.WARN),
        ((20.0,) * 7 + (10.0,) * 3, None),
        ((0.002,) * 7 + (0.0,) * 3, None),  # so rare that nothing can be said
    ],
)
@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_that_is_scraped_and_serves_no_requests(arm, rate, level):
    second = ARMS[1 - ARMS.index(arm)]
    word, findings = judge(readings(*pods(arm, rate=rate), *pods(second)))
    assert (findings["traffic"].level if "traffic" in findings else None) is level
    if level is Level.FAIL:
        assert word is not VerdictWord.GO
        assert f"{arm} answers scrapes and serves no requests" in findings["traffic"].text
        assert f"what {second} counted" in findings["traffic"].text


@pytest.mark.parametrize("served", [1, 3, 7], ids=lambda parts: f"of_8_{parts}")
def test_an_instance_that_is_scraped_and_no_longer_serves_requests_is_turnover(served):
    hung = scraped("canary", 0, rate=(20.0,) * served + (0.0,) * (8 - served))
    others = [scraped("canary", pod) for pod in (1, 2)]
    word, findings = judge(readings(*pods("baseline"), hung, *others))
    assert (findings["turnover"].level, word) == (Level.FAIL, VerdictWord.INCONCLUSIVE)
    assert f"canary-0 at 2026-01-05 00:{60 * served // 8:02d}:" in findings["turnover"].text
    assert "scraped since then without serving requests" in findings["turnover"].text
    both = [scraped("baseline", 0, rate=(20.0,) * served + (0.0,) * (8 - served)), *pods("baseline")[1:]]
    assert "turnover" not in judge(readings(*both, hung, *others))[1]


def test_instances_that_pause_now_and_then_do_not_count_as_hung():
    """A few long connections are on one instance, then on another; the last pause is one of many."""
    some = [scraped("canary", pod, rate=tuple(20.0 * (part % 3 == pod) for part in range(17))) for pod in range(3)]
    _, findings = judge(readings(*pods("baseline"), *some))
    assert "turnover" not in findings


def test_a_service_without_requests_at_night_is_not_silent():
    """Both arms pause at the same time."""
    night = (20.0,) * 5 + (0.0,) * 5
    findings = judge(readings(*pods("baseline", rate=night), *pods("canary", rate=night)))[1]
    assert "traffic" not in findings


def test_bursts_are_no_silence():
    """Jobs come once in ten minutes, to each arm at its own times."""
    first, second = ((0.0,) * 9 + (200.0,)) * 6, ((0.0,) * 4 + (200.0,) + (0.0,) * 5) * 6
    findings = judge(readings(*pods("baseline", rate=first), *pods("canary", rate=second)))[1]
    assert "traffic" not in findings


def test_a_candidate_with_only_health_checks_at_first_does_not_make_the_baseline_silent():
    """Its ten probes a minute do not show how many requests were expected on the baseline."""
    findings = judge(readings(*pods("baseline"), *pods("canary", rate=(0.05, 20.0, 20.0))))[1]
    assert "traffic" not in findings


def test_a_share_that_grows_is_no_silence():
    ramp = tuple(np.geomspace(0.2, 20.0, 60))
    assert "traffic" not in judge(readings(*pods("baseline"), *pods("canary", rate=ramp)))[1]


def test_an_endpoint_that_only_the_baseline_still_answers():
    stops = (5.0,) * 7 + (0.0,) * 3
    both = [*pods("baseline"), *pods("canary"), *pods("baseline", endpoint="/pay", rate=(5.0,))]
    word, findings = judge(readings(*both, *pods("canary", endpoint="/pay", rate=stops)))
    assert findings["endpoint_silent"].level is Level.FAIL
    assert "/pay of canary answers scrapes and serves no requests" in findings["endpoint_silent"].text
    assert word is not VerdictWord.GO
    assert "endpoint_silent" not in judge(readings(*both, *pods("canary", endpoint="/pay", rate=(5.0,))))[1]


def test_rarely_called_endpoints_are_no_silence():
    """A few requests a minute, and none in some: the first minutes hardly show how many to expect."""
    names = [f"/rare{'x' * number}" for number in range(30)]
    rare = [scraped(arm, 0, endpoint=name, rate=(0.03,)) for arm in ARMS for name in names]
    assert "endpoint_silent" not in judge(readings(*pods("baseline"), *pods("canary"), *rare))[1]


@pytest.mark.parametrize(("rate", "found"), [(5.0, True), (0.001, False)])
def test_an_endpoint_that_the_candidate_never_answered(rate, found):
    both = [*pods("baseline"), *pods("canary"), *pods("baseline", endpoint="/pay", rate=(rate,))]
    word, findings = judge(readings(*both))
    assert ("endpoint_silent" in findings) == found
    assert (word is VerdictWord.GO) != found
    if found:
        assert "canary never answered /pay" in findings["endpoint_silent"].text

"""Readings of arms that ran one after the other: never compared as if they had run together."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np

from evaluator.assess import assess_pairs
from evaluator.assess.readings import count_samples, pair_readings
from evaluator.assess.requests import pair_requests
from evaluator.judges import judge_evidence
from evaluator.metrics.reading_counter import CounterRatio
from evaluator.metrics.reading_histogram import HistogramMean, HistogramQuantile
from evaluator.records import (
    WINDOWS,
    Level,
    Margin,
    Rule,
    Rulebook,
    VerdictWord,
)
from evaluator.simulate import SCENARIOS, scrape, simulate, to_cells
from evaluator.simulate.readings import DURATION, FAILURES, REQUESTS
from evaluator.stats.shaping.readings import sum_up

DESIGN = replace(SCENARIOS["AA"], duration_s=300.0, rate_per_s=60.0)
SLOWER = replace(DESIGN, changes=(replace(SCENARIOS["mean+20%"].changes[0], latency=0.6),))
RULEBOOK = Rulebook(
    (
        Rule(
            "failures",
            CounterRatio(failures=FAILURES.text, requests=REQUESTS.text),
            margin=Margin(0.03, relative=False),
        ),
        Rule("mean", HistogramMean(query=DURATION.text), margin=Margin(0.4)),
    )
)
BUCKET_S = 15
APART_S = 600


def collect_apart(designs, order, *, keep_s=None, seed=0):
    """Cells of windows of 300 s, ten minutes apart, in which one arm runs at a time.

    `designs`: a design for each pair of windows. `order`: arms in the order of time, `b` or `c`. `keep_s`: arm → only
    readings of the first seconds of its last window.
    """
    answers, windows, used = [], {"baseline": [], "canary": []}, {"b": 0, "c": 0}
    for place, letter in enumerate(order):
        arm, number = ("baseline" if letter == "b" else "canary"), used[letter]
        used[letter] += 1
        for answer in scrape(simulate(designs[number], seed + number), seed=seed + 10 * place):
            if answer.arm != arm:
                continue
            shift = timedelta(seconds=APART_S * place)
            is_last = used[letter] == order.count(letter)
            until_ms = (
                answer.start.timestamp() * 1000 + 1000 * (keep_s or {}).get(arm, 1e9) if is_last else float("inf")
            )
            series = []
            for one in answer.series:
                kept = one.ts_ms <= until_ms
                if kept.any():
                    ts_ms = one.ts_ms[kept] + APART_S * 1000 * place
                    # The same server: an instance of both arms.
                    labels = {key: value for key, value in one.labels.items() if key not in ("version", "arm")}
                    name = one.instance.replace("canary", "server").replace("baseline", "server")
                    labels["instance"] = name
                    series.append(replace(one, ts_ms=ts_ms, values=one.values[kept], instance=name, labels=labels))
            answers.append(replace(answer, start=answer.start + shift, end=answer.end + shift, series=tuple(series)))
            span = [round(moment.timestamp() * 1000) for moment in (answer.start + shift, answer.end + shift)]
            if span not in windows[arm]:
                windows[arm].append(span)
    cells = sum_up(answers, ("baseline", "canary"), BUCKET_S)
    return replace(cells, sources={WINDOWS: windows})


def judge(readings, rulebook=RULEBOOK):
    evidence = assess_pairs(pair_readings(readings, (), rulebook, "cart@2"))
    return evidence, judge_evidence(evidence, rulebook, "cart@2")


def find(evidence, check):
    return [(finding.level, finding.text) for finding in evidence.findings if finding.check == check]


def test_one_pair_of_windows_is_never_go_and_names_what_is_missing():
    evidence, judgement = judge(collect_apart([DESIGN], "bc"))
    assert judgement.word is VerdictWord.INCONCLUSIVE
    [(level, text)] = find(evidence, "overlap")
    assert level is Level.FAIL
    assert "ran at different times, in 1 of the 3 pairs of windows that are needed" in text
    # The same server served both versions: it is neither a proxy, nor a sign of wrong selectors.
    assert not find(evidence, "shared_instances")
    assert not find(evidence, "selectors")


def test_three_pairs_in_turns_are_replicates_and_may_be_go():
    readings = collect_apart([DESIGN] * 3, "bccbbc")
    evidence, judgement = judge(readings)
    assert judgement.word is VerdictWord.GO
    assert {comparison.instances for comparison in judgement.comparisons} == {(3, 3)}
    assert [comparison.method for comparison in judgement.comparisons] == [
        "score test, replicates",
        "paired mean, replicates",
    ]
    assert (evidence.monitoring, evidence.final) == ("fixed", True)
    [(level, text)] = find(evidence, "overlap")
    assert level is Level.WARN
    assert text.endswith("3 pairs of windows show how much time itself matters")
    assert [finding.check for finding in evidence.findings if finding.level is Level.FAIL] == []
    for fact in readings.facts:
        account = count_samples(readings, fact, evidence.window)
        assert account["read"] == sum(account.values()) - account["read"]
        assert account["judged"] > 0.8 * account["read"]


def test_a_slower_candidate_in_three_pairs_is_no_go():
    assert judge(collect_apart([SLOWER] * 3, "bcbcbc"))[1].word is VerdictWord.NO_GO


def test_a_candidate_that_always_came_later_is_named():
    [(level, text)] = find(judge(collect_apart([DESIGN] * 3, "bcbcbc"))[0], "overlap")
    assert (level, "canary always came later" in text) == (Level.WARN, True)


def test_windows_that_are_not_in_turns_forbid_a_go():
    """All of the baseline before all of the candidate: their number shows nothing about what changed in between."""
    evidence, judgement = judge(collect_apart([DESIGN] * 3, "bbbccc"))
    assert judgement.word is VerdictWord.INCONCLUSIVE
    assert "are not in turns" in find(evidence, "overlap")[0][1]


def test_a_window_that_falls_silent_forbids_a_go():
    evidence, judgement = judge(collect_apart([DESIGN] * 3, "bccbbc", keep_s={"canary": 200}))
    assert judgement.word is VerdictWord.INCONCLUSIVE
    assert any(level is Level.FAIL and "canary falls silent" in text for level, text in find(evidence, "silence"))


def test_a_window_without_any_reading_forbids_a_go():
    evidence, judgement = judge(collect_apart([DESIGN] * 3, "bccbbc", keep_s={"canary": -1}))
    assert judgement.word is VerdictWord.INCONCLUSIVE
    assert (Level.FAIL, "no readings of canary or of baseline in 1 of 3 pairs of windows") in find(evidence, "overlap")


def test_requests_that_stop_within_a_window_forbid_a_go():
    """The candidate answers scrapes until the end of its last window, but its counters stand still."""
    readings = collect_apart([DESIGN] * 3, "bccbbc")
    last_start_ms = readings.windows["canary"][-1][0]
    idle = (readings.arm == 1) & (readings.bucket * BUCKET_S * 1000 > last_start_ms + 150_000)
    evidence, judgement = judge(replace(readings, total=np.where(idle, 0.0, readings.total)))
    assert judgement.word is not VerdictWord.GO
    assert any("canary answers scrapes and serves no requests" in text for _, text in find(evidence, "traffic"))


def test_quantiles_of_windows_use_replicates_too():
    rules = Rulebook((Rule("p95", HistogramQuantile(query=DURATION.text, quantile=0.95), margin=Margin(1.5)),))
    comparison = judge(collect_apart([DESIGN] * 3, "bccbbc"), rules)[1].comparisons[0]
    assert comparison.instances == (3, 3)


def test_readings_of_windows_are_not_judged_together_with_a_load():
    requests = simulate(DESIGN, 1)
    load = pair_requests(to_cells(requests), (), RULEBOOK)
    evidence = pair_readings(collect_apart([DESIGN], "bc"), (), RULEBOOK, "cart@2", load)
    assert [finding.check for finding in evidence.findings] == ["reading_overlap"]
    assert all(comparison.no_data for comparison in evidence.comparisons)

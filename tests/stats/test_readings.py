"""Answers of a metrics server become increases, once each and never more than was seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from answers_of import ARMS, COUNTER, GAUGE, HISTOGRAM, NAN, STEP, T0, answer, series
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluator.records import PARTS, Query, QueryKind
from evaluator.stats.shaping.readings import choose_reading_bucket_s, sum_up


def totals(cells, part="value"):
    rows = cells.part == PARTS.index(part)
    return dict(zip((cells.bucket[rows] * cells.bucket_s - T0).tolist(), cells.total[rows].tolist(), strict=True))


def assert_same(cells, expected):
    for name in ("query", "arm", "instance", "endpoint", "bucket", "part", "n"):
        np.testing.assert_array_equal(getattr(cells, name), getattr(expected, name), err_msg=name)
    for name in ("le", "seconds", "total", "peak"):
        np.testing.assert_allclose(getattr(cells, name), getattr(expected, name), rtol=1e-12, err_msg=name)


def test_an_increase_belongs_to_the_bucket_in_which_it_was_seen():
    cells = sum_up([answer(series([100, 103, 103, 110]))], ARMS, 10)
    assert totals(cells) == {10: 3.0, 20: 0.0, 30: 7.0}
    assert cells.n.tolist() == [1, 1, 1]
    assert cells.seconds.tolist() == [10.0] * 3
    assert np.isnan(cells.peak).all()


def test_a_drop_is_a_restart_and_the_new_value_is_the_increase():
    cells = sum_up([answer(series([100, 105, 3, 4]))], ARMS, 10)
    assert totals(cells) == {10: 5.0, 20: 3.0, 30: 1.0}
    assert cells.facts[0].resets == 1


def test_a_missing_scrape_is_bridged_and_named():
    cells = sum_up([answer(series([0, 5, None, None, 20]))], ARMS, 10)
    assert totals(cells) == {10: 5.0, 40: 15.0}
    assert cells.seconds.tolist() == [10.0, 30.0]
    assert (cells.facts[0].expected, cells.facts[0].missing) == (5, 2)


def test_counters_need_not_be_whole():
    assert totals(sum_up([answer(series([0.25, 0.75, 0.875]))], ARMS, 10)) == {10: 0.5, 20: 0.125}


def test_the_first_value_of_a_fresh_instance_does_not_count():
    """It may have run for hours before the first scrape."""
    fresh = series([7000, 7004], "b", first=20)
    cells = sum_up([answer(series([0, 1, 2, 3]), fresh)], ARMS, 10)
    b = cells.instance == cells.instances.index("b")
    assert cells.total[b].tolist() == [4.0]
    assert cells.facts[0].lives["b"] == ((T0 + 20) * 1000, (T0 + 30) * 1000)


def test_a_counter_that_appears_on_an_instance_already_scraped_began_at_zero():
    """As `code="500"` does at the first failure, also if it is the only series of its query."""
    failures = Query('requests_total{$selector,code="500"}', QueryKind.COUNTER)
    both = [answer(series([10, 20, 30, 40])), answer(series([2, 3], first=20), query=failures, start=0)]
    cells = sum_up(both, ARMS, 10)
    assert cells.total[cells.query == cells.queries.index(failures)].tolist() == [2.0, 1.0]


@pytest.mark.parametrize(("first", "counts"), [(20, True), (25, True), (26, False), (50, False)])
def test_a_counter_that_appears_after_scrapes_were_missed_may_be_older(first, counts):
    """The instance answered 10 s after the start; no scrape is missing up to one and a half steps later."""
    late = series([5, 7], first=first, code="500")
    cells = sum_up([answer(series([10, 20]), late)], ARMS, 1)
    expected = {10: 10.0, first: 5.0, first + STEP: 2.0}
    assert totals(cells) == {second: grown for second, grown in expected.items() if second != first or counts}


def test_a_counter_that_was_there_when_the_window_began_counts_from_there():
    cells = sum_up([answer(series([10, 20]), series([500, 501], code="500"))], ARMS, 10)
    assert totals(cells) == {10: 11.0}


def test_time_counts_once_for_all_series_of_an_instance():
    cells = sum_up([answer(series([0, 1, 2], code="200"), series([0, 1], first=10, code="500"))], ARMS, 10)
    assert totals(cells) == {10: 1.0, 20: 2.0}
    assert cells.seconds.tolist() == [10.0, 10.0]


def test_all_counters_of_a_histogram_restart_together():
    """A bucket that passed its old value before it was seen again would otherwise lose what came before."""
    counters = [
        series([100, 110, 30, 31], part="count", le=NAN),
        series([5, 6, 20, 20], part="bucket", le=0.1),
        series([50.0, 55.0, 60.0, 61.0], part="sum"),
    ]
    cells = sum_up([answer(*counters, query=HISTOGRAM)], ARMS, 10)
    assert totals(cells, "count") == {10: 10.0, 20: 30.0, 30: 1.0}
    assert totals(cells, "bucket") == {10: 1.0, 20: 20.0, 30: 0.0}
    assert totals(cells, "sum") == {10: 5.0, 20: 60.0, 30: 1.0}
    assert cells.facts[0].resets == 1


def test_a_sum_of_negative_observations_falls_without_a_restart():
    counters = [series([1, 2, 3], part="count"), series([4.0, 3.0, 5.0], part="sum")]
    cells = sum_up([answer(*counters, query=HISTOGRAM)], ARMS, 10)
    assert totals(cells, "sum") == {10: -1.0, 20: 2.0}


def test_a_gauge_counts_after_the_start_of_its_interval():
    cells = sum_up([answer(series([9, 1, 5]), query=GAUGE)], ARMS, 100)
    assert (cells.n.tolist(), cells.total.tolist(), cells.peak.tolist()) == ([2], [6.0], [5.0])
    assert cells.seconds.tolist() == [0.0]


def test_what_the_source_left_out_is_kept_as_fact():
    twice = series([0, 1, 2])
    cells = sum_up([answer(twice, twice, nan=3, duplicates=2, warnings=("partial",))], ARMS, 10)
    fact = cells.facts[0]
    assert (fact.nan, fact.duplicates, fact.warnings, fact.series) == (3, 3, ("partial",), 1)
    assert totals(cells) == {10: 1.0, 20: 1.0}


def test_when_instances_and_their_arm_were_seen_is_kept():
    """A scrape that one instance missed is no gap of the arm; a scrape that all missed is."""
    both = series([0, 1, None, None, 4, 5]), series([0, 1, 2], "b")
    fact = sum_up([answer(*both, start=-20, end=90)], ARMS, 10).facts[0]
    assert fact.lives == {"a": (T0 * 1000, (T0 + 50) * 1000), "b": (T0 * 1000, (T0 + 20) * 1000)}
    assert fact.spans == ((T0 * 1000, (T0 + 20) * 1000), ((T0 + 40) * 1000, (T0 + 50) * 1000))
    assert (fact.start_ms, fact.end_ms, fact.step_ms) == ((T0 - 20) * 1000, (T0 + 90) * 1000, 10_000)


def test_a_drop_by_less_than_half_is_no_restart_and_its_step_is_left_out():
    """Another server of a pair answers, which had scraped a little earlier."""
    cells = sum_up([answer(series([40_000, 40_300, 39_900, 40_200]))], ARMS, 10)
    assert totals(cells) == {10: 300.0, 30: 300.0}
    fact = cells.facts[0]
    assert (fact.resets, fact.falls) == (0, 1)
    assert cells.seconds.tolist() == [10.0, 10.0]


def test_the_highest_counter_that_drops_distinguishes_a_restart_from_another_server():
    """A counter of few failures may lose everything or almost nothing; the counter of requests shows what happened."""
    failures = Query('requests_total{$selector,code="500"}', QueryKind.COUNTER)
    cases = {
        (40_000, 39_700, 1, 0): ({10: 0.0}, 0, 1),  # the other server had not seen the failure yet
        (1_000, 300, 9, 8): ({10: 8.0}, 1, 0),  # started again, and failed eight times since
    }
    for (before, after, some, fewer), (expected, resets, falls) in cases.items():
        both = [answer(series([before, after])), answer(series([some, fewer]), query=failures)]
        cells = sum_up(both, ARMS, 10)
        rows = cells.query == cells.queries.index(failures)
        growth = dict(zip((cells.bucket[rows] * 10 - T0).tolist(), cells.total[rows].tolist(), strict=True))
        assert (growth or {10: 0.0}) == expected
        fact = next(fact for fact in cells.facts if fact.query == failures)
        assert (fact.resets, fact.falls) == (resets, falls)


def test_a_histogram_that_drops_a_little_leaves_out_the_step_of_all_its_counters():
    counters = [
        series([1000, 1010, 1005, 1015], part="count"),
        series([500, 505, 506, 511], part="bucket", le=0.1),
        series([50.0, 51.0, 50.5, 51.5], part="sum"),
    ]
    cells = sum_up([answer(*counters, query=HISTOGRAM)], ARMS, 10)
    assert totals(cells, "count") == {10: 10.0, 30: 10.0}
    assert totals(cells, "bucket") == {10: 5.0, 30: 5.0}
    assert totals(cells, "sum") == {10: 1.0, 30: 1.0}


def test_series_that_both_selectors_find_are_counted():
    own = series([0, 1], "b", version="2")
    answers = [answer(series([0, 1], version="1"), own), answer(own, arm="canary")]
    assert [fact.shared for fact in sum_up(answers, ARMS, 10).facts] == [0, 1]
    proxied = [answer(series([0, 1], service="old")), answer(series([0, 1], service="new"), arm="canary")]
    assert [fact.shared for fact in sum_up(proxied, ARMS, 10).facts] == [0, 0]


def test_an_expression_drops_labels_so_only_the_same_values_are_the_same_series():
    rate = Query("sum by (instance) (rate(x{$selector}[1m]))", QueryKind.GAUGE)
    for values, shared in (([1.0, 2.0, 4.0], 1), ([1.0, 2.0, 3.0], 0)):
        both = [answer(series([1.0, 2.0, 4.0]), query=rate), answer(series(values), query=rate, arm="canary")]
        assert sum_up(both, ARMS, 10).facts[1].shared == shared


samples = st.lists(st.none() | st.integers(0, 40), min_size=1, max_size=12)


@settings(deadline=None)
@given(
    st.sampled_from([COUNTER, GAUGE, HISTOGRAM]),
    st.lists(st.tuples(samples, samples), min_size=1, max_size=3),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_samples_read_are_samples_used_and_samples_named(query, polls, nan, infinite):
    """Whichever samples are dropped, repeated, missing or of another poll."""
    part = "count" if query is HISTOGRAM else "value"
    answers = []
    for number, (one, other) in enumerate(polls):
        polled = [series(one, "a", part), series(other, "b", part), series(one, "a", part)]
        answered = [one for one in polled if one.ts_ms.size]
        start = number * 70  # polls overlap: the same moment is told twice
        moved = [replace(one, ts_ms=one.ts_ms + start * 1000) for one in answered]
        answers.append(answer(*moved, query=query, start=start, end=start + 110, nan=nan, infinite=infinite))
    came = sum(one.ts_ms.size for one in (part for part in answers for part in part.series))
    for fact in sum_up(answers, ARMS, 10).facts:
        named = fact.nan + fact.infinite + fact.repeated + fact.outside + fact.falls
        assert fact.read == came + len(polls) * (nan + infinite)
        assert fact.read == sum(count for _, count in fact.used) + named


def test_nothing_is_counted_across_a_hole_between_answers():
    cells = sum_up([answer(series([0, 1])), answer(series([900, 901], first=600), start=600)], ARMS, 10)
    assert totals(cells) == {10: 1.0, 610: 1.0}


def test_an_answer_of_an_unknown_arm_is_refused():
    with pytest.raises(ValueError, match="index"):
        sum_up([answer(series([0, 1]), arm="other")], ARMS, 10)


def test_no_answers_are_no_cells():
    assert sum_up([], ARMS, 10).n.size == 0
    assert sum_up([answer(start=0, end=60)], ARMS, 10).facts[0].series == 0


steps = st.lists(st.integers(0, 50), min_size=4, max_size=30)


@settings(max_examples=40, deadline=None)
@given(a=steps, b=steps, restart=st.integers(1, 20), where=st.integers(1, 28), kind=st.sampled_from([COUNTER, GAUGE]))
def test_two_halves_that_share_a_sample_add_up_to_the_whole(a, b, restart, where, kind):
    """However counters restart, and whether the halves are stitched or their cells added."""
    size = min(len(a), len(b))
    where = min(where, size - 2)
    values = [np.cumsum(one[:size]).tolist() for one in (a, b)]
    values[1] = values[1][:restart] + np.cumsum(b[:size])[: max(size - restart, 0)].tolist()
    arms = list(zip(ARMS, values, strict=True))

    def part(first, last):
        return [
            answer(
                series(own[first : last + 1], first=first * STEP),
                query=kind,
                arm=arm,
                start=first * STEP,
                end=last * STEP,
            )
            for arm, own in arms
        ]

    together = sum_up(part(0, size - 1), ARMS, 20)
    halves = part(0, where), part(where, size - 1)
    assert_same(together, sum_up([*halves[0], *halves[1]], ARMS, 20))
    assert sum(fact.resets for fact in together.facts) == sum(
        fact.resets for half in halves for fact in sum_up(half, ARMS, 20).facts
    )


@pytest.mark.parametrize(
    ("seconds", "step_s", "bucket_s"),
    [
        (60, 1, 1),
        (60, 15, 15),
        (600, 2, 6),
        (3600, 1, 15),
        (3600, 7, 21),
        (3600, 15, 15),
        (3600, 30, 30),
        (86400, 15, 60),
        (None, 0.5, 15),
    ],
)
def test_the_bucket_fits_the_step(seconds, step_s, bucket_s):
    assert choose_reading_bucket_s(seconds, step_s) == bucket_s

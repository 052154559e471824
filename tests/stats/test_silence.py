"""Times without requests: which ones chance, clusters and pacing explain, and which are silence."""

import numpy as np
import pytest

from evaluator.stats.shaping.silence import find_absent, find_silence, measure_clusters

BUCKETS = 60
TOO_MUCH = 0.2


def poisson(random, rate):
    return random.poisson(rate, BUCKETS).astype(float)


def clusters(random, size, per_bucket):
    """Sessions of requests that come together, at random times."""
    counts = np.zeros(BUCKETS)
    np.add.at(counts, random.integers(BUCKETS, size=random.poisson(per_bucket * BUCKETS)), random.poisson(size))
    return counts


def paced(random, users, pace):
    """Users that all send a request each `pace` buckets, nearly at the same time."""
    counts = np.zeros(BUCKETS)
    for begin in random.uniform(0, pace) + random.normal(0, 0.2, users):
        times = np.arange(begin, BUCKETS, pace) + random.normal(0, 0.02)
        np.add.at(counts, times[(times >= 0) & (times < BUCKETS)].astype(int), 1)
    return counts


def silent_share(own, reference, **options):
    silences = find_silence(own[None], reference[None], **options)
    return silences[0].buckets / own.size if silences else 0.0


def count_silent(make, *, dies=1.0, releases=150):
    """In how many releases an arm is silent for too long; `dies`: it is, from this share of the run on."""
    silent = 0
    for seed in range(releases):
        random = np.random.default_rng(seed)
        own, reference = make(random), make(random)
        own[int(BUCKETS * dies) :] = 0
        silent += silent_share(own, reference) > TOO_MUCH
    return silent


ALIKE = {
    "rare": lambda random: poisson(random, 0.1),
    "sparse": lambda random: poisson(random, 1.0),
    "dense": lambda random: poisson(random, 50.0),
    "rare sessions": lambda random: clusters(random, 30, 0.05),
    "sessions": lambda random: clusters(random, 30, 0.3),
    "few users with a pace": lambda random: paced(random, 5, 6),
    "many users with a pace": lambda random: paced(random, 500, 6),
    "a slow pace": lambda random: paced(random, 50, 20),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_equal_arms_are_rarely_silent(kind):
    """At most 2 % of releases; 8 of 150 would be seen in fewer than 1 of 1,000 tries."""
    assert count_silent(ALIKE[kind]) <= 7


@pytest.mark.parametrize("kind", ["dense", "many users with a pace"])
def test_an_arm_that_dies_is_silent(kind):
    assert count_silent(ALIKE[kind], dies=0.7) == 150


def test_silence_of_a_rare_arm_is_detected_if_it_is_not_chance():
    assert count_silent(lambda random: poisson(random, 4.0), dies=0.75) >= 149
    assert count_silent(lambda random: poisson(random, 0.2), dies=0.75) == 0


def test_the_gap_has_its_position_and_expected_requests():
    own, reference = np.full(BUCKETS, 5.0), np.full(BUCKETS, 10.0)
    own[20:30] = 0
    own[50:] = 0
    (silence,) = find_silence(own[None], reference[None])
    assert [(gap.start, gap.end, gap.at_end) for gap in silence.gaps] == [(20, 30, False), (50, 60, True)]
    assert silence.end == silence.gaps[1]
    assert silence.buckets == 20
    # 200 requests, 500 of the reference outside of each gap, and 100 inside.
    assert silence.gaps[0].expected == pytest.approx(200 / 500 * 100)


def test_the_start_of_the_run_is_an_edge_as_well():
    own = np.full(BUCKETS, 5.0)
    own[:15] = 0
    (silence,) = find_silence(own[None], np.full((1, BUCKETS), 5.0))
    assert (silence.gaps[0].start, silence.gaps[0].end, silence.end) == (0, 15, None)


def test_a_time_in_which_the_reference_is_silent_too_is_no_evidence():
    both = np.full(BUCKETS, 20.0)
    both[30:50] = 0
    assert find_silence(both[None], both[None]) == []
    (alone,) = find_silence(both[None], np.full((1, BUCKETS), 1e9), paced_alike=False)
    assert alone.gaps[0].buckets == 20


def test_an_arm_that_comes_and_goes_does_not_excuse_its_own_gaps():
    """Off for half of the time while the baseline continues: the gaps are usual for this arm only."""
    own = np.where(np.arange(BUCKETS) % 16 < 8, 20.0, 0.0)
    assert silent_share(own, np.full(BUCKETS, 20.0)) > 0.4


def test_series_are_separate():
    own = np.full((3, BUCKETS), 5.0)
    own[1, 30:] = 0
    own[2] = 0
    silences = find_silence(own, np.full((3, BUCKETS), 5.0))
    assert [silence.series for silence in silences] == [1]  # one that never had a request has no silence, it is absent


def test_more_series_than_are_taken_at_a_time():
    own = np.full((4_500, 20), 3.0)
    own[[7, 2_001, 4_499], 10:] = 0
    silences = find_silence(own, np.full((4_500, 20), 3.0))
    assert [silence.series for silence in silences] == [7, 2_001, 4_499]


def test_absent_series():
    reference = np.vstack([np.full(BUCKETS, 0.3), np.eye(1, BUCKETS)[0] * 40, np.full(BUCKETS, 1 / BUCKETS)])
    # 18 requests one by one; 40 in one burst, with little information; and a single one.
    assert find_absent(reference, share=1.0).tolist() == [True, False, False]
    # Where the candidate gets one request in a hundred, a few on baseline are none on the candidate.
    assert find_absent(np.full((1, BUCKETS), 5.0), share=0.01).tolist() == [False]


@pytest.mark.parametrize(("size", "least", "most"), [(1, 1.0, 1.6), (10, 6.0, 16.0), (50, 30.0, 80.0)])
def test_how_many_come_together(size, least, most):
    sizes = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        counts = np.zeros(2_000)
        np.add.at(counts, random.integers(2_000, size=600), size)
        sizes.append(measure_clusters(counts[None])[0][0])
    assert least < np.median(sizes) < most


def test_a_trend_is_no_cluster():
    random = np.random.default_rng(1)
    counts = random.poisson(np.linspace(5, 300, 400)).astype(float)
    size, pace = measure_clusters(counts[None])
    assert size[0] < 1.5
    assert pace[0] == 0


def test_a_pace_is_measured():
    size, pace = measure_clusters(paced(np.random.default_rng(3), 200, 6)[None])
    assert pace[0] == 6
    assert size[0] < 2

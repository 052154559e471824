"""Faults of simulated releases are found where they are, and nothing is named where nothing is shown.

`benchmarks/faults.py` measures how often; here are a few releases of each kind.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from judging import RULEBOOK, RUN
from scipy.stats import binom

from evaluator.assess import ReleaseData
from evaluator.assess.requests import RequestPairs, pair_requests
from evaluator.faults import find_fault, find_faults
from evaluator.faults.bursts import find_bursts
from evaluator.faults.clock import FaultClock
from evaluator.faults.course import FailureSeries, find_failure_onset
from evaluator.faults.failing import find_surprise
from evaluator.faults.grid import build_grid
from evaluator.faults.naming import name_units
from evaluator.faults.onset import Onset, find_onset
from evaluator.faults.scanning import Scope
from evaluator.faults.slowing import model_times
from evaluator.pipeline.assessing import judge_data
from evaluator.records import Fault, Finding, Level, VerdictWord
from evaluator.simulate import Bursts, Change, Requests, Scenario, simulate, to_cells
from evaluator.simulate.faults import SimulatedFault, add_fault
from evaluator.stats.shaping.narrow import narrow

STILL = Bursts(0.0, 30.0, 0.0, 0.0)
SHORT = Scenario(duration_s=600.0, rate_per_s=40.0, shared_failures=STILL, instance_failures=STILL)
"""Ten minutes with buckets of 5 s: slots of 20 s."""
ENDPOINT, INSTANCE, ONSET_S = "GET /endpoint/001", "canary-3", 240.0


def draw(fault: SimulatedFault | None, scenario: Scenario = SHORT, seed: int = 1) -> Requests:
    requests = simulate(scenario, seed)
    return requests if fault is None else add_fault(requests, fault, seed)


def pair(requests: Requests) -> RequestPairs:
    runs = tuple(replace(RUN, id=name) for name in requests.runs)
    return pair_requests(to_cells(requests), runs, RULEBOOK)


def find(fault: SimulatedFault, scenario: Scenario = SHORT, *, given: bool = False) -> Fault | None:
    """The fault that is found in the metric and arm of the one that was put in."""
    return find_fault(pair(draw(fault, scenario)), fault.arm, fault.what, given=given)


def judge(requests: Requests) -> tuple[VerdictWord, tuple[Fault, ...] | None]:
    runs = tuple(replace(RUN, id=name) for name in requests.runs)
    judged = judge_data(ReleaseData(runs, to_cells(requests)), RULEBOOK, "cart@2")
    return judged.judgement.word, find_faults(judged.requests, judged.evidence, judged.judgement.word)


@pytest.mark.parametrize(("what", "size"), [("failures", 0.1), ("response_time", 2.0)])
def test_one_endpoint_on_one_instance_since_an_onset_is_named(what, size):
    found = find(SimulatedFault(what, size, ONSET_S, {ENDPOINT}, {INSTANCE}))
    assert (found.endpoints.scope, found.endpoints.names) == ("some", (ENDPOINT,))
    assert (found.instances.scope, found.instances.names) == ("some", (INSTANCE,))
    assert found.onset.kind == "step"
    assert found.onset.elapsed_s == pytest.approx(ONSET_S, abs=60)
    assert found.onset.since.timestamp() % 60 == pytest.approx(found.onset.elapsed_s % 60)
    assert found.endpoints.others_fine
    assert found.instances.others_fine


def test_numbers_are_those_of_the_place_since_the_onset():
    fault = SimulatedFault("failures", 0.5, ONSET_S, {ENDPOINT}, {INSTANCE})
    requests = draw(fault)
    found = find_fault(pair(requests), "canary", "failures")
    of_place = (requests.endpoint == requests.endpoints.index(ENDPOINT)) & (
        requests.instance == requests.instances.index(INSTANCE)
    )
    later = of_place & (requests.ts_us >= requests.ts_us.min() + found.onset.elapsed_s * 1e6)
    assert found.requests == pytest.approx(later.sum(), rel=0.02)
    assert found.candidate == pytest.approx(0.5, abs=0.08)
    assert found.baseline < 0.01
    assert [(kind.status, kind.exception) for kind in found.kinds] == [(503, "HTTP 503")]
    slower = find(SimulatedFault("response_time", 2.0, ONSET_S, {ENDPOINT}, {INSTANCE}))
    assert slower.candidate == pytest.approx(2.0, rel=0.15)


def test_the_kind_is_that_of_the_named_instance_and_not_what_is_usual_there():
    requests = draw(SimulatedFault("failures", 0.3, ONSET_S, {ENDPOINT}, {INSTANCE}))
    # All instances of the candidate refuse some users there, and the baseline's, too; other instances lose connections.
    refused = SimulatedFault("failures", 0.1, 0.0, {ENDPOINT}, status=403)
    for fault in (
        refused,
        replace(refused, arm="baseline", size=0.05),
        replace(refused, instances={"canary-1"}, status=502),
    ):
        requests = add_fault(requests, fault, seed=2)
    found = find_fault(pair(requests), "canary", "failures")
    assert (found.endpoints.names, found.instances.names) == ((ENDPOINT,), (INSTANCE,))
    of_place = (requests.endpoint == requests.endpoints.index(ENDPOINT)) & (
        requests.instance == requests.instances.index(INSTANCE)
    )
    assert [(kind.status, kind.n) for kind in found.kinds] == [(503, int((of_place & (requests.status == 503)).sum()))]


@pytest.mark.parametrize(("what", "size"), [("failures", 0.1), ("response_time", 1.6)])
@pytest.mark.parametrize(
    ("endpoints", "instances"),
    [(None, {INSTANCE}), ({ENDPOINT}, None), (None, None), ({ENDPOINT, "GET /endpoint/003"}, None)],
)
def test_all_and_several_are_told_apart(what, size, endpoints, instances):
    found = find(SimulatedFault(what, size, ONSET_S, endpoints, instances))
    for place, names in ((found.endpoints, endpoints), (found.instances, instances)):
        assert place.scope == ("all" if names is None else "some")
        assert set(place.names) == (names or set())


@pytest.mark.parametrize(("what", "size"), [("failures", 0.05), ("response_time", 1.5)])
def test_a_fault_from_the_start_has_no_minute(what, size):
    assert find(SimulatedFault(what, size, 0.0, None, None), given=True).onset.kind == "start"


def test_a_rise_from_the_start_lasts_also_if_it_seems_to_begin_a_few_slots_later():
    """What is before it is slow, too, so that it is no rise against that."""
    grid = build_grid(pair(draw(SimulatedFault("response_time", 2.0, 0.0, {ENDPOINT}, {INSTANCE}))).panels["canary"])
    model = model_times(grid, RULEBOOK.prior.sd_latency)
    place = np.array(grid.endpoints) == ENDPOINT, np.array(grid.instances) == INSTANCE
    assert [model.find_dispersion(Scope(*place, slot)) for slot in range(6)] == [1.0] * 6


def test_a_leak_is_a_growth_and_no_step():
    found = find(SimulatedFault("response_time", 2.0, grows=True), given=True)
    assert (found.onset.kind, found.onset.elapsed_s) == ("growth", None)
    assert (found.endpoints.scope, found.instances.scope) == ("all", "all")


def test_only_the_bad_one_of_several_candidates_has_a_fault():
    scenario = replace(SHORT, changes=(Change(), Change()))
    requests = draw(SimulatedFault("failures", 0.2, ONSET_S, {ENDPOINT}, None, arm="canary_b"), scenario)
    assert [(arm, find_fault(pair(requests), arm, "failures") is not None) for arm in ("canary", "canary_b")] == [
        ("canary", False),
        ("canary_b", True),
    ]


def test_a_single_instance_is_all_there_is():
    scenario = replace(SHORT, instances=(1,))
    found = find(SimulatedFault("response_time", 2.0, ONSET_S, {ENDPOINT}), scenario)
    assert (found.endpoints.names, found.instances.scope) == ((ENDPOINT,), "all")
    assert found.instances.names == ("canary-1",)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("instances", [2, 4])
def test_unequal_instances_without_a_fault_name_nothing(seed, instances):
    requests = draw(None, replace(SHORT, instance_sd=0.2, instances=(instances,)), seed)
    for what in ("failures", "response_time"):
        found = find_fault(pair(requests), "canary", what)
        assert found is None or {found.endpoints.scope, found.instances.scope} <= {"all", "not_known"}


def test_runs_are_laid_upon_each_other():
    scenario = replace(SHORT, replicates=2)
    found = find(SimulatedFault("response_time", 2.0, ONSET_S, {ENDPOINT}, None), scenario)
    assert (found.onset.kind, found.onset.since) == ("step", None)
    assert found.onset.elapsed_s == pytest.approx(ONSET_S, abs=60)


def test_a_fault_of_one_run_only_has_no_common_onset():
    scenario = replace(SHORT, replicates=2)
    sound = simulate(scenario, 1)
    for what, size in (("failures", 0.3), ("response_time", 2.0)):
        broken = add_fault(sound, SimulatedFault(what, size, ONSET_S, {ENDPOINT}), 1)
        second = sound.run == 1
        mixed = replace(
            broken,
            failed=np.where(second, broken.failed, sound.failed),
            response_us=np.where(second, broken.response_us, sound.response_us),
        )
        found = find_fault(pair(mixed), "canary", what)
        assert (found.endpoints.names, found.onset.kind) == ((ENDPOINT,), "not_known")


def test_the_minute_is_counted_from_the_start_of_the_run_also_after_a_warm_up():
    requests = draw(SimulatedFault("failures", 0.3, ONSET_S, {ENDPOINT}, {INSTANCE}))
    runs = tuple(replace(RUN, id=name) for name in requests.runs)
    found = find_fault(
        pair_requests(to_cells(requests), runs, replace(RULEBOOK, warm_up_s=100.0)), "canary", "failures"
    )
    assert found.onset.elapsed_s == pytest.approx(ONSET_S, abs=60)
    start_s = requests.ts_us.min() / 1e6
    assert found.onset.since.timestamp() == pytest.approx(start_s + found.onset.elapsed_s, abs=10)


def test_a_single_request_that_hangs_is_no_fault():
    requests = draw(None, replace(SHORT, endpoints=100))
    rare = np.flatnonzero((requests.arm == 1) & (requests.endpoint == 90))
    last = rare[np.argsort(requests.ts_us[rare])[-3:]]
    times = requests.response_us.copy()
    times[last] *= 1000
    found = find_fault(pair(replace(requests, response_us=times)), "canary", "response_time")
    assert found is None or found.endpoints.scope != "some"


def test_a_burst_is_no_persistent_fault():
    requests = draw(None)
    since_s = (requests.ts_us - requests.ts_us.min()) / 1e6
    hit = (requests.arm == 1) & (since_s > 500) & (since_s < 515)
    burst = replace(requests, failed=requests.failed | hit, status=np.where(hit, 503, requests.status))
    found = find_fault(pair(burst), "canary", "failures")
    assert found is None or found.onset.kind != "step"


def test_bursts_of_an_instance_do_not_hide_the_fault_of_another():
    requests = draw(SimulatedFault("failures", 0.05, ONSET_S, {ENDPOINT}, {INSTANCE}))
    at_s = since_start(requests)
    hit = of_instance(requests, "canary-1") & (((at_s > 300) & (at_s < 312)) | ((at_s > 420) & (at_s < 432)))
    assert hit.sum() > 2 * (requests.failed & of_instance(requests)).sum()
    bursts = replace(requests, failed=requests.failed | hit, status=np.where(hit, 502, requests.status))
    found = find_fault(pair(bursts), "canary", "failures")
    assert (found.endpoints.names, found.instances.names) == ((ENDPOINT,), (INSTANCE,))
    assert found.onset.elapsed_s == pytest.approx(ONSET_S, abs=60)


def test_a_burst_is_over_and_no_rise_that_lasts_is_one():
    n, failures = np.full((1, 2, 40), 100.0), np.zeros((1, 2, 40))
    failures[0, 0, 10:12] = 30.0  # over after two slots
    failures[0, 1, 25:] = 30.0
    failures[0, :, 38:] = 50.0  # not over
    assert np.argwhere(find_bursts(n, failures)).tolist() == [[0, 0, 10], [0, 0, 11]]


def since_start(requests: Requests) -> np.ndarray:
    """Seconds from the start of the run to each request."""
    return (requests.ts_us - requests.ts_us.min()) / 1e6


def of_instance(requests: Requests, name: str = INSTANCE) -> np.ndarray:
    return requests.instance == requests.instances.index(name)


@pytest.mark.parametrize(("begin_s", "end_s", "named"), [(200, 300, False), (575, 600, False), (200, 600, True)])
def test_failures_that_have_ended_or_are_new_are_no_fault_that_lasts(begin_s, end_s, named):
    requests = draw(None)
    at_s = since_start(requests)
    hit = of_instance(requests) & (at_s > begin_s) & (at_s < end_s) & (np.arange(len(requests)) % 10 == 0)
    burst = replace(requests, failed=requests.failed | hit, status=np.where(hit, 503, requests.status))
    found = find_fault(pair(burst), "canary", "failures")
    assert (found is not None and found.instances.names == (INSTANCE,)) is named


@pytest.mark.parametrize(
    ("slower", "named"),
    [
        (lambda at_s: np.where((at_s > 300) & (at_s < 320), 20.0, 1.0), False),  # a pause: the mean rises by a fifth
        (lambda at_s: np.where(at_s > 300, 1 + 2 * np.exp(-(at_s - 300) / 60), 1.0), False),  # caches that fill
        (lambda at_s: np.where(at_s > 300, 1.3, 1.0), True),
    ],
)
def test_a_pause_or_a_cold_start_is_no_slowing_that_lasts(slower, named):
    requests = draw(None)
    factor = np.where(of_instance(requests), slower(since_start(requests)), 1.0)
    slowed = replace(requests, response_us=(requests.response_us * factor).astype(np.int64))
    found = find_fault(pair(slowed), "canary", "response_time")
    assert (found is not None and found.instances.names == (INSTANCE,)) is named


def test_bad_requests_of_one_client_name_no_second_endpoint():
    requests = draw(SimulatedFault("failures", 0.1, ONSET_S, {ENDPOINT}, {INSTANCE}))
    at_s = since_start(requests)
    other = of_instance(requests) & (requests.endpoint == requests.endpoints.index("GET /endpoint/004"))
    hit = other & (at_s > 400)
    hit[np.flatnonzero(hit)[np.argsort(at_s[hit])][6:]] = False  # the first six after one another
    bad = replace(requests, failed=requests.failed | hit, status=np.where(hit, 400, requests.status))
    found = find_fault(pair(bad), "canary", "failures")
    assert (found.endpoints.names, found.instances.names) == ((ENDPOINT,), (INSTANCE,))


def test_a_few_failures_at_one_of_many_places_are_found():
    scenario = Scenario(endpoints=100, rate_per_s=60.0, shared_failures=STILL, instance_failures=STILL)
    requests = simulate(scenario, 3)
    place = of_instance(requests) & (requests.endpoint == requests.endpoints.index("GET /endpoint/020"))
    rows = np.flatnonzero(place & (since_start(requests) > 1200))
    rows = rows[np.argsort(requests.ts_us[rows])]
    failed = requests.failed.copy()
    failed[rows] = False
    failed[rows[:: rows.size // 8][:8]] = True  # eight, evenly
    found = find_fault(pair(replace(requests, failed=failed)), "canary", "failures")
    assert (found.endpoints.names, found.instances.names) == (("GET /endpoint/020",), (INSTANCE,))


def test_the_surprise_is_the_exact_probability():
    count, expected, control = (
        np.array([3.0, 10.0, 1.0, 400.0]),
        np.array([0.5, 2.0, 2.0, 1.0]),
        np.array([4.0, 9, 9, 9]),
    )
    surprise = find_surprise(count, expected, control)
    share = expected / (expected + control)
    exact = -binom.logsf(count - 1, count + control, share)
    assert surprise[:2] == pytest.approx(exact[:2])
    assert surprise[2] == 0.0
    assert surprise[3] > 600  # a chance that is no number any more


# ------------------------------------------------------------------ with a verdict


def test_a_go_and_a_release_without_requests_have_no_faults():
    requests = draw(None, replace(SHORT, rate_per_s=150.0))
    assert judge(requests) == (VerdictWord.GO, None)
    judged = judge_data(ReleaseData((RUN,), to_cells(requests)), RULEBOOK, "cart@2")
    assert find_faults(None, judged.evidence, VerdictWord.NO_GO) is None


def test_a_comparison_that_means_nothing_names_nothing():
    requests = draw(SimulatedFault("failures", 0.2, ONSET_S))
    judged = judge_data(ReleaseData((RUN,), to_cells(requests)), RULEBOOK, "cart@2")
    void = replace(judged.evidence, findings=(Finding("coverage", Level.FAIL, "", void=True),))
    assert find_faults(judged.requests, void, VerdictWord.INCONCLUSIVE) is None


def test_a_worse_tail_alone_is_known_by_the_verdict_only():
    requests = simulate(replace(SHORT, rate_per_s=150.0, changes=(Change(tail=3.0),)), 1)
    word, faults = judge(requests)
    assert word is not VerdictWord.GO
    assert all(fault.what == "response_time" and fault.endpoints.scope == "not_known" for fault in faults)


def test_quantiles_that_became_failures_are_no_second_fault():
    word, faults = judge(draw(SimulatedFault("failures", 0.1)))
    assert (word, [fault.what for fault in faults]) == (VerdictWord.NO_GO, ["failures"])


def test_kinds_of_a_part_of_the_time_are_not_known():
    requests = draw(SimulatedFault("failures", 0.3, ONSET_S, {ENDPOINT}))
    cells = to_cells(requests)
    pairs = pair_requests(replace(cells, failure_kinds=narrow(cells).failure_kinds), (RUN,), RULEBOOK)
    assert find_fault(pairs, "canary", "failures").kinds
    from datetime import UTC, datetime

    start = datetime.fromtimestamp(requests.ts_us.min() / 1e6, UTC)
    part = pair_requests(narrow(cells, start=start), (RUN,), RULEBOOK)
    assert find_fault(part, "canary", "failures").kinds == ()


# ------------------------------------------------------------------ parts


def test_a_grid_has_all_requests_of_the_panel():
    panel = pair(draw(None)).panels["canary"]
    grid = build_grid(panel)
    assert grid.n.sum() == panel.n[1].sum()
    assert grid.baseline_failures.sum() == panel.failures[0].sum()
    assert (grid.slot_s, grid.n.shape) == (20, (5, 4, 30))


def test_too_many_cells_make_no_grid(monkeypatch):
    monkeypatch.setattr("evaluator.faults.grid.MOST_CELLS", 50)
    assert build_grid(pair(draw(None)).panels["canary"]) is None
    word, faults = judge(draw(SimulatedFault("failures", 0.2)))
    assert word is VerdictWord.NO_GO
    assert [(fault.what, fault.endpoints.scope) for fault in faults][:1] == [("failures", "not_known")]


@pytest.mark.parametrize(
    ("gains", "growth", "kind"),
    [
        ([0, 0, 0, 30, 0, 0, 0, 0], 5.0, "step"),
        ([30, 0, 0, 0, 0, 0, 0, 0], 5.0, "start"),
        ([0, 0, 0, 30, 0, 0, 0, 0], 40.0, "growth"),
        ([0, 0, 0, 30, 0, 0, 0, 0], 27.5, "not_known"),
        ([1, 1, 1, 1, 1, 1, 1, 1], 0.0, "not_known"),
    ],
)
def test_an_onset_is_named_only_as_far_as_it_is_shown(gains, growth, kind):
    assert find_onset(np.array(gains, float), growth, 300.0, 0.5).kind == kind


def make_course(failing_s: dict[int, int], minutes: int) -> FailureSeries:
    """The course of a place with ten requests in each of its buckets of 15 s, and failures in some (by second)."""
    failures = np.zeros(minutes * 4)
    for at_s, count in failing_s.items():
        failures[at_s // 15] += count
    return FailureSeries(np.full(failures.size, 10.0), failures, np.full(failures.size, 0.02), 15)


def test_a_burst_long_before_does_not_move_the_onset():
    since_ten_minutes = dict.fromkeys(range(600, 1200, 30), 1)
    onset = find_failure_onset(make_course({135: 4} | since_ten_minutes, 20))
    assert onset.kind == "step"
    assert onset.elapsed_s == pytest.approx(600, abs=45)


@pytest.mark.parametrize(("every_s", "is_near", "range_s"), [(15, True, 120), (120, False, 1500)])
def test_an_onset_is_known_as_well_as_failures_are_frequent(every_s, is_near, range_s):
    """It is before the first failure, by about the time between two."""
    onset = find_failure_onset(make_course(dict.fromkeys(range(1800, 3600, every_s), 1), 60))
    assert (onset.kind, onset.is_near) == ("step", is_near)
    assert onset.earliest_s < 1800 < onset.latest_s
    assert range_s / 3 < onset.latest_s - onset.earliest_s < range_s


def test_an_onset_that_is_not_known_to_a_minute_is_a_range_alone():
    clock = FaultClock(pair(draw(None)), "canary")
    onset = clock.date(Onset("step", 240.0, 120.0, 420.0, is_near=False))
    assert (onset.kind, onset.elapsed_s, onset.since) == ("step", None, None)
    assert (onset.earliest_s, onset.latest_s) == (120.0, 420.0)
    assert (onset.latest - onset.earliest).total_seconds() == 300.0
    assert clock.date(Onset("step", 240.0, 120.0, 420.0)).elapsed_s == 240.0


class Effects:
    """Units with known effects and standard errors."""

    def __init__(self, effects, error: float) -> None:
        self.effects, self.error = np.array(effects, float), error
        self.roots = self.effects / error

    def find_dispersion(self, units) -> float:
        return 1.0

    def contrast(self, members) -> float:
        difference = self.effects[members].mean() / 2 - abs(self.effects[~members].mean())
        return difference / (self.error * np.sqrt(0.25 / members.sum() + 1 / (~members).sum()))


@pytest.mark.parametrize(
    ("effects", "error", "scope", "members"),
    [
        ([1, 0, 0, 0], 0.1, "some", [0]),
        ([1, 0.9, 0, 0], 0.1, "some", [0, 1]),
        ([1, 0.9, 1.1, 1], 0.1, "all", [0, 1, 2, 3]),
        ([1, 0.7, 0.6, 0.8], 0.3, "all", [0, 1, 2, 3]),
        ([1, 0.4, 0.4, -0.2], 0.3, "not_known", [0, 1, 2, 3]),
        ([1, 0.45], 0.25, "not_known", [0, 1]),  # 1.8 standard errors of a single other one are no fault of both
        ([0.1, 0, -0.1, 0], 0.3, "not_known", [0, 1, 2, 3]),
        ([1], 0.3, "all", [0]),
        ([1] * 12 + [0] * 12, 0.05, "not_known", range(24)),
    ],
)
def test_units_are_named_only_as_far_as_they_are_shown(effects, error, scope, members):
    named = name_units(Effects(effects, error))
    assert named.scope == scope
    assert np.flatnonzero(named.members).tolist() == list(members)

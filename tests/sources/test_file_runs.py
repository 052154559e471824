"""How several files of an arm form runs, found from their times."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluator.errors import InputError
from evaluator.records import FileLayout, FilePlan, FileTimes, LandingPlan
from evaluator.sources.files import arrange_files

START = datetime(2026, 5, 28, 10, tzinfo=UTC)
LAYOUT = FileLayout("csv", "csv", ())


def times(arm, *spans, since=START, pause_s=0.0, layout=LAYOUT):
    """Files of one arm from second to second, named by arm and number."""
    return [
        FileTimes(
            FilePlan(f"{arm}{k}.csv", arm, k, layout),
            since + timedelta(seconds=first),
            since + timedelta(seconds=last),
            pause_s,
        )
        for k, (first, last) in enumerate(spans)
    ]


def arrange(*arms, files_are=None):
    files = [file for arm in arms for file in arm]
    return arrange_files(LandingPlan(tuple(file.file for file in files), files_are=files_are), files)


def names(arranged):
    """The files of each run, without their ending."""
    return [sorted(file.path.removesuffix(".csv") for file in files) for files in arranged.runs]


def repeat(count, seconds=75, gap=10, start=0):
    return [(start + k * (seconds + gap), start + k * (seconds + gap) + seconds) for k in range(count)]


WORKERS = [(0, 60), (1, 61), (0.5, 59)]


def test_files_that_overlap_are_parts_of_one_run():
    arranged = arrange(times("baseline", *WORKERS), times("canary", *WORKERS))
    assert names(arranged) == [["baseline0", "baseline1", "baseline2", "canary0", "canary1", "canary2"]]
    assert (arranged.why, arranged.doubts) == ("their times overlap or touch", ())


def test_files_with_restarts_between_them_are_replicates():
    arranged = arrange(times("baseline", *repeat(5)), times("canary", *repeat(5, start=2)))
    assert names(arranged) == [[f"baseline{k}", f"canary{k}"] for k in range(5)]
    assert (arranged.why, arranged.doubts) == ("their times lie apart", ())


def test_workers_of_repeated_runs_are_parts_of_replicates():
    spans = [(first + shift, last + shift) for first, last in repeat(2) for shift in (0, 1, -1)]
    arranged = arrange(times("baseline", *spans), times("canary", *reversed(spans)))
    assert names(arranged) == [
        ["baseline0", "baseline1", "baseline2", "canary3", "canary4", "canary5"],
        ["baseline3", "baseline4", "baseline5", "canary0", "canary1", "canary2"],
    ]
    assert arranged.doubts == ()


def test_times_from_the_start_of_a_test_make_replicates_in_the_order_given():
    begin = datetime(1970, 1, 1, tzinfo=UTC)
    spans = [(0, 60)] * 3
    arranged = arrange(times("baseline", *spans, since=begin), times("canary", *spans, since=begin))
    assert names(arranged) == [[f"baseline{k}", f"canary{k}"] for k in range(3)]
    assert arranged.why == "their times count from the start of a test"
    assert not arranged.overlapping
    parts = arrange(times("baseline", *spans, since=begin), times("canary", *spans, since=begin), files_are="parts")
    assert len(parts.runs) == 1
    assert "count their times from the start of a test" in parts.doubts[0]


@pytest.mark.parametrize(
    "spans",
    [
        pytest.param([(3600 * k, 3600 * k + 3599.9) for k in range(24)], id="hourly"),
        pytest.param([(0, 59), (60, 119)], id="whole-seconds"),
        pytest.param([(0, 60.4), (60, 120)], id="in-flight"),
        pytest.param([(0, 0.4), (0.7, 1.1), (1.3, 1.5)], id="sub-second-gaps"),
        pytest.param([(0, 3600), *((k, k + 3) for k in range(0, 3590, 20))], id="one-giant-many-small"),
        pytest.param([(0, 3600), (3500, 3650)], id="longer-than-the-giant"),
        pytest.param([(k / 10, 60 + k / 10) for k in range(200)], id="two-hundred"),
        pytest.param([(0, 60), (30, 30)], id="one-request"),
        pytest.param([(0, 60), (60, 120), (0, 61), (61, 121)], id="rotated-workers"),
    ],
)
def test_files_that_continue_without_a_break_are_parts_in_any_order(spans):
    assert len(arrange(times("canary", *spans)).runs) == 1
    assert len(arrange(times("canary", *reversed(spans))).runs) == 1


@pytest.mark.parametrize(
    ("files", "says"),
    [
        pytest.param(times("canary", (0, 60), (63, 120)), r"canary1\.csv begins 3 s after canary0\.csv ends", id="3s"),
        pytest.param(times("canary", (0, 60), (58, 120)), r"begins 2 s before canary0\.csv ends", id="little"),
        pytest.param(times("canary", (0, 60), (58.9, 120)), r"begins 1\.1 s before canary0\.csv ends", id="second"),
        pytest.param(
            times("canary", *repeat(3), pause_s=8.0), "10 s after .*, and pauses of 8 s are within them", id="pauses"
        ),
        pytest.param(
            times("canary", (0, 60), (60, 120), (140, 200)), "some files of canary continue where others", id="rotated"
        ),
        pytest.param(
            [*times("baseline", *WORKERS), *times("canary", *repeat(3))],
            "the files of baseline overlap or touch, and those of canary do not",
            id="other-arm",
        ),
        pytest.param(
            [*times("baseline", (0, 300)), *times("canary", *repeat(3))],
            "one run of baseline lasts as long as 3 of canary",
            id="one-and-three",
        ),
    ],
)
def test_unclear_files_are_refused_until_an_answer_is_given(files, says):
    with pytest.raises(InputError, match=says) as caught:
        arrange(files)
    assert caught.value.exit_code == 2
    assert "canary1.csv 2026-05-28T10:0" in caught.value.message
    assert "--files-are parts" in caught.value.hint
    assert "--files-are replicates" in caught.value.hint
    assert len(arrange(files, files_are="parts").runs) == 1
    most = max(sum(span.file.arm == arm for span in files) for arm in ("baseline", "canary"))
    assert len(arrange(files, files_are="replicates").runs) == most


def test_many_files_are_not_all_listed():
    with pytest.raises(InputError, match="and 194 more") as caught:
        arrange(times("canary", *repeat(200, gap=3)))
    assert len(caught.value.message) < 1000


def test_replicates_that_overlap_are_taken_as_declared_and_reported():
    arms = times("baseline", *WORKERS), times("canary", *WORKERS)
    arranged = arrange(*arms, files_are="replicates")
    assert names(arranged) == [[f"baseline{k}", f"canary{k}"] for k in range(3)]
    assert (arranged.declared, arranged.overlapping) == ("replicates", True)
    assert "far too certain" in arranged.doubts[0]
    assert not arrange(*arms, files_are="parts").overlapping
    assert not arrange(times("canary", *repeat(3)), files_are="replicates").overlapping


def test_repeated_runs_that_are_declared_parts_are_pointed_out():
    arranged = arrange(times("baseline", (0, 200)), times("canary", (0, 75), (100, 175)), files_are="parts")
    assert arranged.doubts == (
        "the files of canary lie apart in time, like repeated runs, but are taken as parts of one run",
    )


def test_runs_are_matched_by_time_in_any_order():
    later, earlier = times("baseline", (85, 160), (0, 75)), times("canary", (0, 75), (85, 160))
    assert names(arrange(later, earlier)) == [["baseline1", "canary0"], ["baseline0", "canary1"]]
    declared = arrange(later, earlier, files_are="replicates")
    assert names(declared) == [["baseline1", "canary0"], ["baseline0", "canary1"]]
    in_turn = arrange(times("baseline", (0, 75), (200, 275)), times("canary", (300, 375), (100, 175)))
    assert names(in_turn) == [["baseline0", "canary1"], ["baseline1", "canary0"]]


def test_runs_without_a_counterpart_are_named_and_the_others_matched_by_time():
    arranged = arrange(times("baseline", *repeat(3)), times("canary", *repeat(2, start=85)))
    assert names(arranged) == [["baseline0"], ["baseline1", "canary0"], ["baseline2", "canary1"]]
    assert "different numbers of runs (baseline 3, canary 2)" in arranged.doubts[0]
    shifted = arrange(times("baseline", *repeat(3)), times("canary", *repeat(3, start=85)))
    assert names(shifted) == [["baseline0"], ["baseline1", "canary0"], ["baseline2", "canary1"], ["canary2"]]
    assert "1 run of 3 of canary overlapped no run of baseline" in shifted.doubts[0]


def test_a_third_arm_is_matched_with_baseline():
    arranged = arrange(
        times("baseline", *repeat(2)), times("canary", *repeat(2)), times("blue", *repeat(2, start=20)[::-1])
    )
    assert names(arranged) == [["baseline0", "blue1", "canary0"], ["baseline1", "blue0", "canary1"]]


def test_another_time_zone_is_pointed_out():
    hours = times("baseline", *repeat(2)), times("canary", *repeat(2, start=7203))
    arranged = arrange(*hours)
    assert names(arranged) == [["baseline0", "canary0"], ["baseline1", "canary1"]]
    assert "canary began and ended 2 h after baseline" in arranged.doubts[0]
    assert "have another time zone" in arrange(times("baseline", (0, 60)), times("canary", (-1800, -1740))).doubts[0]
    assert arrange(times("baseline", (0, 60)), times("canary", (700, 760))).doubts == ()
    assert arrange(times("baseline", (0, 7200)), times("canary", (1800, 7200))).doubts == ()


def test_unequal_runs_are_pointed_out():
    spans = [(0, 75), (0, 75), (85, 160)]
    arranged = arrange(times("canary", *spans))
    assert len(arranged.runs) == 2
    assert "some runs of canary have 2 files, and one has 1" in arranged.doubts[0]
    arranged = arrange(times("canary", (0, 3600), (3620, 3650)))
    assert arranged.doubts == ("runs of canary last from 30 s to 60 min",)


def test_real_and_relative_times_of_one_arm_are_refused():
    mixed = [*times("canary", (0, 60)), *times("canary", (0, 60), (0, 60), since=datetime(1970, 1, 1, tzinfo=UTC))[1:]]
    with pytest.raises(InputError, match=r"of canary1\.csv count from the start of a test, those of canary0\.csv from"):
        arrange(mixed)


def test_times_of_two_kinds_on_two_arms_are_refused():
    # They lie 56 years apart, which is more seconds than a comparison has memory for.
    for spans in ([(0, 60)], [(0, 60)] * 3):
        with pytest.raises(
            InputError, match=r"of canary0\.csv count from the start of a test, those of baseline0\.csv"
        ):
            arrange(times("baseline", *spans), times("canary", *spans, since=datetime(1970, 1, 31, tzinfo=UTC)))


def test_arms_that_are_years_apart_are_refused():
    old = times("baseline", (0, 60), since=datetime(2016, 5, 1, tzinfo=UTC))
    with pytest.raises(
        InputError, match=r"baseline0\.csv begin at 2016-05-01.*canary0\.csv end at .* more than a year"
    ):
        arrange(old, times("canary", (0, 60)))


def test_one_file_an_arm_is_one_run_whenever_it_was():
    arranged = arrange(times("baseline", (0, 60)), times("canary", (90_000, 90_100)), files_are="replicates")
    assert names(arranged) == [["baseline0", "canary0"]]
    assert arranged.why == ""


SPANS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 120)).map(lambda span: (span[0], sum(span))), min_size=1, max_size=7
)


@settings(max_examples=300, deadline=None)
@given(SPANS, SPANS, st.randoms(use_true_random=False))
def test_no_two_files_of_one_time_are_of_two_runs_and_none_is_lost(baseline, canary, random):
    """If it is clear, each file is in one run, overlapping ones in the same, and their order does not matter."""
    arms = [times("baseline", *baseline), times("canary", *canary)]
    shuffled = [random.sample(arm, len(arm)) for arm in arms]
    try:
        arranged = arrange(*arms)
    except InputError:
        with pytest.raises(InputError, match="it is not clear"):
            arrange(*shuffled)
        return
    run_of = {file: k for k, files in enumerate(arranged.runs) for file in files}
    files = [span for arm in arms for span in arm]
    assert sum(map(len, arranged.runs)) == len(files) == len(run_of)
    for span in files:
        for second in files:
            if (
                span.file.arm == second.file.arm
                and span.first_request <= second.last_request
                and second.first_request <= span.last_request
            ):
                assert run_of[span.file] == run_of[second.file]
    again = arrange(*shuffled)
    assert {frozenset(files) for files in again.runs} == {frozenset(files) for files in arranged.runs}

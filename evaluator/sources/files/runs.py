"""How the files of an import form runs, found from their times: parts of one run, repeated runs, or parts of those.

The load generators of one run write their files at the same time, so files of one arm that overlap are parts of a run.
So are files of which one continues where the other ends: a log that was rotated. Repeated runs have a restart between
them, and times that count from the start of a test begin again with every test. If parts counted as runs, the spread
between load generators would be taken for the spread between runs, and a verdict would be far too certain. So where it
is not clear, the import is refused and asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import combinations, pairwise, permutations

from evaluator.errors import InputError
from evaluator.records import BASELINE, FilePlan, FileRuns, FilesAre, FileTimes, LandingPlan, counts_from_start
from evaluator.wording import count_of, format_duration

RESTART_S = 5.0
"""A restart takes at least this long."""
PAUSES = 2.0
"""A gap between files must be this many times the longest pause within them; a shorter one may be a pause."""
TOUCH_S = 1.0
"""Files with a gap or an overlap of at most this touch, as parts of a rotated log do: some times are whole seconds."""
TOGETHER = 0.5
"""Two files ran together if at least this share of the shorter one overlaps."""
MOST_UNEQUAL = 3.0
"""Repeated runs whose lengths differ by more than this factor are pointed out."""
HALF_HOUR_S = 1800.0
FARTHEST_ZONES = 52
"""Half hours between the time zones that are farthest apart."""
SAME_START_S = 60.0
LONGEST = timedelta(days=366)
"""Longest time from the first request to the last, because a comparison has a place for every second of it."""
MOST_SHOWN = 6


@dataclass(frozen=True, slots=True)
class _Group:
    """Files of one arm that are one run."""

    files: tuple[FileTimes, ...]

    @property
    def first_request(self) -> datetime:
        return min(span.first_request for span in self.files)

    @property
    def last_request(self) -> datetime:
        return max(span.last_request for span in self.files)

    @property
    def seconds(self) -> float:
        return (self.last_request - self.first_request).total_seconds()

    @property
    def pause_s(self) -> float:
        """Longest pause between requests, at most: that of the busiest file, which the other files can only shorten."""
        return min(span.pause_s for span in self.files)


@dataclass(frozen=True, slots=True)
class _ArmRuns:
    """The files of one arm as runs."""

    name: str
    groups: tuple[_Group, ...]
    in_time: bool
    """Are the groups in the order of real times? Else they are in the order in which their files were given."""
    doubt: str = ""
    """What is not clear about them."""

    @property
    def files(self) -> tuple[FileTimes, ...]:
        return tuple(span for group in self.groups for span in group.files)


def arrange_files(plan: LandingPlan, times: Sequence[FileTimes]) -> FileRuns:
    """Determine from the times of files which of them form one run, and which runs of the arms belong together.

    `times`: first and last request of each file of the plan. Runs of the arms are matched by time: those that ran
    together, else the first with the first and so on; if times count from the start of a test, in the order in which
    their files were given. Raises InputError if it is not clear and `plan.files_are` does not declare it.
    """
    _refuse_mixed_clocks(times)
    arm_names = dict.fromkeys(span.file.arm for span in times)
    arms = [_group_files(name, [span for span in times if span.file.arm == name]) for name in arm_names]
    arms_with_several_files = [arm for arm in arms if len(arm.files) > 1]
    warnings = list(_find_shifts(arms))
    if not arms_with_several_files:  # one run, of one file of each arm
        return FileRuns((tuple(span.file for span in times),), doubts=tuple(warnings))
    if plan.files_are is None:
        _refuse_doubt(arms, arms_with_several_files)
        why = _explain_runs(arms_with_several_files)
    else:
        why = "as --files-are says"
        if plan.files_are == "parts":
            warnings += _find_runs_declared_as_parts(arms_with_several_files)
        arms = [_group_as_declared(arm, plan.files_are) for arm in arms]
    overlapping_arm = next((arm.name for arm in arms if _has_overlap(arm)), None)
    if overlapping_arm:
        warnings.append(
            f"the files of {overlapping_arm} overlap in time, like parts of one run, but were declared to be runs:"
            " if they are parts, a verdict is far too certain"
        )
    runs, warnings_of_match = _match_runs(arms)
    warnings += [*warnings_of_match, *(text for arm in arms for text in _find_unequal_runs(arm))]
    return FileRuns(runs, why, plan.files_are, overlapping=overlapping_arm is not None, doubts=tuple(warnings))


def _refuse_mixed_clocks(times: Sequence[FileTimes]) -> None:
    """Refuse files whose times cannot be compared: of two kinds, or more than a year apart. Raises InputError."""
    from_start = [span for span in times if counts_from_start(span.last_request)]
    from_1970 = [span for span in times if not counts_from_start(span.last_request)]
    if from_start and from_1970:
        raise InputError(
            f"the times of {from_start[0].file.path} count from the start of a test, those of "
            f"{from_1970[0].file.path} from 1970",
            hint="give files with the same kind of times, or set their unit with --column ts=COLUMN:UNIT",
        )
    earliest, latest = min(times, key=lambda span: span.first_request), max(times, key=lambda span: span.last_request)
    if latest.last_request - earliest.first_request > LONGEST:
        raise InputError(
            f"the requests of {earliest.file.path} begin at {_format_time(earliest.first_request)}, those of "
            f"{latest.file.path} end at {_format_time(latest.last_request)}: that is more than a year, so a "
            "difference may have other causes than the release",
            hint="run both arms at the same time; if a clock was wrong, correct the times in the file",
        )


def _refuse_doubt(arms: Sequence[_ArmRuns], arms_with_several_files: Sequence[_ArmRuns]) -> None:
    """Raise InputError if it is not clear whether the files of one arm are parts of one run, or a run each.

    `arms_with_several_files`: the arms that have several files; the error shows the times of these.
    """
    doubt = next((arm.doubt for arm in arms_with_several_files if arm.doubt), "") or next(
        _find_contradictions(arms), ""
    )
    if not doubt:
        return
    times_of_arms = []
    for arm in arms_with_several_files:
        texts = [
            f"{span.file.path} {_format_time(span.first_request)} to {_format_time(span.last_request)}"
            for span in arm.files[:MOST_SHOWN]
        ]
        unshown = len(arm.files) - MOST_SHOWN
        times_of_arms.append(f"{arm.name} {', '.join(texts)}" + (f" and {unshown} more" if unshown > 0 else ""))
    raise InputError(
        f"it is not clear whether the files of one arm are parts of one run or a run each: {doubt}. Their times: "
        + "; ".join(times_of_arms),
        hint="give --files-are parts (load generators of one run, or a log that was rotated) or --files-are "
        "replicates (the test was repeated with restarts)",
    )


def _find_runs_declared_as_parts(arms: Sequence[_ArmRuns]) -> Iterator[str]:
    """Point out arms whose files look like repeated runs, but are declared to be parts of one run.

    Yields a sentence for each such arm. `arms`: as their files look, before the declaration.
    """
    for arm in arms:
        # Each group of files looks like a run; where the times do not show that clearly, `doubt` has the reason.
        if len(arm.groups) > 1 and not arm.doubt:
            how = "lie apart in time" if arm.in_time else "each count their times from the start of a test"
            yield f"the files of {arm.name} {how}, like repeated runs, but are taken as parts of one run"


# ------------------------------------------------------------------ one arm


def _group_files(name: str, files: Sequence[FileTimes]) -> _ArmRuns:
    """Group the files of one arm into runs: files that overlap or touch are one run, files that lie apart are several.

    Times that count from the start of a test cannot show this: then each file is a run. The first thing that is not
    clear becomes the `doubt` of the result.
    """
    if counts_from_start(files[0].last_request):
        return _ArmRuns(name, tuple(_Group((span,)) for span in files), in_time=False)
    first_file, *later_files = sorted(files, key=lambda span: (span.first_request, span.last_request))
    groups = [_Group((first_file,))]
    doubts = []
    has_continuation = False
    for span in later_files:
        gap_s = (span.first_request - groups[-1].last_request).total_seconds()  # negative: it overlaps
        if gap_s > TOUCH_S:
            groups.append(_Group((span,)))
            continue
        if not _ran_together(groups[-1], span):
            # It continues the group: it begins where the group ends, or not long before.
            has_continuation = True
            if gap_s < -TOUCH_S:
                # A rotated log does not overlap, and load generators of one run overlap for most of their time.
                doubts.append(f"{span.file.path} begins {_describe_gap(groups[-1], span)}")
        groups[-1] = _Group((*groups[-1].files, span))
    for group, next_group in pairwise(groups):
        gap_s = (next_group.first_request - group.last_request).total_seconds()
        pause_s = max(group.pause_s, next_group.pause_s)
        # So short a gap may be a pause within one run, not a restart between two.
        if gap_s < max(RESTART_S, PAUSES * pause_s):
            pauses = f", and pauses of {format_duration(pause_s)} are within them" if pause_s > TOUCH_S else ""
            next_file = next_group.files[0]
            doubts.append(f"{next_file.file.path} begins {_describe_gap(group, next_file)}{pauses}")
    if has_continuation and len(groups) > 1:
        doubts.append(f"some files of {name} continue where others end, and some lie apart")
    return _ArmRuns(name, tuple(groups), in_time=True, doubt=doubts[0] if doubts else "")


def _ran_together(one: _Group | FileTimes, other: _Group | FileTimes) -> bool:
    """Whether two files or runs overlap for at least half of the shorter of them."""
    overlap_s = (
        min(one.last_request, other.last_request) - max(one.first_request, other.first_request)
    ).total_seconds()
    return overlap_s >= 0 and overlap_s >= TOGETHER * min(one.seconds, other.seconds)


def _describe_gap(group: _Group, later_file: FileTimes) -> str:
    """How long after (or before) the last file of a group ends another file begins: '3 s after a.csv ends'."""
    last_file = max(group.files, key=lambda span: span.last_request)
    gap_s = (later_file.first_request - last_file.last_request).total_seconds()
    return f"{format_duration(abs(gap_s))} {'after' if gap_s > 0 else 'before'} {last_file.file.path} ends"


def _format_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _explain_runs(arms: Sequence[_ArmRuns]) -> str:
    """Explain by what the runs of arms with several files were determined."""
    if all(len(arm.groups) == 1 for arm in arms):
        return "their times overlap or touch"
    if any(len(group.files) > 1 for arm in arms for group in arm.groups):
        return "their times overlap within a run, and lie apart between runs"
    if any(arm.in_time for arm in arms):
        return "their times lie apart"
    return "their times count from the start of a test"


def _group_as_declared(arm: _ArmRuns, files_are: FilesAre) -> _ArmRuns:
    """Group the files of an arm as the user declared them: "parts" of one run, or "replicates", a run each.

    Replicates are in the order of their times; if these overlap or count from the start of a test, as given.
    """
    if files_are == "parts":
        return replace(arm, groups=(_Group(arm.files),))
    by_time = sorted(arm.files, key=lambda span: span.first_request)
    lie_apart = arm.in_time and all(
        span.last_request < next_span.first_request for span, next_span in pairwise(by_time)
    )
    as_given = sorted(arm.files, key=lambda span: span.file.number)
    ordered = by_time if lie_apart else as_given
    return _ArmRuns(arm.name, tuple(_Group((span,)) for span in ordered), in_time=lie_apart)


def _has_overlap(arm: _ArmRuns) -> bool:
    """Did runs of one arm run at the same time? Times that count from the start of a test cannot show it."""
    if any(counts_from_start(span.last_request) for span in arm.files):
        return False
    return any(_ran_together(run, other_run) for run, other_run in combinations(arm.groups, 2))


def _find_unequal_runs(arm: _ArmRuns) -> Iterator[str]:
    """Point out if the runs of an arm differ in their number of files, or much in length."""
    file_counts = [len(group.files) for group in arm.groups]
    lengths_s = [group.seconds for group in arm.groups]
    fewest, most = min(file_counts), max(file_counts)
    if most > fewest:
        yield f"some runs of {arm.name} have {count_of(most, 'file')}, and one has {fewest}: is one missing?"
    if max(lengths_s) > MOST_UNEQUAL * min(lengths_s):
        yield f"runs of {arm.name} last from {format_duration(min(lengths_s))} to {format_duration(max(lengths_s))}"


# ------------------------------------------------------------------ arms against each other


def _find_contradictions(arms: Sequence[_ArmRuns]) -> Iterator[str]:
    """Point out where the files of one arm contradict those of another: in being parts or runs, or in length."""
    arm_of_parts = next((arm for arm in arms if len(arm.files) > 1 and len(arm.groups) == 1), None)
    arm_of_runs = next((arm for arm in arms if len(arm.groups) > 1), None)
    if arm_of_parts and arm_of_runs:
        yield f"the files of {arm_of_parts.name} overlap or touch, and those of {arm_of_runs.name} do not"
    for arm, other_arm in permutations(arms, 2):
        if not (arm.in_time and other_arm.in_time):
            continue
        for group in arm.groups:
            # Several runs of one arm during one of another: the files of the latter may be of several runs.
            overlapping_runs = sum(_ran_together(group, other_group) for other_group in other_arm.groups)
            if overlapping_runs > 1:
                yield f"one run of {arm.name} lasts as long as {overlapping_runs} of {other_arm.name}"


def _match_runs(arms: Sequence[_ArmRuns]) -> tuple[tuple[tuple[FilePlan, ...], ...], list[str]]:
    """Match the runs of all arms with those of baseline.

    Returns the files of each matched run, of all arms, and warnings about runs without a counterpart.
    """
    baseline = _find_baseline(arms)
    files_of_runs = [list(group.files) for group in baseline.groups]
    warnings: list[str] = []
    for arm in arms:
        if arm is baseline:
            continue
        counterparts = _find_counterparts(baseline, arm)
        for run_number, group in enumerate(arm.groups):
            if run_number in counterparts:
                files_of_runs[counterparts[run_number]] += group.files
            else:  # a run of this arm only
                files_of_runs.append(list(group.files))
        baseline_runs, runs = len(baseline.groups), len(arm.groups)
        if baseline_runs != runs:
            warnings.append(
                f"the arms have different numbers of runs ({baseline.name} {baseline_runs}, {arm.name} {runs});"
                " a run without a counterpart is not compared"
            )
        elif len(counterparts) < runs:
            warnings.append(
                f"{count_of(runs - len(counterparts), 'run')} of {runs} of {arm.name} overlapped no run of "
                f"{baseline.name}, unlike the others, and cannot be compared: do its files have another clock or time "
                "zone?"
            )
    return tuple(tuple(span.file for span in files) for files in files_of_runs), warnings


def _find_counterparts(baseline: _ArmRuns, arm: _ArmRuns) -> dict[int, int]:
    """Number (from 0) of a run of an arm → number of the run of baseline that it is compared with.

    Runs are paired if they ran together; in their order if no two did, or if their times do not show it. A run without
    a counterpart is not in the result.
    """
    by_order = {run_number: run_number for run_number in range(min(len(baseline.groups), len(arm.groups)))}
    if not (baseline.in_time and arm.in_time):
        return by_order
    ran_together = [
        (run_number, baseline_number)
        for run_number, group in enumerate(arm.groups)
        for baseline_number, baseline_group in enumerate(baseline.groups)
        if _ran_together(group, baseline_group)
    ]
    if not ran_together:
        return by_order
    if len(baseline.groups) == len(arm.groups) and all(
        run_number == baseline_number for run_number, baseline_number in ran_together
    ):
        # All pairs that overlapped are in order, so the runs that did not overlap follow it, too.
        return by_order
    counterparts: dict[int, int] = {}
    for run_number, baseline_number in ran_together:  # each run of both arms is paired once, with the earliest
        if run_number not in counterparts and baseline_number not in counterparts.values():
            counterparts[run_number] = baseline_number
    return counterparts


def _find_shifts(arms: Sequence[_ArmRuns]) -> Iterator[str]:
    """Point out an arm that began whole half hours after or before baseline: its times may have another time zone."""
    baseline = _find_baseline(arms)
    baseline_start = min(span.first_request for span in baseline.files)
    baseline_end = max(span.last_request for span in baseline.files)
    for arm in arms:
        start_shift_s = (min(span.first_request for span in arm.files) - baseline_start).total_seconds()
        end_shift_s = (max(span.last_request for span in arm.files) - baseline_end).total_seconds()
        half_hours = round(start_shift_s / HALF_HOUR_S)
        # Another time zone shifts start and end by the same half hours, to within a minute.
        deviation_s = max(abs(shift_s - half_hours * HALF_HOUR_S) for shift_s in (start_shift_s, end_shift_s))
        if 0 < abs(half_hours) <= FARTHEST_ZONES and deviation_s <= SAME_START_S:
            direction = "after" if half_hours > 0 else "before"
            yield (
                f"{arm.name} began and ended {format_duration(abs(half_hours) * HALF_HOUR_S)} {direction} "
                f"{baseline.name}: do its files have another time zone?"
            )


def _find_baseline(arms: Sequence[_ArmRuns]) -> _ArmRuns:
    """The arm that the others are matched with: baseline, or the first arm if none has that name."""
    return next((arm for arm in arms if arm.name == BASELINE), arms[0])

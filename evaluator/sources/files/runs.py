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
from itertools import combinations, pairwise

from evaluator.errors import InputError
from evaluator.records import BASELINE, FilePlan, FileRuns, FilesAre, FileTimes, LandingPlan, counts_from_start
from evaluator.wording import count_of, format_duration

RESTART_S = 5.0
"""A restart takes at least this long."""
PAUSES = 2.0
"""A gap between files must be this many times the longest pause within them; a shorter one may be a pause."""
TOUCH_S = 1.0
"""Files with a gap or an overlap of at most this follow without a break: some times are whole seconds."""
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
    def first(self) -> datetime:
        return min(span.first for span in self.files)

    @property
    def last(self) -> datetime:
        return max(span.last for span in self.files)

    @property
    def seconds(self) -> float:
        return (self.last - self.first).total_seconds()

    @property
    def pause_s(self) -> float:
        """Longest pause of the busiest of the files, which the others can only shorten."""
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
    """Find from the times of files which of them form one run, and which runs of the arms belong together.

    Runs of the arms are matched by time: those that ran together, else the first with the first and so on; where times
    count from the start of a test, in the order in which their files were given. Raises InputError where it is not
    clear and `plan.files_are` is not given.
    """
    _demand_one_clock(times)
    names = dict.fromkeys(span.file.arm for span in times)
    arms = [_group_files(name, [span for span in times if span.file.arm == name]) for name in names]
    several = [arm for arm in arms if len(arm.files) > 1]
    if not several:
        return FileRuns((tuple(span.file for span in times),), doubts=tuple(_find_shifts(arms)))
    doubt = next((arm.doubt for arm in several if arm.doubt), "") or next(_find_contradictions(arms), "")
    files_are, why = plan.files_are, "as --files-are says" if plan.files_are else _say_why(several)
    if doubt and files_are is None:
        shown = []
        for arm in several:
            texts = [f"{span.file.path} {_show(span.first)} to {_show(span.last)}" for span in arm.files[:MOST_SHOWN]]
            unshown = len(arm.files) - MOST_SHOWN
            shown.append(f"{arm.name} {', '.join(texts)}" + (f" and {unshown} more" if unshown > 0 else ""))
        raise InputError(
            f"it is not clear whether the files of one arm are parts of one run or a run each: {doubt}. Their times: "
            + "; ".join(shown),
            hint="give --files-are parts (load generators of one run, or a log that was rotated) or --files-are "
            "replicates (the test was repeated with restarts)",
        )
    doubts = list(_find_shifts(arms))
    if files_are is not None:
        for arm in several if files_are == "parts" else ():
            if len(arm.groups) > 1 and not arm.doubt:
                how = "lie apart in time" if arm.in_time else "each count their times from the start of a test"
                doubts.append(f"the files of {arm.name} {how}, like repeated runs, but are taken as parts of one run")
        arms = [_declare(arm, files_are) for arm in arms]
    overlap = next((arm.name for arm in arms if _has_overlap(arm)), None)
    if overlap:
        doubts.append(
            f"the files of {overlap} overlap in time, like parts of one run, but were declared to be runs:"
            " if they are parts, a verdict is far too certain"
        )
    runs, unmatched = _match(arms)
    doubts += [*unmatched, *(text for arm in arms for text in _find_unequal(arm))]
    return FileRuns(runs, why, files_are, overlap is not None, tuple(doubts))


def _demand_one_clock(times: Sequence[FileTimes]) -> None:
    """Refuse times that cannot be compared, because the arms have no time in common. Raises InputError."""
    relative = [span for span in times if counts_from_start(span.last)]
    if relative and len(relative) < len(times):
        path, absolute = relative[0].file.path, next(span for span in times if span not in relative).file.path
        raise InputError(
            f"the times of {path} count from the start of a test, those of {absolute} from 1970",
            hint="give files with the same kind of times, or set their unit with --column ts=COLUMN:UNIT",
        )
    first, last = min(times, key=lambda span: span.first), max(times, key=lambda span: span.last)
    if last.last - first.first > LONGEST:
        raise InputError(
            f"the requests of {first.file.path} begin at {_show(first.first)}, those of {last.file.path} end at "
            f"{_show(last.last)}: that is more than a year, so a difference may have other causes than the release",
            hint="run both arms at the same time; if a clock was wrong, correct the times in the file",
        )


# ------------------------------------------------------------------ one arm


def _group_files(name: str, files: Sequence[FileTimes]) -> _ArmRuns:
    """Group the files of one arm by their times."""
    if counts_from_start(files[0].last):
        return _ArmRuns(name, tuple(_Group((span,)) for span in files), in_time=False)
    ordered = sorted(files, key=lambda span: (span.first, span.last))
    groups, touching, doubts = [_Group((ordered[0],))], False, []
    for span in ordered[1:]:
        gap_s = (span.first - groups[-1].last).total_seconds()
        if gap_s > TOUCH_S:
            groups.append(_Group((span,)))
            continue
        if not _ran_together(groups[-1], span):
            touching = True
            if gap_s < -TOUCH_S:
                doubts.append(f"{span.file.path} begins {_say_gap(groups[-1], span)}")
        groups[-1] = _Group((*groups[-1].files, span))
    for group, later in pairwise(groups):
        gap_s, pause_s = (later.first - group.last).total_seconds(), max(group.pause_s, later.pause_s)
        if gap_s < max(RESTART_S, PAUSES * pause_s):
            pauses = f", and pauses of {format_duration(pause_s)} are within them" if pause_s > TOUCH_S else ""
            doubts.append(f"{later.files[0].file.path} begins {_say_gap(group, later.files[0])}{pauses}")
    if touching and len(groups) > 1:
        doubts.append(f"some files of {name} continue where others end, and some lie apart")
    return _ArmRuns(name, tuple(groups), in_time=True, doubt=doubts[0] if doubts else "")


def _ran_together(first: _Group | FileTimes, second: _Group | FileTimes) -> bool:
    overlap_s = (min(first.last, second.last) - max(first.first, second.first)).total_seconds()
    return overlap_s >= 0 and overlap_s >= TOGETHER * min(first.seconds, second.seconds)


def _say_gap(group: _Group, later: FileTimes) -> str:
    before = max(group.files, key=lambda span: span.last)
    gap_s = (later.first - before.last).total_seconds()
    return f"{format_duration(abs(gap_s))} {'after' if gap_s > 0 else 'before'} {before.file.path} ends"


def _show(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _say_why(several: Sequence[_ArmRuns]) -> str:
    """Say how the runs of the files were found."""
    if all(len(arm.groups) == 1 for arm in several):
        return "their times overlap or touch"
    if any(len(group.files) > 1 for arm in several for group in arm.groups):
        return "their times overlap within a run, and lie apart between runs"
    if any(arm.in_time for arm in several):
        return "their times lie apart"
    return "their times count from the start of a test"


def _declare(arm: _ArmRuns, files_are: FilesAre) -> _ArmRuns:
    """Group the files of an arm as declared."""
    if files_are == "parts":
        return replace(arm, groups=(_Group(arm.files),))
    ordered = sorted(arm.files, key=lambda span: span.first)
    apart = arm.in_time and all(span.last < next_span.first for span, next_span in pairwise(ordered))
    numbered = sorted(arm.files, key=lambda span: span.file.number)
    return _ArmRuns(arm.name, tuple(_Group((span,)) for span in (ordered if apart else numbered)), in_time=apart)


def _has_overlap(arm: _ArmRuns) -> bool:
    """Did runs of one arm run at the same time?"""
    if any(counts_from_start(span.last) for span in arm.files):
        return False
    return any(_ran_together(run, other_run) for run, other_run in combinations(arm.groups, 2))


def _find_unequal(arm: _ArmRuns) -> Iterator[str]:
    """Point out where runs of an arm differ in files or length."""
    sizes, lengths = [len(group.files) for group in arm.groups], [group.seconds for group in arm.groups]
    if max(sizes) > min(sizes):
        yield f"some runs of {arm.name} have {count_of(max(sizes), 'file')}, and one has {min(sizes)}: is one missing?"
    if max(lengths) > MOST_UNEQUAL * min(lengths):
        yield f"runs of {arm.name} last from {format_duration(min(lengths))} to {format_duration(max(lengths))}"


# ------------------------------------------------------------------ arms against each other


def _find_contradictions(arms: Sequence[_ArmRuns]) -> Iterator[str]:
    """Point out where the files of one arm contradict those of another."""
    joined = next((arm for arm in arms if len(arm.files) > 1 and len(arm.groups) == 1), None)
    separate = next((arm for arm in arms if len(arm.groups) > 1), None)
    if joined and separate:
        yield f"the files of {joined.name} overlap or touch, and those of {separate.name} do not"
    for arm, other_arm in ((arm, other_arm) for arm in arms for other_arm in arms if arm is not other_arm):
        for group in arm.groups if arm.in_time and other_arm.in_time else ():
            overlaps = [_ran_together(group, other_group) for other_group in other_arm.groups]
            if sum(overlaps) > 1:
                yield f"one run of {arm.name} lasts as long as {sum(overlaps)} of {other_arm.name}"


def _match(arms: Sequence[_ArmRuns]) -> tuple[tuple[tuple[FilePlan, ...], ...], list[str]]:
    """Match the runs of the arms: the files of each run, and warnings for runs without a counterpart."""
    base = _find_base(arms)
    runs = [list(group.files) for group in base.groups]
    doubts: list[str] = []
    for arm in arms:
        if arm is base:
            continue
        pairs = _pair(base, arm)
        for k, group in enumerate(arm.groups):
            if k in pairs:
                runs[pairs[k]] += group.files
            else:
                runs.append(list(group.files))
        numbers = len(base.groups), len(arm.groups)
        if numbers[0] != numbers[1]:
            doubts.append(
                f"the arms have different numbers of runs ({base.name} {numbers[0]}, {arm.name} {numbers[1]});"
                " a run without a counterpart is not compared"
            )
        elif len(pairs) < numbers[0]:
            doubts.append(
                f"{count_of(numbers[0] - len(pairs), 'run')} of {numbers[0]} of {arm.name} overlapped no run of "
                f"{base.name}, unlike the others, and cannot be compared: do its files have another clock or time zone?"
            )
    return tuple(tuple(span.file for span in files) for files in runs), doubts


def _pair(base: _ArmRuns, arm: _ArmRuns) -> dict[int, int]:
    """Number of a run of an arm → number of the run of baseline that it is compared with."""
    by_order = {k: k for k in range(min(len(base.groups), len(arm.groups)))}
    if not (base.in_time and arm.in_time):
        return by_order
    together = [
        (k, j)
        for k, group in enumerate(arm.groups)
        for j, base_group in enumerate(base.groups)
        if _ran_together(group, base_group)
    ]
    if not together or (len(base.groups) == len(arm.groups) and all(k == j for k, j in together)):
        return by_order
    pairs: dict[int, int] = {}
    for k, j in together:
        if j not in pairs.values():
            pairs.setdefault(k, j)
    return pairs


def _find_shifts(arms: Sequence[_ArmRuns]) -> Iterator[str]:
    """Point out an arm that began whole half hours after or before baseline: its times may have another time zone."""
    base = _find_base(arms)
    for arm in arms:
        at_start_s = (min(span.first for span in arm.files) - min(span.first for span in base.files)).total_seconds()
        at_end_s = (max(span.last for span in arm.files) - max(span.last for span in base.files)).total_seconds()
        halves = round(at_start_s / HALF_HOUR_S)
        far = max(abs(shift_s - halves * HALF_HOUR_S) for shift_s in (at_start_s, at_end_s))
        if 0 < abs(halves) <= FARTHEST_ZONES and far <= SAME_START_S:
            direction = "after" if halves > 0 else "before"
            yield (
                f"{arm.name} began and ended {format_duration(abs(halves) * HALF_HOUR_S)} {direction} {base.name}:"
                " do its files have another time zone?"
            )


def _find_base(arms: Sequence[_ArmRuns]) -> _ArmRuns:
    return next((arm for arm in arms if arm.name == BASELINE), arms[0])

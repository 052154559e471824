"""A metric of each instance (or run) by itself: is it one pod?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluator.figures.base import NARROW, Figure, finish, inline, is_worse_upwards, shorten
from evaluator.records import BASELINE, Comparison
from evaluator.wording import choose_time_scale, format_arm_value, format_count, name_comparison

HEIGHT = 130
LEAST_UNITS, FAR = 3, 2.0
"""Units that an arm needs for one of them to stand out, and how far it must be: in ranges of all others."""
FAILS = "too many requests fail"
"""Instead of a quantile of response times that is no time: so many requests fail."""


KINDS = "failures in all of the run"
NO_KINDS = "–"
"""Head of the column of kinds of failures, and what it has for a unit that is not known to have any."""


def draw_units(row: Comparison, curve: Mapping[str, Any], *, colors: Mapping[str, str], width: int = NARROW) -> Figure:
    """Draw the metric of a comparison for each unit, that is each instance or run, as a dot in the row of its arm.

    `curve` is what `trace_units` returns: `units` with `name`, `arm`, `value` (`None`: no value), `n` (requests),
    `kinds` (kinds of failures as text, if there are any), and `fails` if the value is beyond all times, because too
    many requests fail: such a unit is at the right edge, with its name. `of` is the word for a unit. `colors` are the
    colours of the arms by name.
    """
    import altair as alt

    factor, unit = (100.0, "%") if row.unit == "fraction" else (1.0, row.unit)
    if row.unit == "ms":
        factor, unit = choose_time_scale(max((entry["value"] or 0.0 for entry in curve["units"]), default=0.0))
    arms = [BASELINE, row.arm]
    has_kinds = any("kinds" in entry for entry in curve["units"])
    rows = tuple(
        (
            shorten(entry["name"]),
            entry["arm"],
            FAILS if entry.get("fails") else format_arm_value(row, entry["value"]),
            format_count(entry["n"]),
            *((entry.get("kinds", NO_KINDS),) if has_kinds else ()),
        )
        for entry in curve["units"]
    )
    points = [
        {
            "arm": arm,
            "value": entry["value"] * factor,
            "tip": ", ".join((f"{name}: {value}", f"{n} requests", *(text for text in kinds if text != NO_KINDS))),
            "name": entry["name"],
        }
        for entry, (name, arm, value, n, *kinds) in zip(curve["units"], rows, strict=True)
        if entry["value"] is not None
    ]
    title = _write_title(row, curve)
    y = alt.Y("arm:N", title=None, sort=arms, axis=alt.Axis(labelLimit=80, ticks=False, domain=False))
    x = alt.X(
        "value:Q",
        title=f"{shorten(name_comparison(row), 40)}, {unit}",
        scale=alt.Scale(zero=False, padding=8),
        axis=alt.Axis(tickCount=4, labelOverlap=True, labelFlush=False),
    )
    color = alt.Color("arm:N", legend=None, scale=alt.Scale(domain=arms, range=[colors[BASELINE], colors[row.arm]]))
    shape = alt.Shape("arm:N", legend=None, scale=alt.Scale(domain=arms, range=["square", "circle"]))
    dots = (
        alt.Chart(inline(points))
        .mark_point(filled=True, size=70, opacity=0.75)
        .encode(x=x, y=y, color=color, shape=shape, description="tip:N")
    )
    layers = [dots, *_draw_failing(curve, y, color, width)]
    if (alone := _find_outlier(row, curve)) is not None:
        named = {"arm": row.arm, "value": alone["value"] * factor, "label": shorten(alone["name"])}
        # The harmful side is at an end of the axis: the name is written towards its middle.
        label = alt.Chart(inline([named])).mark_text(align="right" if is_worse_upwards(row) else "left", dy=-14)
        layers.append(label.encode(x=x, y=y, text="label:N", color=color))
    return Figure(
        finish(alt.layer(*layers), width=width, height=HEIGHT),
        title=title,
        alt=f"A dot for each {curve['of']} of both arms. {title}.",
        head=(curve["of"], "arm", "value", "requests", *((KINDS,) if has_kinds else ())),
        rows=rows,
    )


def _draw_failing(curve: Mapping[str, Any], y: Any, color: Any, width: int) -> list[Any]:
    """Draw the units whose value is beyond all times, with their names, at the right edge of the row of their arm."""
    import altair as alt

    failing = [
        {"arm": arm, "label": f"{', '.join(map(shorten, names))} →", "tip": f"{', '.join(names)}: {FAILS}"}
        for arm, names in _list_failing(curve).items()
    ]
    if not failing:
        return []
    label = alt.Chart(inline(failing)).mark_text(align="right", dy=-14, fontWeight="bold")
    return [label.encode(x=alt.value(width), y=y, text="label:N", color=color, description="tip:N")]


def _list_units(curve: Mapping[str, Any], arm: str) -> list[Mapping[str, Any]]:
    """List the units of an arm that have a value."""
    return [entry for entry in curve["units"] if entry["arm"] == arm and entry["value"] is not None]


def _find_outlier(row: Comparison, curve: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find the one unit of the candidate that is far worse than all others of both arms; `None` if there is none.

    Far: by more than `FAR` times the range of all others.
    """
    sign = 1 if is_worse_upwards(row) else -1
    candidate = sorted(_list_units(curve, row.arm), key=lambda entry: float(sign * entry["value"]))
    others = [entry["value"] for entry in (*candidate[:-1], *_list_units(curve, BASELINE))]
    if len(candidate) < LEAST_UNITS or len(others) < len(candidate):
        return None
    distance = sign * candidate[-1]["value"] - max(sign * value for value in others)
    return candidate[-1] if distance > FAR * (max(others) - min(others)) else None


def _list_failing(curve: Mapping[str, Any]) -> dict[str, list[str]]:
    """List by arm the names of the units whose value is beyond all times."""
    failing: dict[str, list[str]] = {}
    for entry in curve["units"]:
        if entry.get("fails"):
            failing.setdefault(entry["arm"], []).append(entry["name"])
    return failing


def _write_title(row: Comparison, curve: Mapping[str, Any]) -> str:
    """Say whether all units of the candidate are above or below all of the baseline, or else both ranges."""

    def list_values(arm: str) -> list[float]:
        """List the values of the units of an arm, without those that have none."""
        return [entry["value"] for entry in _list_units(curve, arm)]

    def write_range(values: list[float]) -> str:
        """Write the least and the largest value: `12 ms to 15 ms`."""
        least, most = format_arm_value(row, min(values)), format_arm_value(row, max(values))
        return least if least == most else f"{least} to {most}"

    baseline, candidate = list_values(BASELINE), list_values(row.arm)
    name, failing = name_comparison(row), _list_failing(curve)
    if failing:
        texts = [f"{', '.join(names)} of {arm}: {FAILS}" for arm, names in failing.items()]
        others = [f"other {curve['of']}s of {row.arm} {write_range(candidate)}"] if candidate else []
        others += [f"baseline {write_range(baseline)}"] if baseline else []
        return f"{name}: {'; '.join([*texts, *others])}"
    if not candidate or not baseline:
        return f"{name}: only one arm has {curve['of']}s with a value"
    candidate_units = f"{len(candidate)} {curve['of']}{'s' if len(candidate) > 1 else ''} of {row.arm}"
    if (alone := _find_outlier(row, curve)) is not None:
        same_arm = [entry["value"] for entry in _list_units(curve, row.arm) if entry is not alone]
        return (
            f"{name}: {shorten(alone['name'])} alone has {format_arm_value(row, alone['value'])}; "
            f"other {curve['of']}s of {row.arm} {write_range(same_arm)}, baseline {write_range(baseline)}"
        )
    if min(candidate) > max(baseline):
        return f"{name}: all {candidate_units} are above all of baseline: it is not a single one"
    if max(candidate) < min(baseline):
        return f"{name}: all {candidate_units} are below all of baseline: it is not a single one"
    of_candidate, of_baseline = (
        f"{'at' if min(values) == max(values) else 'from'} {write_range(values)}" for values in (candidate, baseline)
    )
    return f"{name}: {candidate_units} {of_candidate}; baseline {of_baseline}"

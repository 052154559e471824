"""Where in the distribution it moved: the change at every quantile."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from evaluator.figures.base import NARROW, Figure, finish, finite, layer_change
from evaluator.wording import format_number, format_value

HEIGHT = 210
LABELS = {1.0: "p1", 50.0: "p50", 90.0: "p90", 95.0: "p95", 99.0: "p99", 99.5: "p99.5", 99.9: "p99.9"}
ROOM = 2.5
ALIKE = 0.8
"""The least change is at least this share of the largest, where the title states that all quantiles changed equally."""


def draw_shift(curve: Mapping[str, Any], *, color: str, width: int = NARROW) -> Figure:
    """Draw one candidate; `curve` as `evaluator.figure_data` traced it.

    The axis is logarithmic in the share above each quantile.
    """
    import altair as alt

    domain = low, high = _domain(curve)
    points = [
        {
            "place": _position(percent),
            "change": 100 * estimate,
            "lower": low if lower is None else min(max(100 * lower, low), high),
            "upper": high if upper is None else min(max(100 * upper, low), high),
            "tip": f"p{percent:g}: {_percent(estimate)} ({_percent(lower)} … {_percent(upper)})",
        }
        for percent, estimate, lower, upper in zip(
            curve["percent"], curve["estimate"], curve["lower"], curve["upper"], strict=True
        )
    ]
    ticks = [_position(percent) for percent in LABELS if _position(percent) <= points[-1]["place"] + 1e-9]
    names = " : ".join(f"datum.value < {_position(p) + 0.01:.3f} ? '{text}'" for p, text in LABELS.items()) + " : ''"
    x = alt.X(
        "place:Q",
        title="quantile of response time",
        axis=alt.Axis(values=ticks, labelExpr=names),
        scale=alt.Scale(domain=[0, points[-1]["place"]], nice=False),
    )
    return Figure(
        finish(alt.layer(*layer_change(points, x, domain, "%", color)), width=width, height=HEIGHT),
        title=_write_title(curve),
        alt=f"Line of the relative change of response time of {curve['arm']} at each quantile, with its interval. "
        f"{_write_title(curve)}.",
        head=("quantile", "baseline", curve["arm"], "change", "from", "to"),
        rows=tuple(
            (
                f"p{percent:g}",
                *(format_value(curve[key][k], "ms") for key in ("baseline_ms", "candidate_ms")),
                *(_percent(curve[key][k]) for key in ("estimate", "lower", "upper")),
            )
            for k, percent in enumerate(curve["percent"])
        ),
    )


def _position(percent: float) -> float:
    return -math.log10(1 - percent / 100)


def _percent(value: float | None) -> str:
    return "∞" if value is None else f"{format_number(100 * value, sign=True)} %"


def _write_title(curve: Mapping[str, Any]) -> str:
    """Where it moved most among what is known, and the middle."""
    points = list(zip(curve["percent"], curve["estimate"], curve["lower"], curve["upper"], strict=True))
    moved = [(p, e) for p, e, lower, upper in points if (lower or 0) > 0 or (upper is not None and upper < 0)]
    if not moved:
        return f"No quantile of {curve['arm']} is shown to have changed"
    most = max(moved, key=lambda point: abs(point[1]))
    middle = min(points, key=lambda point: abs(point[0] - 50))
    sizes = [abs(change) for _, change in moved]
    if len(moved) > len(points) / 2 and min(sizes) > ALIKE * max(sizes):
        last = moved[-1]
        ends = (middle, last)
        return f"It changed equally everywhere: {', '.join(f'{_percent(e)} at p{p:g}' for p, e, *_ in ends)}"
    if most[0] == middle[0]:
        return f"It changed most in the middle: {_percent(most[1])} at p{most[0]:g}"
    return f"It changed most at p{most[0]:g}: {_percent(most[1])}, and {_percent(middle[1])} at p{middle[0]:g}"


def _domain(curve: Mapping[str, Any]) -> tuple[float, float]:
    estimates = [100 * value for value in finite(curve["estimate"])]
    most = ROOM * max((abs(value) for value in estimates), default=1.0) + 5
    ends = [100 * value for key in ("lower", "upper") for value in finite(curve[key])]
    return max(min([*ends, *estimates, -2.0]), -most), min(max([*ends, *estimates, 2.0]), most)

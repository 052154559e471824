"""The report: one HTML file that needs no network, runs no script, and can be read on a phone, printed and passed on.

Figures are SVG, drawn beforehand: a page of a CI system that forbids scripts shows them as well, and they print. All
text goes through the template's escaping; what is drawn is written by an XML writer.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from evaluator.errors import InputError
from evaluator.extensions import explain_missing_package
from evaluator.figures import (
    PALETTE,
    Figure,
    color_arms,
    draw_distribution,
    draw_forest,
    draw_over_time,
    draw_shift,
    draw_timeline,
    draw_units,
    explain_timeline,
    pick_decisive,
    rank_by_margin,
    to_svg,
)
from evaluator.figures.base import NARROW, WIDE, name_row, scale_of
from evaluator.records import Comparison, Verdict, VerdictWord
from evaluator.reports.base import (
    HEALTH_MARKS,
    STATUS_MARKS,
    VERDICT_WORDS,
    Page,
    command_of,
    count_both,
    format_allowed,
    format_both,
    format_effect,
    harmless_cell,
    is_only_shown,
    list_limits,
    mark_status,
    name_check,
    name_opponents,
    name_role,
    plain_text,
    put_worst_first,
)
from evaluator.wording import format_count, format_duration, format_number, name_comparison

HALF = 516
"""Width (px) of a figure in one of two columns."""
LONGEST = 300
"""Characters of a name or text that are shown; the JSON has all of it."""
MOST_ENDPOINTS = 12
MOST_ROWS = 500
NO_FIGURES = (
    "This report was made without the numbers behind figures over time, by quantile and by instance; "
    "`evaluator verdict --format html=PATH` makes one with them, and `--figures` adds them to the JSON."
)


def render(verdict: Verdict, page: Page) -> str:
    """Write the report; `page` does not matter. Raises UsageError where a package that draws is not installed."""
    del page
    with explain_missing_package("the HTML report needs", "plots"):
        return to_html(verdict)


def to_html(verdict: Verdict) -> str:
    """Write the report. Without `verdict.figures` it has only tables and the metrics' figure, with a note.

    Raises InputError where figures that were read from a file have an unexpected form: a verdict is checked when it is
    read, but its figures are not, since they are not part of the contract.
    """
    environment = Environment(
        autoescape=True, trim_blocks=True, undefined=StrictUndefined, finalize=_finalize, keep_trailing_newline=False
    )
    environment.filters |= FILTERS
    folder = files("evaluator.reports") / "templates"
    template = environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))
    # Colours of figures on a dark page.
    rules = "".join(
        f'svg [{kind}="{light}"]{{{kind}:{dark}}}' for light, dark in PALETTE.items() for kind in ("fill", "stroke")
    )
    css = (folder / "report.css").read_text(encoding="utf-8")
    css += f"@media screen and (prefers-color-scheme: dark) {{{rules}}}"
    try:
        context = _Report(verdict).context()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if verdict.figures is None:
            raise
        raise InputError(
            f"the figures of the verdict on {verdict.release.id} cannot be drawn: {error!r}",
            hint="make the JSON again with --figures, or leave its key `figures` out",
        ) from error
    return template.render(css=Markup(css), **context)  # noqa: S704 our own file and colours


def _finalize(value: Any) -> Any:
    """Escape control characters, and cut a text that is too long to read."""
    return _cut_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _cut_text(text: str) -> str:
    """Text as it may be shown, by line; policies and queries keep their lines."""
    if len(text) > LONGEST and "\n" not in text:
        text = text[: LONGEST - 1] + "…"
    return "\n".join(plain_text(line) for line in text.split("\n"))


def _with_code(text: str) -> Markup:
    """A sentence in which the parts between backticks are code."""
    parts = [escape(_cut_text(part)) for part in text.split("`")]
    if len(parts) % 2 == 0:
        return escape(_cut_text(text))
    return Markup("").join(Markup("<code>{}</code>").format(part) if k % 2 else part for k, part in enumerate(parts))


def _key(row: Comparison) -> tuple[str, str, str | None]:
    return row.rule.name, row.arm, row.rule.slice.endpoint


def _format_moment(moment: Any) -> str:
    """`2026-11-25 23:50 UTC`; a dash where it is not known."""
    if moment is None:
        return "–"
    text = moment if isinstance(moment, str) else moment.isoformat()
    return f"{text[:10]} {text[11:16]} UTC"


def _to_yaml(plain: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(plain), sort_keys=False, allow_unicode=True))


FILTERS = {
    "coded": _with_code,
    "key": _key,
    "name": name_comparison,
    "role": name_role,
    "only_shown": is_only_shown,
    "mark": mark_status,
    "both": format_both,
    "effect": format_effect,
    "allowed": format_allowed,
    "n": count_both,
    "counted": format_count,
    "checked": name_check,
    "level": HEALTH_MARKS.get,
    "yaml": _to_yaml,
}
"""How the template writes parts of a verdict."""


class _Report:
    """What the template needs, gathered from one verdict."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict, self.evidence = verdict, verdict.evidence
        self.figures: Mapping[str, Any] = verdict.figures or {}
        self.rows = list(verdict.evidence.comparisons)
        self.metrics = [row for row in self.rows if not row.scan]
        ranked = rank_by_margin([row for row in self.rows if row.scan])
        self.endpoints = [*ranked, *(row for row in self.rows if row.scan and row not in ranked)]
        arms = [arm.name for arm in verdict.evidence.arms] or [row.arm for row in self.rows]
        self.colors = color_arms([*arms, *(row.arm for row in self.rows)])
        self.several = len({row.arm for row in self.rows}) > 1
        self.drawn = 0

    def context(self) -> dict[str, Any]:
        """All that the template fills in."""
        timeline = self.figures.get("timeline")
        strips, panels, shapes = self._strips(), self._panels(), self._shapes()
        endpoints = {row.rule.slice.endpoint for row in self.endpoints}
        sections = [
            ("metrics", "Metrics", True),
            ("distribution", "Distribution", shapes),
            ("panels", "Metric by metric", panels),
            ("timeline", "Timeline", strips),
            ("endpoints", "Endpoints", self.endpoints),
            ("health", "Fairness", True),
            ("history", "Runs", True),
            ("method", "How it was judged", True),
        ]
        used = {arm.name for arm in self.evidence.arms} | {row.arm for row in self.rows}
        return {
            **self._banner(),
            "forest": self._forest(pick_decisive(self.rows)),
            "panels": panels,
            "shapes": shapes,
            "strips": strips,
            "endpoint_forest": self._forest(self.endpoints, MOST_ENDPOINTS),
            "no_figures": "" if self.figures else NO_FIGURES,
            "panels_note": self._explain_panels() if panels else "",
            "timeline_note": explain_timeline(timeline) if timeline and strips else "",
            **self._history(),
            **self._method(),
            "sections": [(anchor, name) for anchor, name, present in sections if present],
            "several": self.several,
            "legend": [
                {"name": arm, "swatch": _draw_swatch(color, dashed=index == 0)}
                for index, (arm, color) in enumerate(self.colors.items())
                if arm in used
            ],
            "metrics": self.metrics,
            "anchors": {panel["key"]: panel["anchor"] for panel in panels},
            "endpoints": self.endpoints[:MOST_ROWS],
            "endpoint_summary": f"All {len(self.endpoints)} comparisons of {len(endpoints)} endpoints, "
            "furthest beyond their margin first",
            "findings": put_worst_first(self.evidence.findings),
        }

    def _banner(self) -> dict[str, Any]:
        """The answer, what decided it, how it is limited, and on how much data it rests."""
        verdict, evidence, limits = self.verdict, self.evidence, list_limits(self.verdict)
        decided = verdict.time_to_decision_s
        facts = [
            ("judged", _format_moment(verdict.judged_at)),
            ("load", format_duration(evidence.window.seconds) if evidence.window.seconds else ""),
            ("requests", " + ".join(format_count(arm.requests) for arm in evidence.arms if arm.requests)),
            ("instances", " + ".join(str(arm.instances) for arm in evidence.arms if arm.instances)),
            ("units", " + ".join(format_count(arm.units) for arm in evidence.arms if arm.units)),
            ("decided after", format_duration(decided) if decided else ""),
        ]
        return {
            "word": VERDICT_WORDS[verdict.word],
            "kind": verdict.word.value,
            "release": verdict.release.id,
            "against": name_opponents(verdict),
            "stamps": [
                {"loud": kind == "override", "text": text[0].upper() + text[1:]}
                for kind in ("override", "shadow", "part", "incomplete")
                for text in limits[kind]
            ],
            "reasons": [reason.text for reason in verdict.reasons],
            "next_action": verdict.next_action,
            "facts": [(name, value) for name, value in facts if value],
        }

    # -------------------------------------------------------------- figures

    def _show(self, figure: Figure, narrow: Figure | None = None, note: str = "") -> dict[str, Any]:
        """A figure as the template shows it."""
        self.drawn += 1
        name, numbers = f"figure-{self.drawn}", io.StringIO()
        csv.writer(numbers).writerows([harmless_cell(cell) for cell in row] for row in (figure.head, *figure.rows))
        return {
            "name": name,
            "title": figure.title,
            "note": note,
            "head": figure.head,
            "rows": figure.rows,
            "csv": Markup(base64.b64encode(numbers.getvalue().encode()).decode()),  # noqa: S704 base64
            "svg": Markup(to_svg(figure, name)),  # noqa: S704 written by an XML writer
            "narrow": Markup(to_svg(narrow, f"{name}n")) if narrow else "",  # noqa: S704 as above
        }

    def _forest(self, rows: Sequence[Comparison], most: int | None = None) -> dict[str, Any] | None:
        wide, narrow = (
            draw_forest(rows[:most], colors=self.colors, width=width, several=self.several) for width in (WIDE, NARROW)
        )
        if wide is None:
            return None
        note = "The band is what is allowed; a metric whose interval crosses its dashed edge is not known yet."
        if most is not None and len(rows) > most:
            note = f"The {most} furthest beyond what is allowed, of {len(rows)}. {note}"
        return self._show(wide, narrow, note)

    def _panels(self) -> list[dict[str, Any]]:
        """The figures and facts of each gate and hold."""
        rows = {_key(row): row for row in self.metrics}
        panels: list[dict[str, Any]] = []
        for traced in self.figures.get("metrics", ()):
            row = rows.get((traced["name"], traced["arm"], traced["endpoint"]))
            if row is None or row.effect is None:
                continue
            figures = []
            if traced["over_time"]:
                figures.append(self._show(draw_over_time(row, traced["over_time"], color=self.colors[row.arm])))
            if traced["units"]:
                hidden = traced["units"]["hidden"]
                note = f"{hidden} with fewer requests are not shown." if hidden else ""
                figures.append(self._show(draw_units(row, traced["units"], colors=self.colors), note=note))
            if figures:
                drawn = traced["over_time"] is not None
                panels.append(
                    {
                        "key": _key(row),
                        "anchor": f"metric-{len(panels) + 1}",
                        "name": name_row(row, several=self.several),
                        "mark": STATUS_MARKS[row.status],
                        "status": row.status.value,
                        "figures": figures,
                        "facts": [(what, value) for what, value in self._explain(row, drawn=drawn) if value],
                    }
                )
        return panels

    def _explain(self, row: Comparison, *, drawn: bool) -> list[tuple[str, str]]:
        """Definition, n, method and the harm that could have been detected."""
        scaled, detectable, adjusted = scale_of(row), row.detectable_effect, row.p_value_adjusted
        return [
            ("finding", "" if drawn else row.reason),
            ("type", row.rule.type),
            ("endpoint", row.rule.slice.endpoint or "all"),
            ("allowed", format_allowed(row)),
            ("n", count_both(row)),
            ("replication", f"{row.instances[0]} + {row.instances[1]} instances or runs"),
            ("method", row.method),
            ("p-value of “worse than allowed”", "" if row.p_value is None else format_number(row.p_value)),
            ("… over all gates", "" if adjusted is None else format_number(min(adjusted, 1.0))),
            (
                "detectable with 80 % power",
                "" if detectable is None else f"{format_number(detectable * scaled.factor)} {scaled.unit}",
            ),
        ]

    def _shapes(self) -> list[dict[str, Any]]:
        """Change by quantile and both distributions, of each candidate."""
        shapes: dict[str, list[dict[str, Any]]] = {}
        for key, draw, note in (
            (
                "quantiles",
                draw_shift,
                "Each interval is valid by itself. All requests; failures count as infinitely slow.",
            ),
            ("distributions", draw_distribution, ""),
        ):
            for curve in self.figures.get(key, ()):
                wide, narrow = (draw(curve, color=self.colors[curve["arm"]], width=width) for width in (HALF, NARROW))
                shapes.setdefault(curve["arm"], []).append(self._show(wide, narrow, note))
        return [{"arm": arm, "figures": figures} for arm, figures in shapes.items()]

    def _strips(self) -> list[dict[str, Any]]:
        timeline = self.figures.get("timeline")
        if not timeline:
            return []
        readings = self.figures.get("readings", ())
        wide, narrow = draw_timeline(timeline, readings, width=WIDE), draw_timeline(timeline, readings)
        return [self._show(figure, small) for figure, small in zip(wide, narrow, strict=True)]

    def _explain_panels(self) -> str:
        """How to read the bands and the dots."""
        traced = self.figures["metrics"]
        kinds = {metric["over_time"]["kind"] for metric in traced if metric["over_time"]}
        once = "The runs were judged once, at the end: the band before that decides nothing."
        often = "The end of each band towards “worse” is valid at every look; the other end only at the last look."
        band = f"{once if kinds == {'fixed'} else often} " if kinds else ""
        unit = next((metric["units"]["of"] for metric in traced if metric["units"]), "instance")
        return f"{band}Each dot is one {unit}, with the mix of endpoints that it served."

    # -------------------------------------------------------------- runs and method

    def _history(self) -> dict[str, Any]:
        """The arms, their runs, and other candidates of the service."""
        runs = [
            {
                "id": run["id"],
                "source": run["source"],
                "state": f"{run['state']}: {run['stopped_by']}" if run["stopped_by"] else run["state"],
                "started": _format_moment(run["started"]),
                "rows": format_count(run["rows"]),
                "users": ", ".join(f"{arm} {count}" for arm, count in run["users"].items()) or "–",
            }
            for run in self.figures.get("runs", ())
        ]
        candidates = [
            {
                "release": candidate["release"],
                "word": VERDICT_WORDS[VerdictWord(candidate["verdict"])],
                "status": {"go": "pass", "no_go": "fail"}.get(candidate["verdict"], "inconclusive"),
                "judged": _format_moment(candidate["judged_at"]),
            }
            for candidate in self.figures.get("candidates", ())
        ]
        units = any(arm.units for arm in self.evidence.arms)
        return {"arms": self.evidence.arms, "units": units, "runs": runs, "candidates": candidates}

    def _method(self) -> dict[str, Any]:
        """How it was judged, and the command that judges it again."""
        verdict, window, runs = self.verdict, self.evidence.window, self.figures.get("runs", ())
        has_window = window.start and window.end
        span = f"{_format_moment(window.start)} to {_format_moment(window.end)}" if has_window else "–"
        level = f"{format_number(verdict.alpha * 100)} %"
        monitoring = {"fixed": "one look at the end", "group_sequential": "at planned looks"}
        chosen = ["--run", runs[0]["id"]] if len(runs) == 1 else []
        return {
            "method": [
                ("window", span),
                ("judge", verdict.judge),
                ("false alarms", f"{level} over all gates together (alpha)"),
                ("monitoring", f"{monitoring.get(verdict.monitoring, 'at any time')} ({verdict.monitoring})"),
                ("intervals", f"{format_number((1 - 2 * verdict.alpha) * 100)} %"),
                ("policy", f"{verdict.policy_path} {verdict.policy_hash}".strip() or "–"),
                ("data", verdict.data_hash or "–"),
                ("evaluator", verdict.evaluator_version or "–"),
            ],
            "command": command_of(verdict, *chosen),
            "queries": verdict.queries,
            "policy": _to_yaml(verdict.policy) if verdict.policy else "{}",
            "version": verdict.evaluator_version,
        }


def _draw_swatch(color: str, *, dashed: bool) -> Markup:
    """The line and mark of an arm, for the legend."""
    dash = ' stroke-dasharray="5 3"' if dashed else ""
    mark = (
        f'<rect x="13" y="2" width="8" height="8" fill="{color}"/>'
        if dashed
        else f'<circle cx="17" cy="6" r="4.5" fill="{color}"/>'
    )
    line = f'<line x1="0" x2="34" y1="6" y2="6" stroke="{color}" stroke-width="2"{dash}/>'
    return Markup(f'<svg viewBox="0 0 34 12" aria-hidden="true">{line}{mark}</svg>')  # noqa: S704 our own colours

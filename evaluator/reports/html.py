"""The report: one HTML file that needs no network, runs no script, and can be read on a phone, printed and passed on.

Figures are SVG, drawn beforehand: a page of a CI system that forbids scripts shows them as well, and they print. All
text goes through the template's escaping; what is drawn is written by an XML writer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from evaluator.errors import InputError
from evaluator.extensions import needs
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
    pick_decisive,
    to_svg,
)
from evaluator.figures.base import NARROW, WIDE
from evaluator.records import Comparison, MetricStatus, Verdict
from evaluator.reports.base import (
    STATUS_MARKS,
    VERDICT_WORDS,
    Page,
    command_of,
    format_allowed,
    format_both,
    format_effect,
    is_watched,
    list_what_is_not_judged,
    plain_text,
)
from evaluator.reports.html_parts import (
    draw_swatch,
    put_worst_first,
    show_candidate,
    show_finding,
    show_moment,
    show_query,
    show_run,
    to_csv,
)
from evaluator.wording import format_count, format_duration, format_number, name_comparison

__all__ = ["render", "to_html"]

HALF = 516
"""Width (px) of a figure in one of two columns."""
LONGEST = 300
"""Characters of a name or text that are shown; the JSON has the whole of it."""
MOST_ENDPOINTS = 12
MOST_ROWS = 500
NO_FIGURES = (
    "This report was made without the numbers behind figures over time, by quantile and by instance; "
    "`evaluator verdict --format html=PATH` makes one with them, and `--figures` adds them to the JSON."
)


def render(verdict: Verdict, page: Page) -> str:
    """Write the report, for whatever page. Raises UsageError where a package that draws is not installed."""
    del page
    with needs("the HTML report needs", "plots"):
        return to_html(verdict)


def to_html(verdict: Verdict) -> str:
    """Write the report. Without `verdict.figures` it has tables and the metrics' figure only, and says so."""
    environment = Environment(
        autoescape=True, trim_blocks=True, undefined=StrictUndefined, finalize=_finalize, keep_trailing_newline=False
    )
    environment.filters["coded"] = _with_code
    folder = files("evaluator.reports") / "templates"
    template = environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))
    css = (folder / "report.css").read_text(encoding="utf-8") + _dark_figures()
    return template.render(css=Markup(css), **_gather(verdict))  # noqa: S704 our own file and colours


def _gather(verdict: Verdict) -> dict[str, Any]:
    """What the template needs. Raises InputError where figures that were read from a file are not as they are written.

    The verdict itself is checked where it is read; its figures are no part of the contract, and are not.
    """
    if verdict.figures is None:
        return _Page(verdict).context()
    try:
        return _Page(verdict).context()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the figures of the verdict on {verdict.release.id} cannot be drawn: {error!r}",
            hint="make the JSON again with --figures, or leave its key `figures` out",
        ) from error


def _finalize(value: Any) -> Any:
    """Show what would move the cursor or turn the line round, and cut what nobody could read."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return cut_text(value)


def cut_text(text: str, most: int = LONGEST) -> str:
    """Text as it may be shown, by line; policies and queries keep their lines."""
    if len(text) > most and "\n" not in text:
        text = text[: most - 1] + "…"
    return "\n".join(plain_text(line) for line in text.split("\n"))


def _with_code(text: str) -> Markup:
    """A sentence in which what stands between backticks is code."""
    parts = [escape(cut_text(part)) for part in text.split("`")]
    if len(parts) % 2 == 0:
        return escape(cut_text(text))
    return Markup("").join(Markup("<code>{}</code>").format(part) if k % 2 else part for k, part in enumerate(parts))


def _dark_figures() -> str:
    """Colours of figures on a dark page."""
    rules = "".join(
        f'svg [{kind}="{light}"]{{{kind}:{dark}}}' for light, dark in PALETTE.items() for kind in ("fill", "stroke")
    )
    return f"@media screen and (prefers-color-scheme: dark) {{{rules}}}"


class _Page:
    """What the template needs, gathered from one verdict."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict, self.evidence = verdict, verdict.evidence
        self.figures: Mapping[str, Any] = verdict.figures or {}
        self.rows = list(verdict.evidence.comparisons)
        self.metrics = [row for row in self.rows if not row.scan]
        self.endpoints = [row for row in self.rows if row.scan]
        arms = [arm.name for arm in verdict.evidence.arms] or [row.arm for row in self.rows]
        self.colors = color_arms([*arms, *(row.arm for row in self.rows)])
        self.several = len({row.arm for row in self.rows}) > 1
        self.drawn = 0

    def context(self) -> dict[str, Any]:
        """All that the template fills in."""
        strips = self._strips()
        panels, shapes = self._panels(), self._shapes()
        parts: dict[str, Any] = {
            "forest": self._forest(self.metrics),
            "panels": panels,
            "shapes": shapes,
            "strips": strips,
            "endpoint_forest": self._forest(self.endpoints, most=MOST_ENDPOINTS),
            "no_figures": "" if self.figures else NO_FIGURES,
            "panels_note": self._note_panels() if panels else "",
            "timeline_note": self._note_shaded() if strips else "",
        }
        anchored = {panel["key"]: panel["anchor"] for panel in panels}
        return {
            **self._banner(),
            **parts,
            **self._history(),
            **self._method(),
            "sections": self._sections(parts),
            "several": self.several,
            "legend": self._legend(),
            "metrics": [self._row(row, anchored.get(_key(row), "")) for row in self.metrics],
            "endpoints": [self._row(row) for row in self._ranked_endpoints()[:MOST_ROWS]],
            "endpoint_summary": self._sum_up_endpoints(),
            "health": [show_finding(finding) for finding in put_worst_first(self.evidence.findings)],
        }

    # -------------------------------------------------------------- the answer

    def _banner(self) -> dict[str, Any]:
        verdict = self.verdict
        against = ", ".join(
            f"{one.name} {one.baseline}" if len(verdict.release.services) > 1 else one.baseline
            for one in verdict.release.services
            if one.baseline
        )
        return {
            "word": VERDICT_WORDS[verdict.word],
            "kind": verdict.word.value,
            "release": verdict.release.id,
            "against": against,
            "stamps": self._stamps(),
            "reasons": [reason.text for reason in verdict.reasons],
            "next_action": verdict.next_action,
            "facts": [(name, value) for name, value in self._facts() if value],
        }

    def _stamps(self) -> list[dict[str, Any]]:
        verdict = self.verdict
        out: list[dict[str, Any]] = []
        if verdict.override is not None:
            said = ", ".join(f"{key} {value}" for key, value in verdict.override.items())
            out.append({"loud": True, "text": f"Overridden: {said}"})
        if verdict.mode == "shadow":
            out.append({"loud": False, "text": "Shadow mode: this verdict is stored and blocks nothing"})
        out += [{"loud": False, "text": text[0].upper() + text[1:]} for text in list_what_is_not_judged(verdict)]
        if verdict.evidence.incomplete:
            out.append({"loud": False, "text": "Incomplete: a run ended before its time"})
        return out

    def _facts(self) -> list[tuple[str, str]]:
        verdict, evidence = self.verdict, self.evidence
        requests = " + ".join(format_count(arm.requests) for arm in evidence.arms if arm.requests)
        units = " + ".join(format_count(arm.units) for arm in evidence.arms if arm.units)
        instances = " + ".join(str(arm.instances) for arm in evidence.arms if arm.instances)
        decided = verdict.time_to_decision_s
        return [
            ("judged", show_moment(verdict.judged_at)),
            ("load", format_duration(evidence.window.seconds) if evidence.window.seconds else ""),
            ("requests", requests),
            ("instances", instances),
            ("units", units),
            ("decided after", format_duration(decided) if decided else ""),
        ]

    def _sections(self, parts: Mapping[str, Any]) -> list[tuple[str, str]]:
        names = [
            ("metrics", "Metrics", True),
            ("distribution", "Distribution", parts["shapes"]),
            ("panels", "Metric by metric", parts["panels"]),
            ("timeline", "Timeline", parts["strips"]),
            ("endpoints", "Endpoints", self.endpoints),
            ("health", "Fairness", True),
            ("history", "Runs", True),
            ("method", "How it was judged", True),
        ]
        return [(anchor, name) for anchor, name, there in names if there]

    # -------------------------------------------------------------- figures

    def _show(self, figure: Figure, narrow: Figure | None = None, note: str = "") -> dict[str, Any]:
        """A figure as the template shows it."""
        self.drawn += 1
        name = f"figure-{self.drawn}"
        return {
            "name": name,
            "title": figure.title,
            "note": note,
            "head": figure.head,
            "rows": figure.rows,
            "csv": Markup(to_csv(figure)),  # noqa: S704 base64
            "svg": Markup(to_svg(figure, name)),  # noqa: S704 written by an XML writer
            "narrow": Markup(to_svg(narrow, f"{name}n")) if narrow else "",  # noqa: S704 as above
        }

    def _forest(self, rows: Sequence[Comparison], most: int | None = None) -> dict[str, Any] | None:
        chosen = pick_decisive(self.rows) if most is None else self._ranked_endpoints()[:most]
        wide = draw_forest(chosen, colors=self.colors, width=WIDE, several=self.several)
        narrow = draw_forest(chosen, colors=self.colors, several=self.several)
        if wide is None:
            return None
        note = "The band is what is allowed; an interval that crosses its dashed edge is not known yet."
        if most is not None and len(rows) > most:
            note = f"The {most} furthest beyond what is allowed, of {len(rows)}. {note}"
        return self._show(wide, narrow, note)

    def _legend(self) -> list[dict[str, Any]]:
        used = {arm.name for arm in self.evidence.arms} | {row.arm for row in self.rows}
        return [
            {"name": arm, "swatch": draw_swatch(color, dashed=place == 0)}
            for place, (arm, color) in enumerate(self.colors.items())
            if arm in used
        ]

    def _panels(self) -> list[dict[str, Any]]:
        """What is known of each gate and hold by itself."""
        rows = {_key(row): row for row in self.metrics}
        out: list[dict[str, Any]] = []
        for one in self.figures.get("metrics", ()):
            row = rows.get((one["name"], one["arm"], one["endpoint"]))
            if row is None or row.effect is None:
                continue
            figures = self._draw_metric(row, one)
            if figures:
                drawn = one["over_time"] is not None
                out.append(self._panel(row, figures, f"metric-{len(out) + 1}", drawn=drawn))
        return out

    def _draw_metric(self, row: Comparison, traced: Mapping[str, Any]) -> list[dict[str, Any]]:
        figures = []
        if traced["over_time"]:
            figures.append(self._show(draw_over_time(row, traced["over_time"], color=self.colors[row.arm])))
        if traced["units"]:
            hidden = traced["units"]["hidden"]
            note = f"{hidden} less busy ones are not shown." if hidden else ""
            figures.append(self._show(draw_units(row, traced["units"], colors=self.colors), note=note))
        return figures

    def _panel(self, row: Comparison, figures: list[dict[str, Any]], anchor: str, *, drawn: bool) -> dict[str, Any]:
        name = f"{name_comparison(row)}, {row.arm}" if self.several else name_comparison(row)
        return {
            "key": _key(row),
            "anchor": anchor,
            "name": name,
            "mark": STATUS_MARKS[row.status],
            "status": row.status.value,
            "figures": figures,
            "facts": [(what, value) for what, value in self._explain(row, drawn=drawn) if value],
        }

    def _explain(self, row: Comparison, *, drawn: bool) -> list[tuple[str, str]]:
        """Definition, n, method and what could have been seen."""
        relative = row.effect is None or row.effect.kind == "relative"
        found, factor = row.detectable_effect, 100.0 if relative or row.unit == "fraction" else 1.0
        unit = "%" if relative else "pp" if row.unit == "fraction" else row.unit
        adjusted = row.p_value_adjusted
        return [
            ("finding", "" if drawn else row.reason),
            ("type", row.rule.type),
            ("endpoint", row.rule.slice.endpoint or "all"),
            ("allowed", format_allowed(row)),
            ("n", f"{format_count(row.baseline.n)} + {format_count(row.candidate.n)}"),
            ("replication", f"{row.instances[0]} + {row.instances[1]} instances or runs"),
            ("method", row.method),
            ("p-value of “worse than allowed”", "" if row.p_value is None else format_number(row.p_value)),
            ("… over all gates", "" if adjusted is None else format_number(min(adjusted, 1.0))),
            ("would be found with 80 % power", "" if found is None else f"{format_number(found * factor)} {unit}"),
        ]

    def _shapes(self) -> list[dict[str, Any]]:
        """Change by quantile and both distributions, of each candidate."""
        found: dict[str, list[dict[str, Any]]] = {}
        for curve in self.figures.get("quantiles", ()):
            note = "Each interval by itself. All requests; failures count as infinitely slow."
            wide, narrow = (draw_shift(curve, color=self.colors[curve["arm"]], width=w) for w in (HALF, NARROW))
            found.setdefault(curve["arm"], []).append(self._show(wide, narrow, note))
        for curve in self.figures.get("distributions", ()):
            wide, narrow = (draw_distribution(curve, color=self.colors[curve["arm"]], width=w) for w in (HALF, NARROW))
            found.setdefault(curve["arm"], []).append(self._show(wide, narrow))
        return [{"arm": arm, "figures": figures} for arm, figures in found.items()]

    def _strips(self) -> list[dict[str, Any]]:
        timeline = self.figures.get("timeline")
        if not timeline:
            return []
        readings = self.figures.get("readings", ())
        wide, narrow = draw_timeline(timeline, readings, width=WIDE), draw_timeline(timeline, readings)
        return [self._show(one, other) for one, other in zip(wide, narrow, strict=True)]

    def _note_panels(self) -> str:
        """How to read the bands and the dots."""
        traced = self.figures["metrics"]
        kinds = {one["over_time"]["kind"] for one in traced if one["over_time"]}
        once = "The runs were judged once, at the end: what the band shows before decides nothing."
        often = (
            "The end of each band towards “worse” may be looked at every time; the other end counts at the last look."
        )
        band = f"{once if kinds == {'fixed'} else often} " if kinds else ""
        unit = next((one["units"]["of"] for one in traced if one["units"]), "instance")
        return f"{band}Each dot is one {unit} as it was, whatever mix of endpoints it served."

    def _note_shaded(self) -> str:
        shaded = self.figures["timeline"]["shaded"]
        kinds = list(dict.fromkeys(one["what"] for one in shaded))
        slot = format_duration(self.figures["timeline"]["slot_s"])
        said = f" Shaded: {', '.join(kinds)}." if kinds else ""
        return f"Each point is {slot} of load.{said}"

    # -------------------------------------------------------------- tables

    def _row(self, row: Comparison, anchor: str = "") -> dict[str, Any]:
        watched = is_watched(row) and not row.no_data
        baseline, candidate = format_both(row)
        return {
            "anchor": anchor,
            "name": name_comparison(row),
            "arm": row.arm,
            "role": "scan" if row.scan else row.rule.role.value,
            "status": "watch" if watched else row.status.value,
            "mark": "· watched" if watched else STATUS_MARKS[row.status],
            "baseline": baseline,
            "candidate": candidate,
            "change": format_effect(row),
            "allowed": format_allowed(row),
            "n": f"{format_count(row.baseline.n)} + {format_count(row.candidate.n)}",
            "why": row.no_data or (row.reason if row.status is MetricStatus.NO_DATA else ""),
        }

    def _ranked_endpoints(self) -> list[Comparison]:
        from evaluator.figures import rank_by_margin

        ranked = rank_by_margin(self.endpoints)
        return [*ranked, *(row for row in self.endpoints if row not in ranked)]

    def _sum_up_endpoints(self) -> str:
        names = {row.rule.slice.endpoint for row in self.endpoints}
        return f"All {len(self.endpoints)} comparisons of {len(names)} endpoints, furthest beyond first"

    # -------------------------------------------------------------- runs and method

    def _history(self) -> dict[str, Any]:
        return {
            "arms": [
                {
                    "name": arm.name,
                    "requests": format_count(arm.requests),
                    "instances": arm.instances,
                    "runs": arm.runs,
                    "units": format_count(arm.units),
                }
                for arm in self.evidence.arms
            ],
            "units": any(arm.units for arm in self.evidence.arms),
            "runs": [show_run(run) for run in self.figures.get("runs", ())],
            "candidates": [show_candidate(one) for one in self.figures.get("candidates", ())],
        }

    def _method(self) -> dict[str, Any]:
        verdict, window = self.verdict, self.evidence.window
        span = f"{show_moment(window.start)} to {show_moment(window.end)}" if window.start and window.end else "–"
        level = f"{format_number(verdict.alpha * 100)} %"
        monitoring = {"fixed": "one look at the end", "group_sequential": "at the looks of a calendar"}
        policy = yaml.safe_dump(dict(verdict.policy), sort_keys=False, allow_unicode=True) if verdict.policy else "{}"
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
            "command": self._command(),
            "queries": [show_query(query) for query in verdict.queries],
            "policy": policy,
            "version": verdict.evaluator_version,
        }

    def _command(self) -> str:
        runs = self.figures.get("runs", ())
        chosen = ["--run", runs[0]["id"]] if len(runs) == 1 else []
        return command_of(self.verdict, *chosen)


def _key(row: Comparison) -> tuple[str, str, str | None]:
    return row.rule.name, row.arm, row.rule.slice.endpoint

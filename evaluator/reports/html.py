"""The report: one HTML file that needs no network, runs no script, and can be read on a phone, printed and passed on.

Figures are SVG, drawn beforehand: a page of a CI system that forbids scripts shows them as well, and they print. All
text goes through the template's escaping; what is drawn is written by an XML writer.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from evaluator.errors import InputError
from evaluator.extensions import explain_missing_package
from evaluator.figures import (
    PALETTE,
    Figure,
    color_judged_arms,
    count_results,
    draw_distribution,
    draw_forest,
    draw_over_time,
    draw_shift,
    draw_timeline,
    draw_units,
    draw_windows,
    explain_timeline,
    pick_decisive,
    rank_by_margin,
    to_svg,
)
from evaluator.figures.base import NARROW, WIDE, choose_effect_scale, is_drawn, name_row
from evaluator.records import BASELINE, Comparison, EvidenceKind, MetricStatus, Verdict
from evaluator.reports.base import (
    STATUS_MARKS,
    VERDICT_WORDS,
    Page,
    count_both,
    escape_formula,
    fold_findings,
    format_allowed,
    is_watched,
    list_restrictions,
    name_opponents,
    put_worst_first,
    write_verdict_command,
)
from evaluator.reports.failures import HEAD as FAILURE_HEAD
from evaluator.reports.failures import describe_kinds, list_failure_rows
from evaluator.reports.faults import NOTHING_SHOWN, list_parts
from evaluator.reports.history import describe_arms, describe_candidates, describe_runs, list_happenings
from evaluator.reports.iterations import describe_iteration
from evaluator.reports.summary import summarise
from evaluator.reports.templating import format_moment, identify, make_environment, read_template, to_yaml
from evaluator.wording import USERS, count_of, format_count, format_duration, format_number

HALF = 516
"""Width (px) of a figure in one of two columns."""
MAX_DRAWN_ENDPOINTS = 12
_TABLE_ORDER = (MetricStatus.FAIL, MetricStatus.INCONCLUSIVE, MetricStatus.NO_DATA, MetricStatus.PASS)
GEOMETRIC_MEAN = (
    "The geometric mean of the response times rises when all requests of an endpoint become slower, and hardly when a "
    "few do."
)
MAX_ENDPOINT_ROWS = 500
NO_FIGURES = (
    "This report was made without the numbers behind figures over time, by quantile and by instance; "
    "`evaluator verdict --format html=PATH` makes one with them, and `--figures` adds them to the JSON."
)


def render(verdict: Verdict, page: Page) -> str:
    """Return the report as HTML. `page` is part of the interface of all formats and is not used here.

    Raises UsageError if a package that draws is not installed.
    """
    del page
    with explain_missing_package("the HTML report needs", "plots"):
        return to_html(verdict)


def to_html(verdict: Verdict) -> str:
    """Return the report as HTML. Without `verdict.figures` it has only tables, figures of the changes, and a note.

    Raises InputError if the data of the figures have an unexpected form. They may come from a file: reading a verdict
    checks all but its figures, which are not part of its schema.
    """
    template = make_environment().from_string(read_template("report.html.j2"))
    # On a dark page, each colour of a figure is replaced by its counterpart: svg [fill="#26323f"]{fill:#e6eaee}
    dark_rules = "".join(
        f'svg [{attribute}="{light}"]{{{attribute}:{dark}}}'
        for light, dark in PALETTE.items()
        for attribute in ("fill", "stroke")
    )
    css = read_template("report.css")
    css += f"@media screen and (prefers-color-scheme: dark) {{{dark_rules}}}"
    try:
        context = _Report(verdict).build_context()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if verdict.figures is None:
            raise  # a bug, since there are no figures that could be at fault
        raise InputError(
            f"the figures of the verdict on {verdict.release.id} cannot be drawn: {error!r}",
            hint="make the JSON again with --figures, or leave its key `figures` out",
        ) from error
    return template.render(css=Markup(css), **context)  # noqa: S704 our own file and colours


class _Report:
    """The variables of the template, gathered from one verdict."""

    def __init__(self, verdict: Verdict) -> None:
        """Sort the comparisons (`rows`) of the verdict into metrics and endpoints; choose the colours of the arms.

        Endpoints are the rows of the scan, which compares each endpoint by itself.
        """
        self.verdict, self.evidence = verdict, verdict.evidence
        self.figure_data: Mapping[str, Any] = verdict.figures or {}
        self.rows = list(verdict.evidence.comparisons)
        self.metric_rows = [row for row in self.rows if not row.scan]
        # The ranking leaves out endpoints that cannot be drawn: they come last in the table.
        ranked = rank_by_margin([row for row in self.rows if row.scan])
        self.endpoint_rows = [*ranked, *(row for row in self.rows if row.scan and row not in ranked)]
        self.colors = color_judged_arms(verdict.evidence)
        self.has_several_candidates = len({row.arm for row in self.rows}) > 1
        self.arm_labels = _label_arms(verdict)
        self.figure_count = 0  # of those drawn so far: it numbers them, for names that are unique on the page

    def build_context(self) -> dict[str, Any]:
        """Build the values of all variables of the template."""
        timeline = self.figure_data.get("timeline")
        # In this order, because figures are numbered as they are drawn.
        strips, panels, shapes = self._draw_strips(), self._draw_panels(), self._draw_shapes()
        life = list_happenings(self.figure_data)
        failures, more_failures = list_failure_rows(self.verdict)
        # Anchor, heading, and whether the report has the section.
        sections = [
            ("metrics", "Metrics", True),
            ("distribution", "Distribution", bool(shapes)),
            ("panels", "Metric by metric", bool(panels)),
            ("timeline", "Timeline", bool(strips)),
            ("endpoints", "Endpoints", bool(self.endpoint_rows)),
            ("failures", "Failures", bool(failures)),
            ("health", "Fairness", True),
            ("life", "What happened", life["known"]),
            ("history", "Runs", True),
            ("method", "How it was judged", True),
        ]
        shown_arms = {arm.name for arm in self.evidence.arms} | {row.arm for row in self.rows}
        return {
            **self._describe_answer({anchor for anchor, _, is_present in sections if is_present}),
            "forest": self._draw_changes(pick_decisive(self.rows), self._write_finding()),
            "panels": panels,
            "shapes": shapes,
            "strips": strips,
            "endpoint_forest": self._draw_changes(
                self.endpoint_rows,
                count_results(self.endpoint_rows, "compared", with_arms=self.has_several_candidates),
                MAX_DRAWN_ENDPOINTS,
            ),
            "panels_note": self._explain_panels() if panels else "",
            "timeline_note": explain_timeline(timeline) if timeline and strips else "",
            "runs": describe_runs(self.figure_data),
            "candidates": describe_candidates(self.figure_data),
            "life": life,
            **self._list_tables(),
            **self._describe_method(),
            "sections": [(anchor, heading) for anchor, heading, is_present in sections if is_present],
            "several": self.has_several_candidates,
            "legend": [
                {"name": self.arm_labels.get(arm, arm), "swatch": _draw_swatch(color, is_baseline=arm == BASELINE)}
                for arm, color in self.colors.items()
                if arm in shown_arms
            ],
            "anchors": {panel["key"]: panel["anchor"] for panel in panels},
            "kinds": {identify(row): describe_kinds(row, self.verdict.failures) for row in self.rows},
            "failure_head": FAILURE_HEAD,
            "failures": failures,
            "more_failures": more_failures,
            "findings": put_worst_first(fold_findings(self.evidence.findings)),
        }

    def _link_faults(self, present: Collection[str]) -> list[list[tuple[str, str]]]:
        """List the sentences on faults, each as its parts: a text, and the anchor that shows it (empty: none).

        `present`: anchors of the sections that the report has.
        """
        if self.verdict.faults == ():
            return [[(NOTHING_SHOWN.removesuffix("."), "")]]
        anchors = {"endpoint": "endpoints", "instance": "panels", "onset": "timeline", "kinds": "failures"}
        return [
            [
                (part.text, anchor if (anchor := anchors.get(part.about, "")) in present else "")
                for part in list_parts(fault)
            ]
            for fault in self.verdict.faults or ()
        ]

    def _describe_answer(self, present: Collection[str]) -> dict[str, Any]:
        """Build the variables of the head: the answer, its reasons and restrictions, and how much data it rests on.

        `present`: anchors of the sections that the report has.
        """
        verdict, evidence, restrictions = self.verdict, self.evidence, list_restrictions(self.verdict)
        decided_after_s = verdict.time_to_decision_s
        live = [arm.production for arm in evidence.arms if arm.production]  # next to those of a load
        facts = [
            ("judged", format_moment(verdict.judged_at)),
            (
                "production" if evidence.is_production_alone else "load",
                format_duration(evidence.window.seconds) if evidence.window.seconds else "",
            ),
            ("requests", " + ".join(format_count(arm.requests) for arm in evidence.arms if arm.requests)),
            ("instances", " + ".join(str(arm.instances) for arm in evidence.arms if arm.instances)),
            ("production", format_duration(evidence.production.seconds) if live else ""),
            ("production requests", " + ".join(format_count(arm.requests) for arm in live)),
            ("production instances", " + ".join(str(arm.instances) for arm in live)),
            (USERS, " + ".join(format_count(arm.units) for arm in evidence.arms if arm.units)),
            ("decided after", format_duration(decided_after_s) if decided_after_s else ""),
        ]
        return {
            "word": VERDICT_WORDS[verdict.word],
            "kind": verdict.word.value,
            "release": verdict.release.id,
            "against": name_opponents(verdict),
            "stamps": [
                {"loud": kind == "override", "text": text[0].upper() + text[1:]}
                for kind in ("override", "shadow", "part", "incomplete")
                for text in restrictions[kind]
            ],
            "short": summarise(verdict),
            "reasons": [reason.text for reason in verdict.reasons],
            "faults": self._link_faults(present),
            "iteration": describe_iteration(verdict.iteration),
            "next_action": verdict.next_action,
            "facts": [(name, value) for name, value in facts if value],
        }

    # -------------------------------------------------------------- figures

    def _embed(self, figure: Figure, narrow: Figure | None = None, note: str = "") -> dict[str, Any]:
        """Turn a figure into what the template shows: its SVG, its numbers as a table and as CSV, a name, and a note.

        `narrow` is the same figure for narrow screens; `None`: `figure` itself fits them.
        """
        self.figure_count += 1
        name, csv_file = f"figure-{self.figure_count}", io.StringIO()
        table = (figure.head, *figure.rows)
        csv.writer(csv_file).writerows([escape_formula(cell) for cell in row] for row in table)
        return {
            "name": name,
            "title": figure.title,
            "note": note,
            "head": figure.head,
            "rows": figure.rows,
            "csv": Markup(base64.b64encode(csv_file.getvalue().encode()).decode()),  # noqa: S704 base64
            "svg": Markup(to_svg(figure, name)),  # noqa: S704 written by an XML writer
            "narrow": Markup(to_svg(narrow, f"{name}n")) if narrow else "",  # noqa: S704 as above
        }

    def _write_finding(self) -> str:
        """Say how many metrics, and how many comparisons of endpoints, are worse than allowed or not known yet."""
        with_arms = self.has_several_candidates
        finding = count_results([row for row in self.metric_rows if row.must_be_within], "metrics", with_arms=with_arms)
        failing_endpoints = [row for row in self.endpoint_rows if row.status is MetricStatus.FAIL]
        if not failing_endpoints:
            return finding
        of_endpoints = count_results(self.endpoint_rows, "comparisons of endpoints", with_arms=with_arms)
        return f"{of_endpoints.partition('; ')[0]}; {finding}"

    def _list_tables(self) -> dict[str, Any]:
        """Build the variables of the tables of metrics, endpoints and arms."""
        decisive = pick_decisive(self.rows)
        listed = [*self.metric_rows, *(row for row in decisive if row.scan)]
        # As in the figure; rows that it cannot show follow in the order of the policy.
        places = {id(row): place for place, row in reversed(list(enumerate([*rank_by_margin(decisive), *listed])))}
        listed.sort(key=lambda row: (is_watched(row), _TABLE_ORDER.index(row.status), places[id(row)]))
        failing = sum(row.status is MetricStatus.FAIL for row in self.endpoint_rows)
        shown_failing = sum(row.scan for row in listed)
        notes = [NO_FIGURES] if not self.figure_data else []
        if failing > shown_failing:
            notes.append(f"{failing - shown_failing} more endpoints are worse than allowed: see Endpoints.")
        endpoint_names = {row.rule.slice.endpoint for row in self.endpoint_rows}
        total, names = format_count(len(self.endpoint_rows)), count_of(len(endpoint_names), "endpoint")
        summary = f"All {total} comparisons of {names}, worst first"
        if len(self.endpoint_rows) > MAX_ENDPOINT_ROWS:
            summary = f"The worst {MAX_ENDPOINT_ROWS} of {total} comparisons of {names}"
        endpoints = self.endpoint_rows[:MAX_ENDPOINT_ROWS]
        has_mean = any(row.rule.metric.is_geometric_mean for row in endpoints)
        arm_columns, arms = describe_arms(self.evidence.arms)
        candidates = [arm for arm in self.arm_labels if arm != BASELINE]
        kinds = {row.kind is EvidenceKind.OUTCOMES for row in self.rows}
        return {
            "metrics": listed,
            "metric_notes": notes,
            "endpoints": endpoints,
            "endpoint_notes": [GEOMETRIC_MEAN] if has_mean else [],
            "endpoint_summary": summary,
            "passed_endpoints": sum(row.status is MetricStatus.PASS for row in endpoints),
            "arm_columns": arm_columns,
            "arms": arms,
            "heads": {
                "baseline": self.arm_labels.get(BASELINE, BASELINE),
                "candidate": self.arm_labels[candidates[0]] if len(candidates) == 1 else "candidate",
                "counted": "requests or users" if len(kinds) > 1 else USERS if kinds == {True} else "requests",
            },
        }

    def _draw_changes(
        self, rows: Sequence[Comparison], title: str, max_rows: int | None = None
    ) -> dict[str, Any] | None:
        """Draw the changes of the first `max_rows` comparisons (`None`: of all); `None` if none has a margin.

        `rows` are sorted: the furthest beyond its margin is the first. `title`: what was found in all of them.
        """
        wide, narrow = (
            draw_forest(
                rows[:max_rows], colors=self.colors, width=width, with_arms=self.has_several_candidates, title=title
            )
            for width in (WIDE, NARROW)
        )
        if wide is None:
            return None
        note = "The band is what is allowed; a metric whose interval crosses its dashed edge is not known yet."
        if max_rows is not None and len(rows) > max_rows:
            note = f"The {max_rows} worst of {format_count(len(rows))} are drawn. {note}"
        return self._embed(wide, narrow, note)

    def _draw_panels(self) -> list[dict[str, Any]]:
        """Draw the figures of each gate and hold, and list its facts; metrics without any figure are left out."""
        rows = {
            (row.rule.name, row.arm, row.rule.slice.endpoint): row
            for row in self.metric_rows
            if is_drawn(row, self.figure_data)
        }
        panels: list[dict[str, Any]] = []
        for metric_data in self.figure_data.get("metrics", ()):
            row = rows.get((metric_data["name"], metric_data["arm"], metric_data["endpoint"]))
            if row is None or row.effect is None:
                continue
            over_time, units = metric_data["over_time"], metric_data["units"]
            figures = []
            if over_time:
                figures.append(self._embed(draw_over_time(row, over_time, color=self.colors[row.arm])))
            if windows := metric_data.get("windows"):
                figures.append(self._embed(draw_windows(row, windows, color=self.colors[row.arm])))
            if units:
                note = f"{units['hidden']} with fewer requests are not shown." if units["hidden"] else ""
                figures.append(self._embed(draw_units(row, units, colors=self.colors), note=note))
            if figures:
                facts = self._list_facts(row)
                panels.append(
                    {
                        "key": identify(row),
                        "anchor": f"metric-{len(panels) + 1}",
                        "name": name_row(row, with_arm=self.has_several_candidates),
                        "mark": STATUS_MARKS[row.status],
                        "status": row.status.value,
                        "figures": figures,
                        "facts": [(name, value) for name, value in facts if value],
                    }
                )
        return panels

    def _list_facts(self, row: Comparison) -> list[tuple[str, str]]:
        """List names and values of what a comparison is based on; an empty value means that it does not apply."""
        scale, detectable, adjusted = choose_effect_scale(row), row.detectable_effect, row.p_value_adjusted
        return [
            ("finding", row.reason),
            ("type", row.rule.type),
            ("endpoint", row.rule.slice.endpoint or "all"),
            ("allowed", format_allowed(row)),
            (USERS if row.kind is EvidenceKind.OUTCOMES else "requests", count_both(row)),
            ("replication", f"{row.instances[0]} + {row.instances[1]} instances or runs"),
            ("method", row.method),
            ("p-value of “worse than allowed”", "" if row.p_value is None else format_number(row.p_value)),
            # An adjusted p-value is multiplied by the number of tests, and may exceed 1.
            ("… over all gates", "" if adjusted is None else format_number(min(adjusted, 1.0))),
            (
                "detectable with 80 % power",
                "" if detectable is None else f"{format_number(detectable * scale.factor)} {scale.unit}",
            ),
        ]

    def _draw_shapes(self) -> list[dict[str, Any]]:
        """Draw two figures for each candidate: the change by quantile, and the distributions of both arms."""
        shift_note = "Each interval is valid by itself. All requests; failures count as infinitely slow."
        kinds = (("quantiles", draw_shift, shift_note), ("distributions", draw_distribution, ""))
        figures_by_arm: dict[str, list[dict[str, Any]]] = {}
        for key, draw, note in kinds:
            for curve in self.figure_data.get(key, ()):
                arm = curve["arm"]
                wide, narrow = (draw(curve, color=self.colors[arm], width=width) for width in (HALF, NARROW))
                figures_by_arm.setdefault(arm, []).append(self._embed(wide, narrow, note))
        return [{"arm": arm, "figures": figures} for arm, figures in figures_by_arm.items()]

    def _draw_strips(self) -> list[dict[str, Any]]:
        """Draw the strips of the timeline, from top to bottom, each for wide and for narrow screens.

        Returns what the template shows of each strip; empty without data of a timeline.
        """
        timeline = self.figure_data.get("timeline")
        if not timeline:
            return []
        readings = self.figure_data.get("readings", ())
        wide_strips = draw_timeline(timeline, readings, colors=self.colors, width=WIDE)
        narrow_strips = draw_timeline(timeline, readings, colors=self.colors, width=NARROW)
        return [self._embed(wide, narrow) for wide, narrow in zip(wide_strips, narrow_strips, strict=True)]

    def _explain_panels(self) -> str:
        """Say how to read the bands of the figures over time, and the dots of the figures by instance or run."""
        metrics = self.figure_data["metrics"]
        monitoring_kinds = {metric["over_time"]["kind"] for metric in metrics if metric["over_time"]}
        judged_once = "The runs were judged once, at the end: the band before that decides nothing. "
        judged_often = (
            "The end of each band towards better values decides whether the metric is worse than its margin, at every "
            "look; the other end decides whether it is within its margin, at the last look only. "
        )
        band_note = ""
        if monitoring_kinds:
            band_note = judged_once if monitoring_kinds == {"fixed"} else judged_often
        unit = next((metric["units"]["of"] for metric in metrics if metric["units"]), "instance")
        note = self.figure_data.get("note", "")
        return f"{band_note}Each dot is one {unit}, with the mix of endpoints that it served. {note}".rstrip()

    # -------------------------------------------------------------- runs and method

    def _describe_method(self) -> dict[str, Any]:
        """Build the variables of how the release was judged, and the command that judges it again."""
        verdict, window, runs = self.verdict, self.evidence.window, self.figure_data.get("runs", ())
        has_window = window.start and window.end
        span = f"{format_moment(window.start)} to {format_moment(window.end)}" if has_window else "–"
        alpha = f"{format_number(verdict.alpha * 100)} %"
        monitoring = {"fixed": "one look at the end", "group_sequential": "at planned looks"}
        # Without the option, a later run of the release would be judged too.
        run_options = ["--run", runs[0]["id"]] if len(runs) == 1 else []
        return {
            "method": [
                ("window", span),
                ("judge", verdict.judge),
                ("false alarms", f"{alpha} over all gates together (alpha)"),
                ("monitoring", f"{monitoring.get(verdict.monitoring, 'at any time')} ({verdict.monitoring})"),
                # Tests are one-sided, so an interval leaves out alpha on each side.
                ("intervals", f"{format_number((1 - 2 * verdict.alpha) * 100)} %"),
                ("policy", f"{verdict.policy_path} {verdict.policy_hash}".strip() or "–"),
                ("data", verdict.data_hash or "–"),
                ("evaluator", verdict.evaluator_version or "–"),
            ],
            "command": write_verdict_command(verdict, *run_options),
            "queries": verdict.queries,
            "policy": to_yaml(verdict.policy) if verdict.policy else "{}",
            "version": verdict.evaluator_version,
        }


def _draw_swatch(color: str, *, is_baseline: bool) -> Markup:
    """Draw the line and mark of an arm for the legend: dashed with a square for the baseline, else with a circle."""
    dash = ' stroke-dasharray="5 3"' if is_baseline else ""
    square = f'<rect x="13" y="2" width="8" height="8" fill="{color}"/>'
    circle = f'<circle cx="17" cy="6" r="4.5" fill="{color}"/>'
    mark = square if is_baseline else circle
    line = f'<line x1="0" x2="34" y1="6" y2="6" stroke="{color}" stroke-width="2"{dash}/>'
    return Markup(f'<svg viewBox="0 0 34 12" aria-hidden="true">{line}{mark}</svg>')  # noqa: S704 our own colours


def _label_arms(verdict: Verdict) -> dict[str, str]:
    """Label each arm with the version that it had, if one service and one candidate were compared."""
    arms = list(dict.fromkeys([*(arm.name for arm in verdict.evidence.arms), *_list_candidates(verdict)]))
    labels = {arm: arm for arm in arms}
    if len(verdict.release.services) == 1 and len(arms) == 2 and BASELINE in labels:
        service = verdict.release.services[0]
        versions = (service.baseline if arm == BASELINE else service.canary for arm in arms)
        labels = {arm: f"{arm} {version}" if version else arm for arm, version in zip(arms, versions, strict=True)}
    return labels


def _list_candidates(verdict: Verdict) -> list[str]:
    """List the candidates that were compared."""
    return [row.arm for row in verdict.evidence.comparisons]

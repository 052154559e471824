"""The notebook's objects: a store that holds nothing, its releases, and judgements that show themselves.

    import evaluator

    store = evaluator.open("evaluator.duckdb")
    release = store.release("cart@1.5.0")
    release.compare()                                        # the policy's metrics, on the newest load
    release.compare(metrics=[{"name": "p90", "type": "latency_quantile", "quantile": 0.9, "margin": "5%"}])
    release.compare(endpoints=["POST /orders"], start=noon)  # a part of it
    release.sql("SELECT instance, count(*) FROM requests GROUP BY ALL")

Every call reads what it needs and lets go of the file: a notebook left open over night keeps nobody from writing.
"""

from __future__ import annotations

import html
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluator.errors import UnknownName
from evaluator.pipeline.judging import choose_runs, judge_runs
from evaluator.policy import Policy, find_policy, load_policy, parse_policy
from evaluator.records import Cells, Comparison, Run, Service, Verdict
from evaluator.reports import VERDICT_WORDS, to_human, to_json
from evaluator.reports.base import STATUS_MARKS, format_allowed, format_both, format_effect
from evaluator.stats.narrow import narrow
from evaluator.store import Relation, Store
from evaluator.wording import name_comparison

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Judgement", "Release", "Snapshot", "open"]

WIDTH = 110
"""Columns of a judgement that is printed."""


def open(path: str | Path = "evaluator.duckdb") -> Snapshot:  # noqa: A001 - `evaluator.open` is how it is meant to read
    """Open the store at `path` for reading. Raises StoreError where there is none."""
    return Snapshot(Store.open(Path(path)))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A store to read. Nothing is held: each call opens the file for as long as it needs."""

    store: Store = field(repr=False)

    @property
    def releases(self) -> tuple[str, ...]:
        """Names of the releases, the newest first."""
        return tuple(summary.release.id for summary in self.store.releases())

    def release(self, name: str) -> Release:
        """Look at one release. Raises UnknownName."""
        return Release(self.store, self.store.release(name).id)

    def sql(self, query: str, parameters: Sequence[object] = ()) -> Relation:
        """Query a copy of the store as a DuckDB relation: its tables, the views `requests` and `readings`.

        Raises UsageError for bad SQL.
        """
        return self.store.relate(query, parameters)

    def results(self) -> pd.DataFrame:
        """All metrics of all stored verdicts, a row each, as a data frame for analyses over releases."""
        rows = [
            {"judged_at": stored.judged_at, "verdict": stored.word, **row}
            for name in self.releases
            for stored in self.store.verdicts(name)
            for row in _flatten(json.loads(stored.json))
        ]
        return _frame(rows)

    def __iter__(self) -> Iterator[Release]:
        return (self.release(name) for name in self.releases)

    def __repr__(self) -> str:
        return f"<store {self.store.path} of {len(self.releases)} releases>"


@dataclass(frozen=True, slots=True)
class Release:
    """One release: its runs, its verdicts, and whatever else is asked of it."""

    store: Store = field(repr=False)
    name: str

    @property
    def services(self) -> tuple[Service, ...]:
        """Its services with their versions."""
        return self.store.release(self.name).services

    @property
    def runs(self) -> tuple[Run, ...]:
        """Its runs in the order in which they were begun."""
        return self.store.runs(self.name)

    def cells(self, runs: str = "latest") -> Cells:
        """The additive summary of its requests that everything is computed from."""
        return self.store.read_cells([run.id for run in choose_runs(self.runs, runs)])

    def verdicts(self) -> pd.DataFrame:
        """All verdicts that were kept, a row each, the oldest first."""
        kept = self.store.verdicts(self.name)
        return _frame([{"judged_at": one.judged_at, "verdict": one.word, "json": one.json} for one in kept])

    def compare(
        self,
        metrics: Sequence[Mapping[str, Any]] | None = None,
        *,
        policy: str | Path | Mapping[str, Any] | None = None,
        runs: str = "latest",
        start: datetime | None = None,
        end: datetime | None = None,
        endpoints: Collection[str] | None = None,
        instances: Collection[str] | None = None,
        **settings: Any,
    ) -> Judgement:
        """Judge the release under a policy, or its requests in part; nothing is kept.

        `policy`: a path, or its content; by default the nearest evaluator.yaml, else the built-in one. `metrics` and
        any other key of the policy (`alpha=0.01`, `monitoring={"mode": "fixed"}`) take the place of what it says.
        `start`, `end` (whole blocks of four buckets), `endpoints` and `instances` narrow the requests that count.
        Raises PolicyError, and UnknownName for a run, endpoint or instance that is not there.
        """
        chosen = _policy(policy, {**settings, **({"metrics": [dict(one) for one in metrics]} if metrics else {})})
        cut = partial(narrow, start=start, end=end, endpoints=endpoints, instances=instances)
        verdict = judge_runs(
            self.store,
            self.store.release(self.name),
            choose_runs(self.runs, runs),
            chosen,
            judged_at=datetime.now(UTC),
            cut=cut,
        )
        return Judgement(verdict)

    def sql(self, query: str, parameters: Sequence[object] = ()) -> Relation:
        """Query a copy of the store in which `requests` and `readings` are those of this release. Raises UsageError."""
        return self.store.relate(query, parameters, release=self.name)

    def __repr__(self) -> str:
        return f"<release {self.name}: {len(self.runs)} runs>"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with its comparisons. It prints itself, here and in a notebook."""

    verdict: Verdict = field(repr=False)

    @property
    def word(self) -> str:
        """`go`, `no_go` or `inconclusive`."""
        return self.verdict.word.value

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All comparisons: the policy's metrics of every candidate, then the endpoint scan."""
        return self.verdict.evidence.comparisons

    def __getitem__(self, name: str) -> Comparison:
        """A metric of the policy by its name. Raises UnknownName."""
        found = {one.rule.name: one for one in reversed(self.comparisons) if not one.scan}
        if name not in found:
            raise UnknownName("metric", name, found)
        return found[name]

    def to_dict(self) -> dict[str, Any]:
        """The verdict as its JSON has it."""
        plain: dict[str, Any] = json.loads(to_json(self.verdict))
        return plain

    def to_pandas(self) -> pd.DataFrame:
        """A row for each comparison."""
        return _frame(list(_flatten(self.to_dict())))

    def to_arrow(self) -> pa.Table:
        """A row for each comparison."""
        import pyarrow as pa

        return pa.Table.from_pylist(list(_flatten(self.to_dict())))

    def __repr__(self) -> str:
        return to_human(self.verdict, width=WIDTH)

    def _repr_html_(self) -> str:
        head = f"<b>{VERDICT_WORDS[self.verdict.word]}</b> {html.escape(self.verdict.release.id)}"
        reasons = "".join(f"<li>{html.escape(reason.text)}</li>" for reason in self.verdict.reasons[:4])
        titles = ("metric", "arm", "baseline", "canary", "change", "margin", "status")
        top = "".join(f"<th>{title}</th>" for title in titles)
        rows = "".join(_html_row(one) for one in self.comparisons)
        return f"<p>{head}</p><ul>{reasons}</ul><table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>"


def _html_row(row: Comparison) -> str:
    status = STATUS_MARKS[row.status]
    cells = (name_comparison(row), row.arm, *format_both(row), format_effect(row), format_allowed(row), status)
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _policy(given: str | Path | Mapping[str, Any] | None, settings: Mapping[str, Any]) -> Policy:
    if isinstance(given, Mapping):
        return parse_policy({**given, **settings})
    policy = load_policy(Path(given) if given is not None else find_policy(Path.cwd()))
    return parse_policy({**policy.effective, **settings}) if settings else policy


def _flatten(verdict: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The metrics of a verdict's JSON as flat rows."""
    for metric in verdict["metrics"]:
        effect = metric["effect"] or {}
        yield {
            "release": verdict["release"],
            "metric": metric["name"],
            "type": metric["type"],
            "role": metric["role"],
            "arm": metric["arm"],
            "endpoint": (metric["slice"] or {}).get("endpoint"),
            "status": metric["status"],
            "baseline": metric["baseline"]["value"],
            "canary": metric["canary"]["value"],
            "unit": metric["unit"],
            "effect": effect.get("estimate"),
            "lower": effect.get("lower"),
            "upper": effect.get("upper"),
            "effect_kind": effect.get("kind"),
            "margin": metric["margin"],
            "p_value": metric["p_value"],
            "p_value_adjusted": metric["p_value_adjusted"],
            "detectable_effect": metric["detectable_effect"],
            "n_baseline": metric["baseline"]["n"],
            "n_canary": metric["canary"]["n"],
            "method": metric["method"],
            "reason": metric["reason"],
        }


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows))

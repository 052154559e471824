"""A verdict with its comparisons, to display, convert and plot."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evaluator.api.rows import flatten, flatten_failures, to_frame
from evaluator.errors import UnknownName
from evaluator.records import Comparison, FailureCount, Verdict
from evaluator.reports import VERDICT_WORDS, to_human, to_json
from evaluator.reports.base import STATUS_MARKS, format_allowed, format_both, format_effect
from evaluator.wording import name_comparison

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from evaluator.api.plots import Plots


WIDTH = 110
"""Width (characters) of a printed judgement."""

MOST_REASONS = 4
"""Number of reasons that a notebook displays at most."""


@dataclass(frozen=True, slots=True)
class ReleaseJudgement:
    """A verdict with its comparisons. It prints itself, here and in a notebook."""

    verdict: Verdict = field(repr=False)
    trace: Callable[[], Mapping[str, Any]] = field(repr=False, compare=False)
    """Computes the data of the figures, once, on first use."""

    @property
    def plot(self) -> Plots:
        """Its figures as Altair charts. Raises EvaluatorError where altair is not installed."""
        from evaluator.api.plots import Plots  # most judgements are only read

        return Plots(self.verdict, self.trace)

    @property
    def word(self) -> str:
        """`go`, `no_go` or `inconclusive`."""
        return self.verdict.word.value

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All comparisons: the policy's metrics of every candidate, then the endpoint scan."""
        return self.verdict.evidence.comparisons

    @property
    def failures(self) -> tuple[FailureCount, ...]:
        """Failures of each arm with their kinds: of all requests, by endpoint, by instance, and by both; bounded.

        >>> [(count.arm, count.endpoint) for count in release.compare().failures[:1]]
        [('baseline', None)]
        """
        return self.verdict.failures or ()

    def __getitem__(self, name: str) -> Comparison:
        """Return the comparison of a metric of the policy by its name; with several candidates, that of the first.

        With requests of a load and of production it is that of the load.

        Raises UnknownName.

        >>> effect = release.compare()["latency_p50"].effect
        >>> 0.1 < effect.lower < effect.estimate < effect.upper
        True
        """
        # Reversed, because a later entry replaces an earlier entry of the same name, and the first is to stay.
        by_name = {comparison.rule.name: comparison for comparison in reversed(self.comparisons) if not comparison.scan}
        if name not in by_name:
            raise UnknownName("metric", name, by_name)
        return by_name[name]

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as a dictionary with the keys of its JSON.

        >>> release.compare().to_dict()["verdict"]
        'no_go'
        """
        plain: dict[str, Any] = json.loads(to_json(self.verdict))
        return plain

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame with a row for each comparison.

        >>> frame = release.compare().to_pandas()
        >>> frame.loc[frame["status"] == "fail", "metric"].tolist()[:2]
        ['latency_p50', 'latency_p95']
        """
        return to_frame(list(flatten(self.to_dict())))

    def failures_to_pandas(self) -> pd.DataFrame:
        """Return a data frame with a row for each kind of failures (HTTP status, exception) at each place.

        A place is an arm, and of it an endpoint, an instance, or both; `None` stands for all. Failures of other kinds,
        and those whose kind was not recorded, have rows with neither status nor exception.

        >>> release.compare().failures_to_pandas().columns.tolist()[:5]
        ['arm', 'endpoint', 'instance', 'requests', 'failures']
        """
        return to_frame(list(flatten_failures(self.failures)))

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table with a row for each comparison.

        >>> release.compare().to_arrow().column_names[:3]
        ['release', 'metric', 'type']
        """
        import pyarrow as pa

        return pa.Table.from_pylist(list(flatten(self.to_dict())))

    def __repr__(self) -> str:
        return to_human(self.verdict, width=WIDTH)

    def _repr_html_(self) -> str:
        """Return HTML, by which notebooks display a judgement: verdict, first reasons, and a table of comparisons."""
        head = f"<b>{VERDICT_WORDS[self.verdict.word]}</b> {html.escape(self.verdict.release.id)}"
        reasons = "".join(f"<li>{html.escape(reason.text)}</li>" for reason in self.verdict.reasons[:MOST_REASONS])
        titles = ("metric", "arm", "baseline", "canary", "change", "margin", "status")
        title_cells = "".join(f"<th>{title}</th>" for title in titles)
        rows = ""
        for comparison in self.comparisons:
            baseline, candidate = format_both(comparison)
            texts = (
                name_comparison(comparison),
                comparison.arm,
                baseline,
                candidate,
                format_effect(comparison),
                format_allowed(comparison),
                STATUS_MARKS[comparison.status],
            )
            rows += "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in texts) + "</tr>"
        table = f"<table><thead><tr>{title_cells}</tr></thead><tbody>{rows}</tbody></table>"
        return f"<p>{head}</p><ul>{reasons}</ul>{table}"

"""A store that keeps no file open, and the releases in it."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluator.api.judgements import ReleaseJudgement
from evaluator.api.rows import flatten, to_frame
from evaluator.errors import UsageError
from evaluator.pipeline.assessing import Judged
from evaluator.pipeline.judging import judge_runs
from evaluator.pipeline.runs import choose_runs
from evaluator.policy import Policy, parse_policy
from evaluator.policy.selection import find_policy, path_to_name, policy_of
from evaluator.records import Cells, EvidenceKind, Run, Service, Verdict
from evaluator.reports import from_json
from evaluator.stats.shaping.narrow import narrow
from evaluator.store import Relation, Store
from evaluator.wording import count_of, write_command

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A store for reading. Each call opens the file and closes it again."""

    store: Store = field(repr=False)

    @property
    def releases(self) -> tuple[str, ...]:
        """Names of the releases, the newest first."""
        return tuple(summary.release.id for summary in self.store.releases())

    def release(self, name: str) -> StoredRelease:
        """Return one release. Raises UnknownName if it is not stored."""
        return StoredRelease(self.store, self.store.control.release(name).id)

    def sql(self, query: str, parameters: Sequence[object] = ()) -> Relation:
        """Query a copy of the store as a DuckDB relation: its tables, the views `requests` and `readings`.

        Raises UsageError for bad SQL.

        >>> store.sql("SELECT release, word FROM verdicts").fetchall()
        [('cart@1.5.0', 'no_go')]
        """
        return self.store.data.relate(query, parameters)

    def results(self) -> pd.DataFrame:
        """Return a data frame with a row for each metric of each stored verdict, for analyses over releases.

        >>> frame = store.results()
        >>> frame.loc[frame["metric"] == "latency_p95", ["release", "verdict", "status"]].values.tolist()
        [['cart@1.5.0', 'no_go', 'fail']]
        """
        rows = [
            {"judged_at": stored.judged_at, "verdict": stored.word, **row}
            for name in self.releases
            for stored in self.store.control.verdicts(name)
            for row in flatten(json.loads(stored.json))
        ]
        return to_frame(rows)

    def __iter__(self) -> Iterator[StoredRelease]:
        return (self.release(name) for name in self.releases)

    def __repr__(self) -> str:
        return f"<store {self.store.path} of {count_of(len(self.releases), 'release')}>"


@dataclass(frozen=True, slots=True)
class StoredRelease:
    """One release: its runs and verdicts, new comparisons, and queries."""

    store: Store = field(repr=False)
    name: str

    @property
    def services(self) -> tuple[Service, ...]:
        """Its services with their versions."""
        return self.store.control.release(self.name).services

    @property
    def runs(self) -> tuple[Run, ...]:
        """Its runs in the order in which they were begun."""
        return self.store.data.runs(self.name)

    def cells(self, runs: str = "latest") -> Cells:
        """Return the cells of its requests, of a load or else of production: the sums from which all is computed.

        `runs`: `latest` (the newest run group), `all`, or the id of a run or group.

        >>> cells = release.cells()
        >>> cells.arms, len(cells.instances)
        (('baseline', 'canary'), 6)
        """
        chosen = choose_runs(self.runs, runs)
        loads = [run.id for run in chosen if run.kind is EvidenceKind.REQUESTS]
        return self.store.data.read_cells(loads or [run.id for run in chosen])

    def verdicts(self) -> pd.DataFrame:
        """Return a data frame with a row for each stored verdict, the oldest first.

        >>> release.verdicts()["verdict"].tolist()
        ['no_go']
        """
        stored = self.store.control.verdicts(self.name)
        return to_frame([{"judged_at": row.judged_at, "verdict": row.word, "json": row.json} for row in stored])

    def judgement(self, number: int = -1) -> ReleaseJudgement:
        """Return a stored verdict by its position in `verdicts()`; by default the newest.

        Raises UsageError if there is none.

        >>> release.judgement().verdict.reasons[0].code
        'regression'
        """
        stored = self.store.control.verdicts(self.name)
        if not -len(stored) <= number < len(stored):
            if stored:
                description = f"verdict {number} of {self.name}; {len(stored)} are stored"
            else:
                description = f"verdict of {self.name} yet"
            command = write_command(self.name, policy=path_to_name(find_policy(Path.cwd())))
            raise UsageError(f"there is no {description}", hint=f"judge it with `{command}`, or with `compare()` here")
        # Only the data of the newest verdict's figures are stored.
        is_newest = number in (-1, len(stored) - 1)
        figures_json = self.store.control.figures(self.name) if is_newest else None
        verdict = from_json(stored[number].json, f"the verdict of {self.name}")
        # Most judgements are only read: the data of figures are computed at first use, and once.
        trace = functools.partial(_trace_stored, self.store, verdict, figures_json)
        return ReleaseJudgement(verdict, functools.cache(trace))

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
    ) -> ReleaseJudgement:
        """Judge the release, or a part of its requests, under a policy; nothing is stored.

        `policy`: a path, or its content; by default the nearest evaluator.yaml, else the built-in one. From a folder of
        policies, such as the nearest evaluator.policies, the one for the release's service is used. `metrics` and any
        other key of the policy (`alpha=0.01`, `monitoring={"mode": "fixed"}`) replace its values.
        `start`, `end` (whole blocks of four buckets), `endpoints` and `instances` narrow the requests that count.
        Raises PolicyError, and UnknownName for a run, endpoint or instance that is not there.

        >>> tolerant = release.compare([{"name": "p90", "type": "latency_quantile", "quantile": 0.9, "margin": "60%"}])
        >>> tolerant["p90"].status.value
        'pass'
        >>> part = release.compare(endpoints=["GET /endpoint/000"], alpha=0.01)
        >>> {row.rule.slice.endpoint for row in part.comparisons if row.scan}
        {'GET /endpoint/000'}
        """
        if metrics:
            settings["metrics"] = [dict(metric) for metric in metrics]
        cut = functools.partial(narrow, start=start, end=end, endpoints=endpoints, instances=instances)
        verdict, judged = judge_runs(
            self.store,
            self.store.control.release(self.name),
            choose_runs(self.runs, runs),
            self._choose_policy(policy, settings),
            judged_at=datetime.now(UTC),
            cut=cut,
        )
        # Most judgements are only read: the data of figures are computed at first use, and once.
        trace = functools.partial(_trace_figures, self.store, verdict, judged)
        return ReleaseJudgement(verdict, functools.cache(trace))

    def sql(self, query: str, parameters: Sequence[object] = ()) -> Relation:
        """Query a copy of the store in which `requests` and `readings` are those of this release. Raises UsageError.

        >>> release.sql("SELECT instance FROM requests WHERE arm = ? GROUP BY ALL ORDER BY ALL", ["canary"]).fetchall()
        [('canary-1',), ('canary-2',), ('canary-3',)]
        """
        return self.store.data.relate(query, parameters, release=self.name)

    def _choose_policy(self, source: str | Path | Mapping[str, Any] | None, settings: Mapping[str, Any]) -> Policy:
        """Load the policy at the path `source`, or with this content; `None`: the policy that applies to the release.

        `settings` replace the values of keys of the policy.
        """
        if isinstance(source, Mapping):
            return parse_policy({**source, **settings})
        policy = policy_of(Path(source) if source is not None else find_policy(Path.cwd()), self.store, [self.name])
        return parse_policy({**policy.effective, **settings}) if settings else policy

    def __repr__(self) -> str:
        return f"<release {self.name}: {count_of(len(self.runs), 'run')}>"


def _trace_figures(store: Store, verdict: Verdict, judged: Judged) -> Mapping[str, Any]:
    """Compute the data of a verdict's figures from the data that it judged."""
    from evaluator.pipeline.drawing import trace_figures  # most judgements are only read

    return trace_figures(store, verdict.release, judged.data, judged.requests, judged.rulebook, judged.evidence)


def _trace_stored(store: Store, verdict: Verdict, figures_json: str | None) -> Mapping[str, Any]:
    """Return the data of a stored verdict's figures.

    `figures_json`: as stored with the verdict; `None`: compute them from the data that it judged. Raises UsageError if
    these data have changed or are gone.
    """
    from evaluator.pipeline.reviewing import judge_again  # only stored verdicts need it

    if figures_json is not None:
        figures: Mapping[str, Any] = json.loads(figures_json)
        return figures
    judged = judge_again(store, verdict)
    if not judged.data.as_judged:
        raise UsageError(
            f"the verdict of {verdict.release.id} cannot be drawn: the data that it judged have changed or are gone",
            hint="judge the present data with `compare()`",
        )
    return _trace_figures(store, verdict, judged)

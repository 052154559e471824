"""Which server failed before HAProxy tried another one: its statistics say it, its log does not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from evaluator.errors import SourceError
from evaluator.pipeline.base import Say
from evaluator.records import LogCounts, LogOptions, sum_counts
from evaluator.records.access_logs import find_arm
from evaluator.segments import REQUEST_SCHEMA, make_table
from evaluator.sources.access_logs.server_stats import ServerStats
from evaluator.sources.access_logs.tail_state import TailState
from evaluator.store.log_attempts import EXCEPTION

POLL_S = 1.0
"""How often (s) the statistics are read."""


class RetryFinder:
    """Assigns failed attempts, of which the log does not say which server failed, to the servers that failed.

    HAProxy counts an attempt before it logs the request, so each attempt is in the first reading of its statistics that
    follows the reading of its line. An attempt that is in no reading stays unknown, and forbids a GO.
    """

    def __init__(self, stats: ServerStats, options: LogOptions, say: Say, clock: Callable[[], float]) -> None:
        """`clock`: monotonic seconds."""
        self._stats, self._options, self._say, self._clock = stats, options, say, clock
        self._explained: Counter[str] = Counter()
        """Arm → failed attempts that lines have explained, or that were assigned."""
        self._assigned: Counter[str] = Counter()
        """Server → attempts that were assigned to it."""
        self._waiting: dict[str, list[pa.Table]] = defaultdict(list)
        """Id of a run → attempts of unknown servers."""
        self._problem = ""
        self._read_at = self._clock()
        self._read_stats()  # before the first line is read: counts are since then

    def add(self, run: str, rows: pa.Table, unassigned: pa.Table) -> None:
        """Note the rows of some lines of a run, and their attempts of unknown servers."""
        retried = rows.filter(pc.equal(rows["exception"].cast(pa.string()), EXCEPTION))
        self._explained.update(retried["arm"].to_pylist())
        if unassigned.num_rows:
            self._waiting[run].append(unassigned)

    def assign(self, state: TailState, *, at_once: bool = False) -> tuple[TailState, dict[str, pa.Table]]:
        """Read the statistics once a second, or `at_once`, and assign the attempts that wait.

        Returns the state with changed counts, and the new rows of each run.
        """
        now = self._clock()
        if now - self._read_at < POLL_S and not at_once:
            return state, {}
        self._read_at = now
        if not self._read_stats():
            self._waiting.clear()
            return state, {}
        tables = {}
        for position, run in enumerate(state.runs):
            attempts = [row for table in self._waiting.pop(run.run, ()) for row in table.to_pylist()]
            servers = [self._take_server() for _ in attempts] if not run.is_closed else []
            named = [(row, *server) for row, server in zip(attempts, servers, strict=False) if server]
            if named:
                tables[run.run] = _make_rows(named)
                counts = _count(run.counts, Counter(arm for _, arm, _ in named))
                runs = list(state.runs)
                runs[position] = replace(run, counts=counts)
                state = replace(state, runs=tuple(runs))
        return state, tables

    def _read_stats(self) -> bool:
        """Read the statistics; returns whether they can be read. Says it when that changes."""
        try:
            self._stats.read()
        except SourceError as error:
            if error.message != self._problem:
                self._say(f"{error.message}; failed attempts stay unknown, which may forbid a GO")
            self._problem = error.message
        else:
            if self._problem:
                self._say("HAProxy's statistics can be read again")
            self._problem = ""
        return not self._problem

    def _take_server(self) -> tuple[str, str] | None:
        """Take one attempt that the statistics counted and no line has explained: its arm and server."""
        open_attempts: dict[str, Counter[str]] = defaultdict(Counter)  # arm → server → attempts
        for server, count in self._stats.failed.items():
            if arm := self._find_arm(server):
                open_attempts[arm][server] = count - self._assigned[server]
        for arm in sorted(open_attempts, key=lambda arm: -self._count_open(arm)):
            if self._count_open(arm) > 0:
                server, _ = max(open_attempts[arm].items(), key=lambda item: item[1])
                self._assigned[server] += 1
                self._explained[arm] += 1
                return arm, server
        return None

    def _count_open(self, arm: str) -> int:
        """Attempts at servers of an arm that nothing has explained."""
        counted = sum(count for server, count in self._stats.failed.items() if self._find_arm(server) == arm)
        return counted - self._explained[arm]

    def _find_arm(self, server: str) -> str:
        """Arm of a server; empty if it belongs to none."""
        return find_arm(self._options, server) or ""


def _make_rows(attempts: list[tuple[Mapping[str, object], str, str]]) -> pa.Table:
    """Make rows of attempts: what is known of each, its arm and its server."""
    rows = [{**row, "arm": arm, "instance": server} for row, arm, server in attempts]
    columns = {name: [row[name] for row in rows] for name in REQUEST_SCHEMA.names}
    return make_table(REQUEST_SCHEMA, columns, len(rows))


def _count(counts: LogCounts, named: Mapping[str, int]) -> LogCounts:
    """Count attempts of unknown servers as those of arms."""
    router = counts.router
    retried = {arm: router.retried.get(arm, 0) + named.get(arm, 0) for arm in (*router.retried, *named)}
    unknown = router.retried_by_unknown - sum(named.values())
    return replace(
        sum_counts([counts, LogCounts(read=dict(named))]),
        router=replace(router, retried=retried, retried_by_unknown=unknown),
    )

"""Rows of JMeter's CSV that are part of the request before them: redirects and embedded files (since JMeter 5).

JMeter writes a sample and then its parts, in this order; rows of other threads may come between. The parts of `Home`
are called `Home-0`, `Home-1`, …, or after a name of their own (`logo.png-0`). The numbers start at 0: `Search`,
`Search-1` and `Search-2` are three requests.
"""

from __future__ import annotations

import dataclasses

from evaluator.records import FilePlan
from evaluator.store.engine import Engine, quote, quote_name
from evaluator.store.expressions import column_name, read_texts
from evaluator.store.rollup import HIGHEST_MS

FIRST_PART = "-0"
"""End of the label of a first part, after the label of its request."""

_NUMBERED = r"-\d+$"

_CLOCKS_MS = 5
"""Two clocks of JMeter may differ by this much, so a part may end this much after its parent."""


def forget_sub_results(engine: Engine, file: FilePlan) -> FilePlan:
    """Skip the search for parts where no label can be that of a first part."""
    layout = file.layout
    if layout.sub_results is None:
        return file
    label = quote_name(layout.sub_results.label)
    [(count,)] = engine.execute(
        f"""WITH labels AS (
            SELECT DISTINCT {label} AS label
            FROM {read_texts([file.path], layout.delimiter, layout.header, "ignore_errors")})
        SELECT count(*) FROM labels WHERE label || {quote(FIRST_PART)} IN (SELECT label FROM labels)"""
    ).fetchall()
    return file if count else dataclasses.replace(file, layout=dataclasses.replace(layout, sub_results=None))


def find_sub_results(file: FilePlan, table: str, ts: str, ms: str, is_transaction: str) -> str:
    """Write the query that adds `is_sub_result` to the rows of a file, and `record`, their number.

    A sample of a thread ends before the next one begins. So a row within the time of an earlier row is part of that
    row, unless the earlier row is a transaction, which is ignored here.
    """
    columns = file.layout.sub_results
    if columns is None:
        raise ValueError("the layout has no columns for parts")
    label = column_name(file, columns.label)
    thread = column_name(file, columns.thread) if columns.thread else "''"
    order = "OVER (PARTITION BY {} ORDER BY record ROWS BETWEEN UNBOUNDED PRECEDING AND {})".format
    before, so_far = order("thread", "1 PRECEDING"), order("thread", "CURRENT ROW")
    following = "OVER (PARTITION BY thread ORDER BY record)"
    spent = f"least(greatest(coalesce({ms}, 0), 0), {HIGHEST_MS})"
    return f"""
        SELECT * EXCLUDE (thread, starts, ends, covered, inside, has_parts, of_parent),
            coalesce(inside AND of_parent AND regexp_matches({label}, {quote(_NUMBERED)}), false) AS is_sub_result
        FROM (
            SELECT *, last_value(CASE WHEN starts IS NOT NULL AND NOT inside THEN has_parts END IGNORE NULLS) {so_far}
                AS of_parent
            FROM (
                SELECT *, coalesce(
                    (starts < covered OR ends <= covered) AND ends <= covered + {_CLOCKS_MS * 1000}, false) AS inside
                FROM (
                    SELECT *, max(ends) {before} AS covered,
                        coalesce(lead({label}) {following} = {label} || {quote(FIRST_PART)}, false) AS has_parts
                    FROM (
                        SELECT *, starts + CAST({spent} * 1000 AS BIGINT) AS ends
                        FROM (
                            SELECT *, {thread} AS thread,
                                CASE WHEN NOT ({is_transaction}) AND {ts} < now() + INTERVAL 1 DAY
                                    THEN epoch_us({ts}) END AS starts
                            FROM (SELECT *, row_number() OVER () AS record FROM ({table})))))))"""

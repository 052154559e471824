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
    """Return `file` without its search for sub-results, if no label in it can be that of a first part.

    A first part has the label of another row with `-0` at its end.
    """
    layout = file.layout
    if layout.sub_results is None:
        return file
    label = quote_name(layout.sub_results.label)
    [(requests_with_parts,)] = engine.execute(
        f"""WITH labels AS (
            SELECT DISTINCT {label} AS label
            FROM {read_texts([file.readable_path], layout.delimiter, layout.header, "ignore_errors")})
        SELECT count(*) FROM labels WHERE label || {quote(FIRST_PART)} IN (SELECT label FROM labels)"""
    ).fetchall()
    if requests_with_parts:
        return file
    return dataclasses.replace(file, layout=dataclasses.replace(layout, sub_results=None))


def write_sub_results_query(
    file: FilePlan, table: str, *, start_sql: str, duration_ms_sql: str, is_transaction_sql: str
) -> str:
    """Write the query that adds `record` and `is_sub_result` to the rows of a JMeter file.

    `record` is the number of the row; `is_sub_result` says whether the row is a part of an earlier request, such as
    `Home-0` of `Home`. `table`: SQL query for the rows of the file. The other arguments are SQL expressions over its
    columns; `is_transaction_sql` is true for a row that sums up several requests.

    In one thread, a request ends before the next one begins, and its parts follow it. So a row within the time of an
    earlier row of its thread is a part of that row, unless the earlier row is a transaction.
    """
    columns = file.layout.sub_results
    if columns is None:
        raise ValueError("the layout has no columns for parts")
    label = column_name(file, columns.label)
    # Without a column of threads, all rows count as one thread.
    thread = column_name(file, columns.thread) if columns.thread else "''"
    # Limited, so that an end can be computed also for a bad row.
    duration_ms = f"least(greatest(coalesce({duration_ms_sql}, 0), 0), {HIGHEST_MS})"
    in_thread = "PARTITION BY thread ORDER BY record"
    rows_before = f"OVER ({in_thread} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    rows_so_far = f"OVER ({in_thread} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"

    numbered = f"SELECT *, row_number() OVER () AS record FROM ({table})"
    # Start and end (us). A transaction, and a wrong time in the future, have none: they would contain all later rows.
    with_start = f"""SELECT *, {thread} AS thread,
        CASE WHEN NOT ({is_transaction_sql}) AND {start_sql} < now() + INTERVAL 1 DAY
            THEN epoch_us({start_sql}) END AS starts
        FROM ({numbered})"""
    with_end = f"SELECT *, starts + CAST({duration_ms} * 1000 AS BIGINT) AS ends FROM ({with_start})"
    # The latest end of all rows before, and whether the next row of the thread is a first part of this row.
    with_neighbours = f"""SELECT *, max(ends) {rows_before} AS latest_end,
        coalesce(lead({label}) OVER ({in_thread}) = {label} || {quote(FIRST_PART)}, false) AS has_parts
        FROM ({with_end})"""
    # Whether the row lies within the time of a row before (up to a difference of clocks at the end). A part without
    # duration may begin when that row ends.
    with_inside = f"""SELECT *, coalesce((starts < latest_end OR ends <= latest_end)
            AND ends <= latest_end + {_CLOCKS_MS * 1000}, false) AS inside
        FROM ({with_neighbours})"""
    # The possible parent of a row is the last row so far that is not itself inside another: does it have parts?
    with_parent = f"""SELECT *, last_value(CASE WHEN starts IS NOT NULL AND NOT inside THEN has_parts END IGNORE NULLS)
            {rows_so_far} AS parent_has_parts
        FROM ({with_inside})"""
    return f"""
        SELECT * EXCLUDE (thread, starts, ends, latest_end, inside, has_parts, parent_has_parts),
            coalesce(inside AND parent_has_parts AND regexp_matches({label}, {quote(_NUMBERED)}), false)
                AS is_sub_result
        FROM ({with_parent})"""

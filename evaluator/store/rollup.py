"""The roll-up of request rows into cells, in portable SQL over Parquet. No other module does it.

Rows are read twice: once for the moments of each series (arm, endpoint, instance) and bucket, which also lists the
series, and once to code the successes (series, bucket, bin) as small integers, from which both histograms are
counted. Text is compared once a series, not once a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import numpy as np

from evaluator.records import BLOCK_BUCKETS, MICROSECONDS, NANOSECONDS, OTHER_KINDS
from evaluator.stats.shaping.rare import MOST_KEPT, OTHER_ENDPOINTS
from evaluator.store.engine import Engine, quote, quote_files

HIGHEST_MS = 1e12
"""Longest response time that is accepted.

The query tests for NaN and infinity separately: a test of the range alone would be answered by the statistics of the
Parquet file, which leave NaN out.
"""

FINE_BELOW_MS = 1.0
"""Nanoseconds are kept if half of an endpoint takes less than this, and these times are no whole microseconds.

From this time on, half a microsecond is at most 0.05 %, less than any margin of a metric.
"""

VERY_SHORT_MS, VERY_SHORT_SHARE = 0.1, 0.01
"""Nanoseconds are kept, too, if this share of an endpoint's successes take less, and are no whole microseconds.

Few short times move low quantiles and the geometric mean, whose logarithms count each request alike. Half a microsecond
is at most 0.5 % of a time of 0.1 ms or more, so at most 0.25 % of the geometric mean if less than half is below 1 ms. A
share of 1 % below 0.1 ms moves the geometric mean by some percent at most, even if all were rounded to 0. Loads of
milliseconds with some faster requests stay in microseconds, whose sums are quicker to compute.
"""

LONGEST_FINE_MS = 1e9
"""Longest response time (eleven days) of a run in nanoseconds: sums of its squares surely fit into 128 bits."""

_ROWS = """
CREATE OR REPLACE TEMP VIEW request_rows AS
SELECT
    arm, {endpoint} AS endpoint, instance, epoch_us(ts) // ({bucket_s} * 1000000) AS bucket,
    CAST(round(response_time_ms * {units_per_ms}) AS BIGINT) AS time,
    response_bytes, status_code, failed, exception, user_count
FROM read_parquet({paths})
WHERE isfinite(response_time_ms) AND response_time_ms BETWEEN 0 AND {highest_ms}
"""

_SUMS = """
CREATE OR REPLACE TEMP TABLE sums{suffix} AS
SELECT
    arm, endpoint, instance, bucket, failed,
    count(*) AS n, sum(time) AS sum_time, sum(CAST(time AS {wide}) * time) AS sum_sq_time,
    min(time) AS min_time, max(time) AS max_time,
    coalesce(sum(response_bytes), 0) AS bytes,
    coalesce(sum(CAST(response_bytes AS {wide}) * response_bytes), 0) AS bytes_sq,
    count(status_code) AS statuses,
    sum(CASE WHEN status_code < 300 THEN 0 WHEN status_code < 400 THEN 1 WHEN status_code < 500 THEN {pack} ELSE 0 END)
        AS redirects_and_client_errors,
    max(user_count) AS users
FROM request_rows GROUP BY ALL
"""

_FREQUENT = """
CREATE OR REPLACE TEMP TABLE frequent_endpoints AS
SELECT endpoint FROM sums{suffix} GROUP BY endpoint ORDER BY sum(n) DESC, endpoint LIMIT {most_kept}
"""

_POOLED_ENDPOINT = f"""
CASE WHEN endpoint IN (SELECT endpoint FROM frequent_endpoints) THEN endpoint ELSE {quote(OTHER_ENDPOINTS)} END
"""
"""Expression for the endpoint of a row, with one name for all that are not frequent."""

_SERIES = """
CREATE OR REPLACE TEMP TABLE series{suffix} AS
SELECT
    *, CAST(dense_rank() OVER (ORDER BY arm, endpoint) AS INTEGER) AS pair,
    CAST(dense_rank() OVER (ORDER BY arm, endpoint, instance) AS INTEGER) AS series
FROM (
    SELECT DISTINCT
        arm, endpoint, instance AS label, coalesce(nullif(instance, ''), arm) AS instance
    FROM sums{suffix})
"""

_MOMENTS = """
CREATE OR REPLACE TEMP TABLE cells_moments{suffix} AS
SELECT
    series, bucket,
    CAST(sum(n) AS BIGINT) AS n,
    CAST(coalesce(sum(n) FILTER (failed), 0) AS BIGINT) AS failures,
    coalesce(sum(sum_time) FILTER (NOT failed), 0) AS sum_time,
    coalesce(sum(sum_sq_time) FILTER (NOT failed), 0) AS sum_sq_time,
    min(min_time) FILTER (NOT failed) AS min_time,
    max(max_time) FILTER (NOT failed) AS max_time,
    coalesce(sum(bytes) FILTER (NOT failed), 0) AS bytes,
    coalesce(sum(bytes_sq) FILTER (NOT failed), 0) AS bytes_sq,
    CAST(coalesce(sum(statuses) FILTER (NOT failed), 0) AS BIGINT) AS statuses,
    CAST(coalesce(sum(redirects_and_client_errors) FILTER (NOT failed), 0) % {pack} AS BIGINT) AS redirects,
    CAST(coalesce(sum(redirects_and_client_errors) FILTER (NOT failed), 0) // {pack} AS BIGINT) AS client_errors
FROM sums{suffix} AS sums JOIN series{suffix} AS series
    ON series.arm = sums.arm AND series.endpoint = sums.endpoint AND series.label IS NOT DISTINCT FROM sums.instance
GROUP BY ALL
"""

_LOADS = """
CREATE OR REPLACE TEMP TABLE cells_loads{suffix} AS
SELECT arm, bucket, max(users) AS users FROM sums{suffix} WHERE users IS NOT NULL GROUP BY ALL
"""

_CODED = """
CREATE OR REPLACE TEMP TABLE coded AS
SELECT
    series, pair, CAST(bucket AS INTEGER) AS bucket,
    CAST(CASE WHEN time < 1 THEN 0 ELSE floor(115 * log10(time)) END AS SMALLINT) AS bin
FROM request_rows AS rows JOIN series{suffix} AS series
    ON series.arm = rows.arm AND series.endpoint = rows.endpoint AND series.label IS NOT DISTINCT FROM rows.instance
WHERE NOT failed
"""

_PACK = 1 << 40
"""A bin and its count are packed into one number, which sorts by bin and costs half as much as sorting two lists.

So are redirects and client errors: one sum costs less than two counts.
"""

_DIRECT_BITS = 23
"""Keys of up to this many bits (series, bucket, bin) are counted in a plain array, a tenth faster than by hashing.

It costs at most 0.2 GB; the process stays below 0.8 GB.
"""

_MOST_DIRECT_LISTS = 1 << 18
"""Most possible histograms for which plain arrays are used."""

_BINS = """
CREATE OR REPLACE TEMP TABLE cells_bins{suffix} AS
SELECT
    pair, bucket,
    list_transform(packed, lambda v: CAST(v // {pack} AS SMALLINT)) AS bins,
    list_transform(packed, lambda v: v % {pack}) AS counts
FROM (
    SELECT pair, bucket, list_sort(list(bin * {pack} + n)) AS packed
    FROM (SELECT pair, bucket, bin, count(*) AS n FROM coded GROUP BY ALL) GROUP BY ALL)
"""

_INSTANCE_BINS = """
CREATE OR REPLACE TEMP TABLE cells_instance_bins{suffix} AS
SELECT
    series, block,
    list_transform(packed, lambda v: CAST(v // {pack} AS SMALLINT)) AS bins,
    list_transform(packed, lambda v: v % {pack}) AS counts
FROM (
    SELECT series, block, list_sort(list(bin * {pack} + n)) AS packed
    FROM (SELECT series, bucket // {block_buckets} AS block, bin, count(*) AS n FROM coded GROUP BY ALL) GROUP BY ALL)
"""

_MANY_FAILURES = 1_000_000
"""From so many failures on, the most frequent texts are found before kinds are counted: memory is bounded."""

MOST_TEXTS, LONGEST_TEXT, MOST_KINDS = 200, 200, 20
"""Texts of exceptions that are kept of a run, and their characters; kinds of failures that are kept of each series.

A service may write millions of different texts: those of the rarest are counted together.
"""

OTHER_TEXTS = "other exceptions"
"""Text of all exceptions beyond `MOST_TEXTS`."""

_IDS = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|0[xX][0-9a-fA-F]+|[0-9a-fA-F]{12,}|[0-9]{6,}"
_URLS = "(for|with) url: [^ '\"()]+"
"""The address of a request in a text of Locust's clients: the endpoint says the same without identifiers."""

_TEXT = f"regexp_replace(left(coalesce(exception, ''), {LONGEST_TEXT}), {quote(f'{_URLS}|{_IDS}')}, '…', 'g')"
"""Expression for the text of an exception without what differs each time: UUIDs, addresses, long numbers.

Shorter numbers stay: HTTP statuses, ports, numbers of errors.
"""

_FREQUENT_TEXTS = f"""
CREATE OR REPLACE TEMP TABLE frequent_texts AS
SELECT hash({{text}}) AS code FROM {{failures_from}} WHERE failed
GROUP BY ALL ORDER BY count(*) DESC, code LIMIT {MOST_TEXTS}
"""

_FREQUENT_TEXT = f"""
CASE WHEN hash({_TEXT}) IN (SELECT code FROM frequent_texts) THEN {_TEXT} ELSE {quote(OTHER_TEXTS)} END
"""

_FAILURE_KINDS = """
CREATE OR REPLACE TEMP TABLE cells_failure_kinds{suffix} AS
SELECT
    arm, {endpoint} AS endpoint, coalesce(nullif(instance, ''), arm) AS instance,
    coalesce(status_code, -1) AS status, {text} AS exception, count(*) AS n
FROM {failures_from} WHERE failed GROUP BY ALL
"""

_FREQUENT_KINDS = f"""
CREATE OR REPLACE TEMP TABLE cells_failure_kinds{{suffix}} AS
WITH texts AS (
    SELECT exception FROM cells_failure_kinds{{suffix}}
    GROUP BY exception ORDER BY sum(n) DESC, exception LIMIT {MOST_TEXTS}
), kinds AS (
    SELECT
        arm, endpoint, instance, status, sum(n) AS n,
        CASE WHEN exception IN (FROM texts) THEN exception ELSE {quote(OTHER_TEXTS)} END AS text
    FROM cells_failure_kinds{{suffix}} GROUP BY ALL
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY arm, endpoint, instance ORDER BY n DESC, status, text) AS rank FROM kinds
)
SELECT
    arm, endpoint, instance, CASE WHEN rank > {MOST_KINDS} THEN {OTHER_KINDS} ELSE status END AS status,
    CASE WHEN rank > {MOST_KINDS} THEN '' ELSE text END AS exception, CAST(sum(n) AS BIGINT) AS n
FROM ranked GROUP BY ALL
"""

MOMENTS_STEPS = (_ROWS, _SUMS, _SERIES, _MOMENTS, _LOADS)
"""Steps that compute the moments of each cell."""

STEPS = (*MOMENTS_STEPS, _CODED, _BINS, _INSTANCE_BINS, "DROP TABLE coded", _FAILURE_KINDS, _FREQUENT_KINDS)
"""All steps of the roll-up, in order."""


def choose_units_per_ms(engine: Engine, paths: Sequence[Path]) -> int:
    """Choose the unit in which the times of these segments are kept, as the number of units in a millisecond.

    Nanoseconds, if half of the successes of an endpoint took less than `FINE_BELOW_MS`, and not all short times are
    whole microseconds; or if the share `VERY_SHORT_SHARE` of its successes took less than `VERY_SHORT_MS`, and are no
    whole microseconds. Else microseconds, whose squares nearly always fit into 64 bits. Also microseconds, if a request
    took longer than `LONGEST_FINE_MS`.
    """
    rows = f"FROM read_parquet({quote_files(paths)})"
    successes = f"{rows} WHERE NOT failed"
    is_short = f"response_time_ms BETWEEN 0 AND {FINE_BELOW_MS}"
    is_very_short = f"response_time_ms BETWEEN 0 AND {VERY_SHORT_MS}"
    us = f"response_time_ms * {MICROSECONDS}"
    # A tenth of a nanosecond: numbers of 32 bits are up to 0.03 ns away from whole microseconds.
    is_fraction = f"abs({us} - round({us})) > 0.0001"
    conditions = (
        # The first condition is cheap to test, and most loads do not meet it.
        f"SELECT 1 {successes} AND {is_short} AND {is_fraction} LIMIT 1",
        f"""SELECT 1 {successes} GROUP BY endpoint
        HAVING 2 * count(*) FILTER ({is_short}) >= count(*)
            OR count(*) FILTER ({is_very_short} AND {is_fraction}) >= {VERY_SHORT_SHARE} * count(*) LIMIT 1""",
        f"SELECT 1 {rows} HAVING count(*) FILTER (response_time_ms BETWEEN {LONGEST_FINE_MS} AND {HIGHEST_MS}) = 0",
    )
    is_fine = all(engine.execute(condition).fetchall() for condition in conditions)
    return NANOSECONDS if is_fine else MICROSECONDS


def roll_up(
    engine: Engine,
    paths: Sequence[Path],
    bucket_s: int,
    units_per_ms: int,
    suffix: str = "",
    steps: Sequence[str] = STEPS,
) -> None:
    """Roll the rows of a run's segments up into temporary tables: `series{suffix}` and `cells_{name}{suffix}`.

    Times become whole numbers of a unit, of which `units_per_ms` are a millisecond. `suffix` keeps the tables of
    several runs apart; `steps` are templates of SQL statements. Rows whose response time is missing, NaN, negative,
    infinite or too long are left out; `count_rows` counts those that were not.
    """
    parameters = {
        "bucket_s": bucket_s,
        "units_per_ms": units_per_ms,
        "paths": quote_files(paths),
        "highest_ms": HIGHEST_MS,
        "suffix": suffix,
        "block_buckets": BLOCK_BUCKETS,
        "pack": _PACK,
    }
    try:
        _execute(engine, steps, {**parameters, "wide": "BIGINT"})
    except duckdb.OutOfRangeException:
        # A square exceeds 64 bits: a request of an hour (of 3 s if the unit is a nanosecond), a response of gigabytes.
        # Start again with 128 bits: slower.
        _execute(engine, steps, {**parameters, "wide": "HUGEINT"})


def _execute(engine: Engine, steps: Sequence[str], parameters: Mapping[str, object]) -> None:
    """Execute steps of the roll-up, with values for their templates.

    If there are more than MOST_KEPT endpoints, the rows of those with the fewest requests get one common name.
    """
    parameters = {**parameters, "endpoint": "endpoint", "most_kept": MOST_KEPT}
    suffix = parameters["suffix"]
    for step in steps:
        if step == _CODED:
            engine.execute(f"SET perfect_ht_threshold = {_find_direct_bits(engine, suffix)}")
        if step == _FAILURE_KINDS:
            # If no row was left out, the response times need not be read: they are most of what this step reads.
            scan = f"read_parquet({parameters['paths']})"
            [(rows,)] = engine.execute(f"SELECT count(*) FROM {scan}").fetchall()
            parameters["failures_from"] = scan if rows == count_rows(engine, str(suffix)) else "request_rows"
            [(failures,)] = engine.execute(f"SELECT coalesce(sum(failures), 0) FROM cells_moments{suffix}").fetchall()
            parameters["text"] = _TEXT
            if failures >= _MANY_FAILURES:
                engine.execute(_FREQUENT_TEXTS.format(**parameters))
                parameters["text"] = _FREQUENT_TEXT
        engine.execute(step.format(**parameters))
        if step == _SUMS:
            [(endpoints,)] = engine.execute(f"SELECT count(DISTINCT endpoint) FROM sums{suffix}").fetchall()
            if endpoints > MOST_KEPT:
                parameters["endpoint"] = _POOLED_ENDPOINT
                for repeated_step in (_FREQUENT, _ROWS, _SUMS):
                    engine.execute(repeated_step.format(**parameters))
    engine.execute("RESET perfect_ht_threshold")


def _find_direct_bits(engine: Engine, suffix: object) -> int:
    """Find up to how many bits of a key successes are counted in a plain array: 0 if there are very many cells.

    Such an array has room for every possible key. The histograms are lists, and an array of lists would take gigabytes
    for tens of thousands of series.
    """
    [(keys,)] = engine.execute(
        f"SELECT coalesce(max(series) * (max(bucket) - min(bucket) + 1), 0) FROM cells_moments{suffix}"
    ).fetchall()
    return _DIRECT_BITS if keys <= _MOST_DIRECT_LISTS else 0


def count_rows(engine: Engine, suffix: str = "") -> int:
    """Count the rows that were rolled up into the tables with the suffix `suffix`."""
    return int(engine.execute(f"SELECT coalesce(sum(n), 0) FROM cells_moments{suffix}").fetchall()[0][0])


def find_grid(engine: Engine, suffix: str = "") -> int:
    """Find the largest step of which all response times of successes just rolled up are multiples; 0 if none.

    The step is a number of the unit of the roll-up. `suffix`: suffix of the tables. Extremes and sums of cells are
    multiples of the step, too, so their greatest common divisor is an upper bound at no cost; the rows are read again
    only if that bound is above 1.
    """
    # Cells with a success; those without have no times.
    # A sum that does not fit into 64 bits is left out: the bound may then be larger, which costs only time.
    columns = engine.execute(
        f"""SELECT min_time, max_time, coalesce(TRY_CAST(sum_time AS BIGINT), 0) AS sum_time
        FROM cells_moments{suffix} WHERE n > failures"""
    ).fetchnumpy()
    bound = math.gcd(*(int(np.gcd.reduce(column)) for column in columns.values()))
    if bound <= 1:
        return bound
    # The greatest common divisor of the bound and of all remainders is that of the times themselves.
    remainders = engine.execute(f"SELECT DISTINCT time % {bound} FROM request_rows WHERE NOT failed").fetchall()
    return math.gcd(bound, *(int(remainder) for (remainder,) in remainders))

# %% [markdown]
# # Slow for the client, fast for the server: load and Prometheus joined
#
# The load test shows that `cart@1.5.0` became slower. The service's own histogram shows that it did not. Both are in
# the store: `requests` as measured by Locust, `readings` as scraped by Prometheus. Which of them is right?
#
# Both are simulated from the same requests, so the truth is known: the service takes as long as before, but from
# minute 4 on connections to the canary wait for 60 ms on average, before the service starts to measure.

# %%
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import altair as alt
import numpy as np

import evaluator
from evaluator.pipeline.simulating import land_simulated
from evaluator.records import Release, Service
from evaluator.simulate import Scenario, scrape, simulate
from evaluator.simulate.readings import DURATION
from evaluator.store import Store

alt.renderers.enable("svg")  # drawn without network access

served = simulate(Scenario(duration_s=900, rate_per_s=60, users=30, instance_sd=0.005, failure_rate=0.0002), seed=8)
minute = (served.ts_us - served.ts_us.min()) / 60e6
waits = (served.arm == 1) & (minute > 4)
wait_us = np.where(waits, np.random.default_rng(8).exponential(60_000, len(minute)), 0).astype(np.int64)
seen = replace(served, response_us=served.response_us + wait_us)

folder = TemporaryDirectory()
path = Path(folder.name, "evaluator.duckdb")
cart = Release("cart@1.5.0", (Service("cart", baseline="1.4.1", canary="1.5.0"),))
load, scraped = land_simulated(Store.open(path, create=True), cart, seen, answers=scrape(served))
release = evaluator.open(path).release("cart@1.5.0")

# %% [markdown]
# ## Both in one verdict
#
# One gate is on the times of the client, one on those of the server. They disagree, and a health check reports this.

# %%
client = {"name": "client_mean", "type": "latency_mean", "margin": "10%"}
server = {"name": "server_mean", "type": "histogram_mean", "query": DURATION.text, "margin": "10%"}
selectors = {"baseline": 'version="1.4.1"', "canary": 'version="1.5.0"'}
prometheus = {"url": "http://prometheus:9090", "selectors": selectors}  # not contacted: the readings have landed
settings = {"sources": {"prometheus": prometheus}, "endpoint_scan": {"enabled": False}}
alone, found = release.compare([server], **settings), release.compare([client, server], **settings)
print(f"by the server's metric alone {alone.word}, by both {found.word}")
found.plot.forest()

# %%
for finding in found.verdict.evidence.findings:
    if finding.level.value != "ok":
        print(f"{finding.check}: {finding.text}")

# %% [markdown]
# ## Are they about the same requests?
#
# This SQL joins the views `requests` and `readings`. A counter only grows, so its increase from scrape to scrape is
# used; a scrape at the end of an interval of 15 s belongs to the requests that started in it.

# %%
JOINED = """
    WITH sent AS (
        SELECT arm, instance, time_bucket(INTERVAL '15 seconds', ts) AS slot, count(*) AS n, sum(response_time_ms) AS ms
        FROM requests GROUP BY ALL),
    grown AS (
        SELECT instance, part, time_bucket(INTERVAL '15 seconds', ts) AS slot,
            value - lag(value) OVER (PARTITION BY instance, endpoint, part ORDER BY ts) AS more
        FROM readings WHERE query LIKE 'http_request_duration%' AND part IN ('sum', 'count')),
    counted AS (
        SELECT instance, slot, sum(more) FILTER (part = 'count') AS n, 1000 * sum(more) FILTER (part = 'sum') AS ms
        FROM grown GROUP BY ALL),
    joined AS (
        SELECT arm, instance, slot, date_diff('second', min(slot) OVER (), slot) / 60 AS minute,
            sent.n AS sent, counted.n AS counted, sent.ms AS client_ms, counted.ms AS server_ms
        FROM sent JOIN counted USING (instance, slot))
"""
ask = lambda select: release.sql(JOINED + select).df()
ask("SELECT arm, sum(sent) AS sent, sum(counted) AS counted FROM joined GROUP BY arm ORDER BY arm")

# %% [markdown]
# Every request that was sent was counted: none was lost, and there is no other traffic.
#
# ## Where does the time go?

# %%
means = ask("""
    SELECT arm, minute, sum(client_ms) / sum(sent) AS client, sum(server_ms) / sum(counted) AS server
    FROM joined GROUP BY arm, minute ORDER BY ALL""")
lines = means.melt(["arm", "minute"], ["client", "server"], "seen by", "mean, ms")
alt.Chart(lines, width=330, height=180).mark_line().encode(
    x=alt.X("minute:Q"),
    y=alt.Y("mean, ms:Q"),
    color=alt.Color("seen by:N", scale=alt.Scale(range=["#c2570c", "#4f6d8f"]), legend=alt.Legend(orient="top")),
    strokeDash=alt.StrokeDash("seen by:N", legend=None),
    column=alt.Column("arm:N", title=None),
)

# %%
ask("""
    SELECT instance, avg((client_ms - server_ms) / sent) FILTER (minute < 4) AS "before minute 4, ms",
        avg((client_ms - server_ms) / sent) FILTER (minute >= 4) AS "after, ms"
    FROM joined GROUP BY instance ORDER BY instance""").round(1).replace(-0.0, 0.0)

# %% [markdown]
# ## What to conclude
#
# - Both are right. The service answers as fast as before; the time is lost between client and service: in a proxy, a
#   pool of connections, or a queue before the workers.
# - It begins at minute 4 on all pods of the canary at once, and never on the baseline: the release is the cause.
# - With gates on server metrics alone this release would have been promoted. Users wait as long as the client does.

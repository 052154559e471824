# %% [markdown]
# # From NO-GO to the slow endpoint, pod and minute
#
# `cart@1.5.0` was loaded together with 1.4.1, and the verdict is NO-GO. Which requests became slow, on which pods, and
# since when?
#
# The release is simulated, so the cause is known: the cache of `POST /checkout` is full after six minutes, and on one
# pod, which serves the largest carts, after four. From then on a checkout takes three times as long.

# %%
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import altair as alt
import numpy as np

import evaluator
from evaluator.pipeline.simulating import land_simulated
from evaluator.records import Release, Service
from evaluator.simulate import Scenario, simulate
from evaluator.store import Store

alt.renderers.enable("svg")  # drawn without network access

ENDPOINTS = ("GET /", "GET /products", "GET /cart", "POST /checkout", "GET /orders")
requests = simulate(Scenario(duration_s=1200, rate_per_s=60, users=30, instance_sd=0.005), seed=3)
requests = replace(requests, endpoints=ENDPOINTS)

minute = (requests.ts_us - requests.ts_us.min()) / 60e6
full_after = np.where(np.array(requests.instances)[requests.instance] == "canary-3", 4, 6)
full = (requests.arm == 1) & (requests.endpoint == ENDPOINTS.index("POST /checkout")) & (minute > full_after)
requests = replace(requests, response_us=requests.response_us * np.where(full, 3, 1))

folder = TemporaryDirectory()
path = Path(folder.name, "evaluator.duckdb")
cart = Release("cart@1.5.0", (Service("cart", baseline="1.4.1", canary="1.5.0"),))
(run,) = land_simulated(Store.open(path, create=True), cart, requests)

# %% [markdown]
# ## What is the verdict?
#
# `evaluator.open` keeps no file open: each call opens the file, reads what it needs and closes it. `compare()` judges
# without storing a verdict; the stored verdict of `evaluator verdict` is `release.judgement()`.

# %%
release = evaluator.open(path).release("cart@1.5.0")
found = release.compare()
print(found)
found.plot.forest()

# %% [markdown]
# The median is within its margin, the high quantiles are not: only a small part of the requests became slow. The change
# at every quantile shows this.

# %%
found.plot.shift()

# %% [markdown]
# ## Which endpoint?
#
# The endpoint scan compares each endpoint separately. One differs from the others.

# %%
found.plot.forest(endpoints=True)

# %% [markdown]
# ## Since when?
#
# These are the requests of that endpoint over time. For some minutes both arms are equal; then the high quantiles of
# the canary rise, and later its median.

# %%
checkout = release.compare(endpoints=["POST /checkout"], endpoint_scan={"enabled": False})
checkout.plot.timeline()

# %% [markdown]
# ## Which pod, to the minute?
#
# SQL over the raw requests: the median of each pod in each minute, divided by the baseline's median in that minute.

# %%
pods = release.sql("""
    WITH asked AS (
        SELECT arm, instance, date_diff('minute', min(ts) OVER (), ts) AS minute, response_time_ms AS ms
        FROM requests WHERE endpoint = 'POST /checkout' AND NOT failed),
    base AS (SELECT minute, median(ms) AS ms FROM asked WHERE arm = 'baseline' GROUP BY minute)
    SELECT instance, minute, median(asked.ms) / any_value(base.ms) AS ratio
    FROM asked JOIN base USING (minute) GROUP BY instance, minute ORDER BY ALL
""").df()
slow = pods[pods["ratio"] > 1.5].groupby("instance")["minute"].min()
slow.rename("slow since minute")

# %%
scale = alt.Scale(scheme="oranges", domain=[1, 3], clamp=True)
title = alt.Title(f"Checkout is slow on {slow.idxmin()} from minute {slow.min()} on, everywhere from {slow.max()}")
alt.Chart(pods, title=title, width=640).mark_rect(stroke="white").encode(
    x=alt.X("minute:O", axis=alt.Axis(labelAngle=0)),
    y=alt.Y("instance:N", title=None),
    color=alt.Color("ratio:Q", title="× baseline", scale=scale),
)

# %% [markdown]
# ## Would a short test have detected it?

# %%
start = found.verdict.evidence.window.start
[(minutes, release.compare(end=start + timedelta(minutes=minutes)).word) for minutes in (4, 8, 20)]

# %% [markdown]
# ## What to conclude
#
# - The release does not start slow, it *becomes* slow: after four minutes it would have been promoted. A test has to
#   run until caches and similar resources are full.
# - Only `POST /checkout` is slow, on every pod of 1.5.0 and on none of 1.4.1: the cause is the code, not a machine.
# - `canary-3` was first, so the cause depends on the requests that this pod serves. Start the profiler there.

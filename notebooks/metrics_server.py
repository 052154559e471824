# %% [markdown]
# # What does a metrics server know of a release?
#
# Before a policy names a query, look at what it gives. `PrometheusConnect` of prometheus-api-client asks the server, and
# its data frames hold the answers: one row a series (`MetricSnapshotDataFrame`), or one a sample (`MetricRangeDataFrame`).
#
# Here the server is a Prometheus on loopback that scrapes two versions of the sample service each second. With a server
# of your own only the address is another: `PrometheusConnect("http://prometheus:9090")`.

# %%
import time
import urllib.request
import warnings
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_api_client import MetricRangeDataFrame, MetricSnapshotDataFrame, PrometheusConnect

from evaluator.records import Query, QueryKind
from evaluator.sources.prometheus import PrometheusSource, connect
from evaluator.sources.sample import start_arms, start_prometheus

warnings.filterwarnings("ignore", message="The inplace keyword")  # pandas' advice to those who wrote the data frames

stack = ExitStack()
folder = Path(stack.enter_context(TemporaryDirectory()))
versions = [("baseline", "1.4.1", "none"), ("canary", "1.5.0", "none")]
arms = stack.enter_context(start_arms(versions, instances=1, leak_over_s=60, metrics=True))
url = stack.enter_context(start_prometheus(arms, folder))
server = PrometheusConnect(url)
while len(server.custom_query("up == 1")) < len(arms):
    time.sleep(0.2)  # it finds its targets a few seconds after its start
start = datetime.now(UTC)
for _ in range(8):
    for arm in arms:
        urllib.request.urlopen(f"{arm.urls[0]}/products").close()
    time.sleep(1)

# %% [markdown]
# ## What is there?
#
# The names of all metrics, and the labels by which the versions can be told apart.

# %%
print([name for name in server.all_metrics() if name.startswith("http_")])
print(server.get_label_values("arm"))

# %% [markdown]
# ## Samples of a range, and values of a moment
#
# A range query has a row for each step of each series.

# %%
SUM = "sum by (arm) (http_requests_total)"
MetricRangeDataFrame(server.custom_query_range(SUM, start, datetime.now(UTC), "1")).pivot(columns="arm", values="value")

# %%
now = MetricSnapshotDataFrame(server.custom_query("sum by (arm, code) (http_requests_total)"))
now[["arm", "code", "value"]].sort_values("arm")

# %% [markdown]
# ## The same, as it is judged
#
# `evaluator collect` asks by the same client, with more care: samples come as they were scraped, at their own times; each
# answer is checked, its size and its time are limited, and what the server warns of is kept with the readings.

# %%
options = PrometheusSource(url=url, selectors={arm.name: f'arm="{arm.name}"' for arm in arms}, step=1)
with connect(options) as source:
    query = Query("http_requests_total{$selector}", QueryKind.COUNTER)
    end = source.latest()
    answers = [source.fetch(query, arm.name, end - timedelta(seconds=5), end) for arm in arms]
for answer in answers:
    print(f"{answer.arm}: {len(answer.series)} series, {answer.read} samples, warnings {answer.warnings}")
stack.close()

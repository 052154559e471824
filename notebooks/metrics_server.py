# %% [markdown]
# # What does a metrics server have about a release?
#
# Before you put a query into a policy, check its answer. `PrometheusConnect` of prometheus-api-client asks the server,
# and its data frames contain the answers: one row per series (`MetricSnapshotDataFrame`) or per sample
# (`MetricRangeDataFrame`).
#
# Here the server is a Prometheus on loopback that scrapes two versions of the sample service each second. For your own
# server only the address differs: `PrometheusConnect("http://prometheus:9090")`.

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

warnings.filterwarnings("ignore", message="The inplace keyword")  # advice of pandas for the authors of the data frames

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
# ## Which metrics and labels are there?
#
# The names of the metrics, and the values of the label that distinguishes the versions.

# %%
print([name for name in server.all_metrics() if name.startswith("http_")])
print(server.get_label_values("arm"))

# %% [markdown]
# ## Samples of a range, and values at one time
#
# A range query returns a row for each step of each series.

# %%
SUM = "sum by (arm) (http_requests_total)"
MetricRangeDataFrame(server.custom_query_range(SUM, start, datetime.now(UTC), "1")).pivot(columns="arm", values="value")

# %%
now = MetricSnapshotDataFrame(server.custom_query("sum by (arm, code) (http_requests_total)"))
now[["arm", "code", "value"]].sort_values("arm")

# %% [markdown]
# ## The same data, as they are judged
#
# `evaluator collect` uses the same client with more checks: it reads the samples as they were scraped, at their own
# times; it checks each answer, limits its size and its time, and stores the server's warnings with the readings.

# %%
options = PrometheusSource(url=url, selectors={arm.name: f'arm="{arm.name}"' for arm in arms}, step=1)
with connect(options) as source:
    query = Query("http_requests_total{$selector}", QueryKind.COUNTER)
    end = source.latest()
    answers = [source.fetch(query, arm.name, end - timedelta(seconds=5), end) for arm in arms]
for answer in answers:
    print(f"{answer.arm}: {len(answer.series)} series, {answer.read} samples, warnings {answer.warnings}")
stack.close()

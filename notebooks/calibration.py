# %% [markdown]
# # Does this policy cry wolf on our service?
#
# Three releases of `cart` are in the store. How many false alarms would the policy have given on them, what would it
# have found, and would wider margins be wiser?
#
# The history is simulated, so that the truth is known: eight pods an arm, five minutes each, and no release changed
# anything. Pods of one version differ by 2 %, and each has moods of its own that last for minutes.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import altair as alt
import pandas as pd

import evaluator
from evaluator.calibration import needed_comparisons
from evaluator.pipeline.hindsight import calibrate_releases
from evaluator.pipeline.simulating import land_simulated
from evaluator.policy import parse_policy
from evaluator.records import Release, Service
from evaluator.simulate import Bursts, Scenario, simulate
from evaluator.store import Store

alt.renderers.enable("svg")  # drawn here, without network

folder = TemporaryDirectory()
store = Store.open(Path(folder.name, "evaluator.duckdb"), create=True)
calm = Bursts(per_hour=0, mean_s=40, low=0.01, high=0.03)
traffic = {"duration_s": 300, "rate_per_s": 60, "users": 20, "endpoints": 3, "instances": (8,), "instance_sd": 0.02}
cart = Scenario(**traffic, failure_rate=0.0002, shared_failures=calm, instance_failures=calm)
for number in range(1, 4):
    service = Service("cart", baseline=f"1.{number - 1}", canary=f"1.{number}")
    runs = land_simulated(store, Release(f"cart@1.{number}", (service,)), simulate(cart, seed=number))
evaluator.open(store.path)

# %% [markdown]
# ## Identical halves, judged by the whole policy
#
# Half of a baseline's pods against the other half is a release that changed nothing. Each such pair is judged as it
# is, and with a regression put in. `evaluator calibrate` prints the same.

# %%
report = calibrate_releases(store, (), parse_policy({}), splits=6)
low, high = report.overall.interval(report.overall.no_go)
print(f"{report.overall.no_go} false alarms in {report.overall.judged} pairs: {low:.1%} to {high:.1%} of all")
print(f"to show that {report.alpha:.0%} are kept it takes {needed_comparisons(report.alpha)} pairs without any")


# %%
def tabulate(report, margins):
    """A row for each regression and verdict: the share of pairs that was judged so."""
    rows = []
    for tally in report.tallies:
        put_in = f"latency +{tally.change.latency:.0%}" if tally.change.latency else "nothing"
        put_in = f"failures +{tally.change.failures:.1%}" if tally.change.failures else put_in
        open_ = tally.judged - tally.go - tally.no_go
        for verdict, count in (("GO", tally.go), ("INCONCLUSIVE", open_), ("NO-GO", tally.no_go)):
            rows.append({"margins": margins, "put in": put_in, "verdict": verdict, "share": count / tally.judged})
    return pd.DataFrame(rows)


built_in = tabulate(report, "built-in margins")
built_in.pivot(index="put in", columns="verdict", values="share").round(2)

# %% [markdown]
# ## What would margins of twice the width do?

# %%
margins = {0.5: "10%", 0.95: "20%", 0.99: "30%"}
metrics = [{"name": f"p{q}", "type": "latency_quantile", "quantile": q, "margin": m} for q, m in margins.items()]
metrics += [{"name": "failures", "type": "failure_rate", "margin": "0.2pp"}]
wide = calibrate_releases(store, (), parse_policy({"metrics": metrics}), splits=4)

# %%
order = ["nothing", "latency +5%", "latency +10%", "latency +20%", "failures +0.5%"]
colors = alt.Scale(domain=["GO", "INCONCLUSIVE", "NO-GO"], range=["#1a7f37", "#dde2e7", "#b42318"])
alt.Chart(pd.concat([built_in, tabulate(wide, "twice as wide")]), width=330, height=150).mark_bar().encode(
    x=alt.X("share:Q", title="pairs judged so", axis=alt.Axis(format="%")),
    y=alt.Y("put in:N", sort=order, title="put in"),
    color=alt.Color("verdict:N", scale=colors, legend=alt.Legend(orient="top", title=None)),
    order=alt.Order("verdict:N"),
    column=alt.Column("margins:N", title=None),
)

# %% [markdown]
# ## What was learnt of the pods
#
# What pods of one version differ by is measured too. Once it is kept (`evaluator calibrate --save`), the judge uses
# it beside what a run shows by itself. That matters where a run has few pods, which cannot tell it by themselves.

# %%
release = evaluator.open(store.path).release("cart@1.3")
few = [f"{arm}-{k}" for arm in ("baseline", "canary") for k in (1, 2)]
before = release.compare(instances=few)["latency_p95"].effect
store.control.save_learnt("cart", report.learnt)
after = release.compare(instances=few)["latency_p95"].effect
print(f"pods differ by {report.learnt.sd_latency:.1%}, measured in {report.learnt.comparisons} arms")
print(f"p95 of 2 + 2 pods: {before.lower:+.1%} … {before.upper:+.1%} becomes {after.lower:+.1%} … {after.upper:+.1%}")

# %% [markdown]
# ## What to conclude
#
# - Not a single false alarm, but 18 pairs are too few to promise 5 %. Four times the history would do; until then
#   this says that nothing is badly wrong.
# - With the built-in margins this test is too small for this service: most releases that changed nothing stay
#   INCONCLUSIVE. It takes longer tests or more pods (see `planning`), or wider margins.
# - Wider margins let unchanged releases through, and some that are 5 % slower as well; of those that are 20 % slower
#   they stop half. That is a choice of what harm to tolerate, not of statistics.

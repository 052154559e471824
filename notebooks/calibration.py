# %% [markdown]
# # Does this policy raise false alarms on our service?
#
# Three releases of `cart` are in the store. How many false alarms would the policy have raised on them, what would it
# have detected, and would wider margins be better?
#
# The history is simulated, so the truth is known: eight pods per arm, five minutes each, and no release changed
# anything. Pods of one version differ by 2 %, and each pod also has slow changes of its own that last for minutes.

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

alt.renderers.enable("svg")  # drawn without network access

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
# Half of a baseline's pods compared with the other half is a release that changed nothing. Each pair of halves is
# judged unchanged, and with a regression added. `evaluator calibrate` prints the same.

# %%
report = calibrate_releases(store, (), parse_policy({}), splits=6)
low, high = report.overall.interval(report.overall.no_go)
print(f"{report.overall.no_go} false alarms in {report.overall.judged} pairs: {low:.1%} to {high:.1%} of all")
print(f"to show that at most {report.alpha:.0%} are, {needed_comparisons(report.alpha)} pairs without any are needed")


# %%
def tabulate(report, margins):
    """A row for each regression and verdict: the share of pairs with this verdict."""
    rows = []
    for tally in report.tallies:
        added = f"latency +{tally.change.latency:.0%}" if tally.change.latency else "nothing"
        added = f"failures +{tally.change.failures:.1%}" if tally.change.failures else added
        open_ = tally.judged - tally.go - tally.no_go
        for verdict, count in (("GO", tally.go), ("INCONCLUSIVE", open_), ("NO-GO", tally.no_go)):
            rows.append({"margins": margins, "added": added, "verdict": verdict, "share": count / tally.judged})
    return pd.DataFrame(rows)


built_in = tabulate(report, "built-in margins")
built_in.pivot(index="added", columns="verdict", values="share").round(2)

# %% [markdown]
# ## What if the margins were twice as wide?

# %%
margins = {0.5: "10%", 0.95: "20%", 0.99: "30%"}
metrics = [{"name": f"p{q}", "type": "latency_quantile", "quantile": q, "margin": m} for q, m in margins.items()]
metrics += [{"name": "failures", "type": "failure_rate", "margin": "0.2pp"}]
wide = calibrate_releases(store, (), parse_policy({"metrics": metrics}), splits=4)

# %%
order = ["nothing", "latency +5%", "latency +10%", "latency +20%", "failures +0.5%"]
colors = alt.Scale(domain=["GO", "INCONCLUSIVE", "NO-GO"], range=["#1a7f37", "#dde2e7", "#b42318"])
alt.Chart(pd.concat([built_in, tabulate(wide, "twice as wide")]), width=330, height=150).mark_bar().encode(
    x=alt.X("share:Q", title="share of pairs", axis=alt.Axis(format="%")),
    y=alt.Y("added:N", sort=order, title="added"),
    color=alt.Color("verdict:N", scale=colors, legend=alt.Legend(orient="top", title=None)),
    order=alt.Order("verdict:N"),
    column=alt.Column("margins:N", title=None),
)

# %% [markdown]
# ## What was learnt about the pods
#
# The difference between pods of one version is measured, too. Once it is stored (`evaluator calibrate --save`), the
# judge uses it in addition to the run's own data. This matters for a run with few pods, which cannot show the
# difference well.

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
# - There was no false alarm, but 18 pairs are too few to guarantee 5 %. Four times the history would be enough; until
#   then the result only shows that the rate is not far too high.
# - With the built-in margins this test is too small for this service: most releases that changed nothing stay
#   INCONCLUSIVE. It needs longer tests or more pods (see `planning`), or wider margins.
# - Wider margins let unchanged releases pass, and some that are 5 % slower as well; they stop half of those that are 20
#   % slower. The margin is a decision about how much harm to tolerate, not about statistics.

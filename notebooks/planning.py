# %% [markdown]
# # How long should a test be, with how many pods, and how should we roll out?
#
# Before the next release of `cart` is tested: is half an hour enough? What would more pods gain? And which way to roll
# out exposes the fewest users to a regression?
#
# The plan is based on the variance of stored runs: here of two simulated releases with three pods per arm.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import altair as alt
import pandas as pd

from evaluator.figures import draw_plan
from evaluator.pipeline.hindsight import find_history
from evaluator.pipeline.simulating import land_simulated
from evaluator.planning import Goal, compare_strategies, plan_gates, tabulate
from evaluator.policy import parse_policy
from evaluator.records import Release, Service
from evaluator.simulate import Scenario, simulate
from evaluator.store import Store

alt.renderers.enable("svg")  # drawn without network access

folder = TemporaryDirectory()
store = Store.open(Path(folder.name, "evaluator.duckdb"), create=True)
cart = Scenario(duration_s=900, rate_per_s=50, users=30, instances=(3,), failure_rate=0.0003)
for number in (1, 2):
    service = Service("cart", baseline=f"1.{number - 1}", canary=f"1.{number}")
    runs = land_simulated(store, Release(f"cart@1.{number}", (service,)), simulate(cart, seed=number))
policy = parse_policy({})
history = find_history(store, policy, "cart@1.2", rate_per_s=50, instances=3)
print(f"{history.comparisons} stored comparisons, {history.rate_per_s:.0f} requests per second and arm")

# %% [markdown]
# ## Half an hour with three pods per arm?
#
# `evaluator plan cart@1.2 --duration 30m --instances 3 --regression 25%` prints the same.

# %%
goal = Goal(duration_s=1800, instances=3, regression=0.25)


def tabulate_gates(goal):
    """What a test would show, a row for each gate."""
    plans = plan_gates(history, policy.rulebook, goal)
    rows = [
        {
            "gate": plan.precision.rule.name,
            "margin": plan.precision.rule.margin.value,
            "detects": plan.finds,
            "chance to detect it": plan.found_chance,
            "GO if unchanged": plan.go_chance,
            "only pods shrink": plan.persistent,
            "GO after, min": plan.go_after_s / 60,
        }
        for plan in plans
    ]
    return pd.DataFrame(rows).set_index("gate").round(3)


tabulate_gates(goal)

# %% [markdown]
# The median and p99 stay undecided in every fifth release that changed nothing. About 70 % of the variance of the
# latency gates comes from differences between pods of one version: more minutes do not reduce this part.
#
# ## What more minutes gain, and what only more pods gain

# %%
hours = Goal(duration_s=4 * 1800, instances=3, regression=0.25)
pods = Goal(duration_s=1800, instances=6, regression=0.25)
tests = {"3 + 3 pods, 30 min": goal, "3 + 3 pods, 2 h": hours, "6 + 6 pods, 30 min": pods}
compared = pd.concat([tabulate_gates(one).assign(test=name) for name, one in tests.items()]).reset_index()
alt.Chart(compared, width=150, height=110).mark_bar().encode(
    x=alt.X("GO if unchanged:Q", axis=alt.Axis(format="%", tickCount=3), scale=alt.Scale(domain=[0, 1])),
    y=alt.Y("test:N", sort=list(tests), title=None),
    color=alt.Color("test:N", sort=list(tests), legend=None, scale=alt.Scale(range=["#b8c6d6", "#7d98b8", "#c2570c"])),
    column=alt.Column("gate:N", title=None),
)

# %% [markdown]
# For latency, half an hour with twice the pods gains more than two hours with the old number.
#
# ## How to roll out?
#
# Each strategy is simulated 2,000 times with the judge's looks: for a release that changes nothing, and for one that is
# 25 % slower.

# %%
plans = plan_gates(history, policy.rulebook, pods)
grids = tabulate(history, policy.rulebook, pods, [600, 1800, 3600, 7200], [3, 6, 12])
strategies = compare_strategies(history, policy.rulebook, pods)
draw_plan(plans, grids, strategies)

# %%
pd.DataFrame(
    {
        "strategy": one.strategy,
        "full after, min": one.full_after_s / 60,
        "unchanged completes": one.completes,
        "regression stopped": one.stopped,
        "left to a person": one.held,
        "requests exposed": round(one.exposed),
    }
    for one in strategies
).set_index("strategy").round(2)

# %% [markdown]
# ## What to conclude
#
# - Use twice the pods, not twice the time: a longer test does not reduce the differences between pods of one version.
# - A canary exposes a fifth of the requests that the big bang exposes, and takes two hours. Blue-green exposes none, if
#   test traffic shows the same problems as production; otherwise that row is too optimistic.
# - A person still has to decide on one in ten releases that changed nothing. More pods or wider margins reduce this.
# - The plan is as good as its history, which is two releases here. Plan again when more are stored.

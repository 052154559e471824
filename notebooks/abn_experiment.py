# %% [markdown]
# # An A/B/n experiment, with less variance and by segment
#
# Two new checkouts, B and C, run at the same time as the old one. Does one of them make users spend more, and on all
# devices?
#
# The users are simulated, so the answer is known: B has no effect; C raises spending by 6 %, but on mobile only. This
# number of users does not always show the effect: with another seed the verdict may stay undecided.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import altair as alt
import numpy as np
import pandas as pd
import statsmodels.formula.api as smf

import evaluator
from evaluator.figures import color_arms
from evaluator.pipeline.importing import import_outcomes
from evaluator.records import OutcomeOptions, Release
from evaluator.store import Store

alt.renderers.enable("svg")  # drawn without network access

rng = np.random.default_rng(11)
users = pd.DataFrame({"user_id": np.arange(12_000)})
users["variant"] = rng.choice(["A", "B", "C"], len(users))
users["device"] = rng.choice(["mobile", "desktop"], len(users), p=[0.6, 0.4])
taste = rng.lognormal(3, 0.6, len(users))  # what a user tends to spend, before the test and in it
lift = np.where((users["variant"] == "C") & (users["device"] == "mobile"), 1.06, 1.0)
users["spent_pre"] = taste * rng.lognormal(0, 0.3, len(users))
users["bought"] = rng.random(len(users)) < 0.9
users["spent"] = users["bought"] * taste * lift * rng.lognormal(0, 0.3, len(users))
users.groupby("variant")[["bought", "spent", "spent_pre"]].mean().round(3)

# %% [markdown]
# ## Land the outcomes
#
# There is one row per user; `spent_pre` is known from before the test. `evaluator import shop@2 --outcomes
# users.parquet` does the same. Each segment is a release of its own, selected by a query over the file.

# %%
folder = TemporaryDirectory()
table, path = Path(folder.name, "users.parquet"), Path(folder.name, "evaluator.duckdb")
users.to_parquet(table)
store = Store.open(path, create=True)
for name, where in (("all", "true"), ("mobile", "device = 'mobile'"), ("desktop", "device = 'desktop'")):
    query = f"SELECT * EXCLUDE device FROM outcomes WHERE {where}"
    landed, facts, plan = import_outcomes(store, Release(f"shop@2-{name}"), [str(table)], OutcomeOptions(), query=query)
shop = evaluator.open(path)

# %% [markdown]
# ## Is one of them better?
#
# `margin: 0%` requires proof that spending *rises*; conversion must not fall by more than 2 points. The spread of the
# mean is too large to show anything: C is ahead, but its interval reaches below 0.

# %%
CONVERSION = {"name": "conversion", "type": "outcome_proportion", "outcome": "bought", "margin": "2pp"}
SPENT = {"name": "spent", "type": "outcome_mean", "outcome": "spent", "margin": "0%"}
CUPED = {**SPENT, "covariates": ["spent_pre"]}

plain = shop.release("shop@2-all").compare([CONVERSION, SPENT])
plain

# %% [markdown]
# ## The same users, less variance
#
# What users spent before the test predicts much of what they spend in it, in every arm. Regression on that covariate
# (CUPED is the case of one covariate) removes this part of the variance, and the same users are enough for a decision.

# %%
cuped = shop.release("shop@2-all").compare([CONVERSION, CUPED])
cuped

# %%
[row.method for row in cuped.comparisons if row.rule.name == "spent"]

# %% [markdown]
# Your own regression gives the same result: one row per user, standard errors that are robust to unequal variances, and
# a slope for each arm. `C(variant)[T.C]` is what C adds to the spending of a user, in money.

# %%
centred = users.assign(before=users["spent_pre"] - users["spent_pre"].mean())
fit = smf.ols("spent ~ C(variant) * before", centred).fit(cov_type="HC2")
fit.summary2().tables[1].round(4)

# %% [markdown]
# ## On all devices?

# %%
judged = {"all, plain": plain, "all, CUPED": cuped} | {
    f"{name}, CUPED": shop.release(f"shop@2-{name}").compare([CONVERSION, CUPED]) for name in ("mobile", "desktop")
}
rows = pd.concat([one.to_pandas().assign(users=name) for name, one in judged.items()])
rows = rows[rows["metric"] == "spent"].assign(label=lambda frame: frame["users"] + " · " + frame["arm"])
rows[["users", "arm", "effect", "lower", "upper", "status"]].round(3)

# %%
colors = color_arms(["B", "C"])
base = alt.Chart(rows, width=560, title="C makes users spend more, on mobile; B shows no difference from A").encode(
    y=alt.Y("label:N", sort=None, title=None),
    color=alt.Color("arm:N", scale=alt.Scale(domain=["B", "C"], range=[colors["B"], colors["C"]]), legend=None),
)
x = alt.X("lower:Q", title="change of spending against A, with its 90 % interval", axis=alt.Axis(format="+.0%"))
zero = alt.Chart(pd.DataFrame({"at": [0]})).mark_rule(color="#5b6773").encode(x="at:Q")
dots = base.mark_point(filled=True, size=80, opacity=1).encode(x="effect:Q")
zero + base.mark_rule(strokeWidth=3).encode(x=x, x2="upper:Q") + dots

# %% [markdown]
# ## Which would you choose?
#
# In addition to the test there is a Bayesian view. It decides nothing, but answers the question as it is often asked.

# %%
views = [(row.arm, row.view) for row in cuped.comparisons if row.rule.name == "spent" and row.view]
pd.DataFrame(
    [{"arm": arm, "best of all": view.p_best, "differs (Dunnett's p)": view.p_dunnett} for arm, view in views]
).round(3)

# %% [markdown]
# ## What to conclude
#
# - Ship C. B is within the noise: it is not shown to be better.
# - The covariate has nearly the effect of twice the users. It must be a value from *before* the test.
# - The gain is on mobile. On desktop nothing is shown, but a segment is a smaller test, so this does not prove that
#   there is no effect. Segments chosen after seeing the data are ideas for the next test, not results of this one.

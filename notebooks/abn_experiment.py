# %% [markdown]
# # An A/B/n experiment, with less variance and by segment
#
# Two new checkouts, B and C, run beside the old one. Does one of them make users spend more, and does it do so
# everywhere?
#
# The users are simulated, so that the answer is known: B does nothing; C raises spending by 6 %, but on mobile only.
# So few users do not always show it: another seed may leave it open, which is an answer too.

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

alt.renderers.enable("svg")  # drawn here, without network

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
# ## Land them
#
# One row a user; `spent_pre` is known from before the test. `evaluator import shop@2 --outcomes users.parquet` does
# the same. A segment is a release of its own, picked by a query over the file.

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
# `margin: 0%` asks for proof that spending *rises*; conversion only must not fall by more than 2 points. With a mean
# of this spread nothing is shown: C is ahead, but its interval reaches below 0.

# %%
CONVERSION = {"name": "conversion", "type": "outcome_proportion", "outcome": "bought", "margin": "2pp"}
SPENT = {"name": "spent", "type": "outcome_mean", "outcome": "spent", "margin": "0%"}
CUPED = {**SPENT, "covariates": ["spent_pre"]}

plain = shop.release("shop@2-all").compare([CONVERSION, SPENT])
plain

# %% [markdown]
# ## The same users, less variance
#
# What users spent before the test tells much of what they spend in it, whatever they are shown. Regression on it
# (CUPED is the case of one covariate) takes that part away, and the same users decide.

# %%
cuped = shop.release("shop@2-all").compare([CONVERSION, CUPED])
cuped

# %%
[row.method for row in cuped.comparisons if row.rule.name == "spent"]

# %% [markdown]
# A regression of your own says the same: one row a user, errors that are robust to unequal variances, and slopes of
# each arm. `C(variant)[T.C]` is what C adds to the spending of a user, in money.

# %%
centred = users.assign(before=users["spent_pre"] - users["spent_pre"].mean())
fit = smf.ols("spent ~ C(variant) * before", centred).fit(cov_type="HC2")
fit.summary2().tables[1].round(4)

# %% [markdown]
# ## Everywhere?

# %%
judged = {"all, plain": plain, "all, CUPED": cuped} | {
    f"{name}, CUPED": shop.release(f"shop@2-{name}").compare([CONVERSION, CUPED]) for name in ("mobile", "desktop")
}
rows = pd.concat([one.to_pandas().assign(users=name) for name, one in judged.items()])
rows = rows[rows["metric"] == "spent"].assign(label=lambda frame: frame["users"] + " · " + frame["arm"])
rows[["users", "arm", "effect", "lower", "upper", "status"]].round(3)

# %%
colors = color_arms(["B", "C"])
base = alt.Chart(rows, width=560, title="C makes users spend more, on mobile; B is not told from A").encode(
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
# Beside the test there is a Bayesian view. It decides nothing, but answers the question as it is often asked.

# %%
views = [(row.arm, row.view) for row in cuped.comparisons if row.rule.name == "spent" and row.view]
pd.DataFrame(
    [{"arm": arm, "best of all": view.p_best, "differs (Dunnett's p)": view.p_dunnett} for arm, view in views]
).round(3)

# %% [markdown]
# ## What to conclude
#
# - Ship C. B is within the noise: neither shown to be better nor asked for.
# - The covariate was worth nearly as much as twice the users. It may only be something from *before* the test.
# - The gain is on mobile. On desktop nothing is shown; a segment is a smaller test, so that is no proof of no effect.
#   Segments chosen after looking are ideas for the next test, not results of this one.

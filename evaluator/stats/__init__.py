"""How to compare: pure functions of arrays. No I/O, no policy, no clock. `docs/method.md` explains the whole.

- `shaping` brings data into arrays: `cells` selects and merges, `panel` puts what was counted on a common time axis.
- `variance` says how sure a level is: over time (`longrun`), over instances, by history, and together (`uncertainty`).
- `inference` tests single numbers (`score`, `student`), and says what looking early costs (`sequential`, `calendar`).
- `estimators` compare two arms over time: `contrast` leads from levels to an `Estimate`; `means`, `differences`,
  `typical`, `failures`, `rates` and `quantiles` name what is compared.
- `outcomes` compare units, which have no time axis.
"""

"""How to compare: pure functions of arrays, without I/O, policy or clock.

docs/method.md explains the method: "method B.2" in a docstring is its section B.2.

- `shaping` brings data into arrays: `cells` selects and merges, `panel` puts counts on a common time axis.
- `variance` computes how uncertain a level is: over time (`longrun`), between instances (`instances`), from earlier
  runs (`history`), and all together (`uncertainty`).
- `inference` tests single numbers (`score`, `student`), and computes what early looks cost (`sequential`, `calendar`).
- `estimators` compare two arms over time: `contrast` turns two levels into an `Estimate`; `means`, `differences`,
  `typical`, `failures`, `rates` and `quantiles` compute the levels.
- `outcomes` compares units, which have no time axis.
"""

"""The guard: a small process that returns traffic to the baseline within seconds, whatever becomes of the driver.

While users meet a candidate, only this process sets shares. `setup` has what it is asked for and what it answers,
`client` asks it, `server` and `rollouts` are the process.
"""

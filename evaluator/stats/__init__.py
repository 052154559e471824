"""How to compare: pure functions of arrays. No I/O, no policy, no clock.

`panel` lays cells out on a common time axis, `strata` weighs endpoints and time, `longrun`, `instances` and
`uncertainty` say how sure a level is, and `means`, `quantiles`, `failures` and `rates` compare. `docs/method.md`
explains the whole.
"""

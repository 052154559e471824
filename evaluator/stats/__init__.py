"""How to compare: pure functions of arrays. No I/O, no policy, no clock.

`cells` selects and merges; `panel` puts what was counted on a common time axis; `strata` weighs endpoints and time;
`longrun`, `instances` and `uncertainty` say how sure a level is; `contrast` leads from levels to an `Estimate`, and
`means`, `differences`, `typical`, `failures`, `rates` and `quantiles` name what is compared. `sequential` and
`calendar` say what looking early costs. `docs/method.md` explains the whole.
"""

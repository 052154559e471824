"""Was traffic assigned in the planned shares? Does one arm have too many of the failures (method B.6)?

Both tests are e-processes: the wealth of a bet against the null hypothesis. With probability 1 - alpha it stays below
1/alpha, for any number of looks.

Sources: Lindon & Malek (2022), "Anytime-valid inference for multinomial count data", NeurIPS (sample ratio);
Ramdas, Grünwald, Vovk & Shafer (2023), Statistical Science 38, 576-601 (e-processes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

CONCENTRATIONS = (10.0, 100.0, 1000.0, 10_000.0)
"""Concentrations of the Dirichlet bets; a higher one expects smaller deviations. The wealth is spread evenly."""


def log_wealth_of_ratio(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Return the log wealth against "units are assigned in these shares" (Lindon & Malek 2022).

    It is the log of an average of multinomial-Dirichlet Bayes factors. If shares change during a ramp, add the log
    wealths of its phases.

    Args:
        counts: Units of each arm.
        shares: Planned share of each arm; only their ratios matter.

    >>> log_wealth_of_ratio([500, 500], [0.5, 0.5]) < 0 < log_wealth_of_ratio([600, 400], [0.5, 0.5])
    True
    """
    bets, total = [], sum(shares)
    for concentration in CONCENTRATIONS:
        wealth = math.lgamma(concentration) - math.lgamma(concentration + sum(counts))
        for count, share in zip(counts, shares, strict=True):
            prior = concentration * share / total
            wealth += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share / total)
        bets.append(wealth)
    best = max(bets)
    return best + math.log(sum(math.exp(bet - best) for bet in bets) / len(bets))


def log_wealth_of_excess(failures: int, total: int, share: float) -> float:
    """Return the log wealth against "at most this share of all failures is the candidate's" (Ramdas et al. 2023).

    It bets uniformly on all larger shares.

    Args:
        failures: Failures of the candidate.
        total: Failures of both arms; without any, the result is 0.
        share: The candidate's share of the requests, in (0, 1).

    >>> round(log_wealth_of_excess(5, 5, 0.5), 2), log_wealth_of_excess(0, 5, 0.5) < 0
    (2.35, True)
    """
    if total == 0:
        return 0.0
    from scipy.special import betaincc

    above = float(betaincc(failures + 1, total - failures + 1, share))
    if above <= 0:
        return -math.inf
    area = math.lgamma(failures + 1) + math.lgamma(total - failures + 1) - math.lgamma(total + 2)
    null = failures * math.log(share) + (total - failures) * math.log1p(-share)
    return area + math.log(above) - math.log1p(-share) - null

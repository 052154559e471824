"""Was traffic assigned in the shares that were meant? And are failures piling up on one side?

Both are e-processes: wealth of a bet against the null, which stays below 1/alpha with probability 1 - alpha however
often it is looked at.

Sources: Lindon & Malek (2022), "Anytime-valid inference for multinomial count data", NeurIPS (sample ratio);
Ramdas, Grünwald, Vovk & Shafer (2023), Statistical Science 38, 576-601 (e-processes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

CONCENTRATIONS = (10.0, 100.0, 1000.0, 10_000.0)
"""How close to the shares the alternative is expected to be: the wealth is spread evenly over these bets."""


def log_wealth_of_ratio(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Log wealth against "units are assigned with these shares": multinomial-Dirichlet Bayes factors, averaged.

    Phases of a ramp have shares of their own: their wealths multiply, so their logs add up.

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
    """Log wealth against "of all failures at most this share falls on the candidate": a uniform bet on every excess.

    `failures` of `total` are the candidate's; `share` is its share of the requests, in (0, 1).

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

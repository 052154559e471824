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
    """Return the log of the wealth of a bet against "units are assigned in these shares" (Lindon & Malek 2022).

    Wealth is evidence that may be looked at at any time: it starts at 1 (log 0), grows if the shares are wrong, and if
    they are right it exceeds 1/alpha with a probability of at most alpha. It is an average of multinomial-Dirichlet
    Bayes factors (how much more likely the counts are if the shares are random). If shares change during a ramp, add
    the log wealths of its phases.

    Args:
        counts: Units of each arm.
        shares: Planned share of each arm; only their ratios matter.

    >>> log_wealth_of_ratio([500, 500], [0.5, 0.5]) < 0 < log_wealth_of_ratio([600, 400], [0.5, 0.5])
    True
    """
    log_wealths, sum_of_shares = [], sum(shares)
    for concentration in CONCENTRATIONS:
        log_wealth = math.lgamma(concentration) - math.lgamma(concentration + sum(counts))
        for count, share in zip(counts, shares, strict=True):
            prior = concentration * share / sum_of_shares  # parameter of this arm
            log_wealth += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share / sum_of_shares)
        log_wealths.append(log_wealth)
    # The log of the mean; divided by the largest wealth, so that no exponential overflows.
    largest = max(log_wealths)
    return largest + math.log(sum(math.exp(log_wealth - largest) for log_wealth in log_wealths) / len(log_wealths))


def log_wealth_of_excess(failures: int, total: int, share: float) -> float:
    """Return the log of the wealth of a bet against "at most this share of all failures is the candidate's".

    Wealth is evidence that may be looked at at any time: it starts at 1 (log 0), and if the claim is true, it exceeds
    1/alpha with a probability of at most alpha (Ramdas et al. 2023). The bet is on all larger shares, uniformly.

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

    # The likelihood of the failures, averaged over all shares above `share`, divided by the likelihood at `share`. Its
    # integral over all shares is a beta function, of which `part_above` lies above `share`.
    part_above = float(betaincc(failures + 1, total - failures + 1, share))
    if part_above <= 0:
        return -math.inf
    log_integral = math.lgamma(failures + 1) + math.lgamma(total - failures + 1) - math.lgamma(total + 2)
    log_likelihood = failures * math.log(share) + (total - failures) * math.log1p(-share)
    return log_integral + math.log(part_above) - math.log1p(-share) - log_likelihood

"""Comparisons of two arms over time: each takes a panel and a design, and returns an `Estimate`."""

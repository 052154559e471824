"""Comparisons of two arms over time: each takes a `Panel` and a `Design`, and returns an `Estimate`."""

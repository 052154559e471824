"""Comparisons of outcomes of units, which have no time axis and so need no panel."""

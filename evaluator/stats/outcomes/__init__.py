"""Comparisons of outcomes of units, which have no time axis: they share the answer with the others, not the panel."""

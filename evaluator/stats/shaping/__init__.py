"""Bring data into the arrays that comparisons need: cells, panels, readings, and the account of what is left out."""

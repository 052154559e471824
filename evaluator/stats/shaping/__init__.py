"""Data brought into the arrays that comparisons start from: cells, panels, readings, and what is left out of them."""

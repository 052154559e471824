"""Tests and intervals of single numbers, and the cost of looking more than once."""

"""Tests and intervals of single numbers, and what looking more than once costs."""

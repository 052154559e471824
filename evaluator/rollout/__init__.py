"""Rollouts: a release goes through stages, and each step is allowed by evidence.

What comes next is a pure function of the plan, the events until now, and the time (`deciding.py`); what the events mean
is a pure fold (`progress.py`). Both are small enough for a test to go through all that can happen.
"""

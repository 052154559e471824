"""The server of the app: it opens the port, decides which connections may act, and ends its threads with itself.

Pages are in `evaluator.ui`, which knows this package. Here they have a name only: `server` loads them ahead.
"""

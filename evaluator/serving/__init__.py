"""The server of the app: it opens the port, decides which connections may act, and ends its threads with itself.

Pages are in `evaluator.ui`, which Streamlit loads when the first of them is opened. Here nothing of them is imported.
"""

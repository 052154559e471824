"""Golden verdicts: the same inputs judged by two revisions of the code must give the same words and numbers.

    cd tests
    python -m golden.run --out /tmp/before --evaluator ../../the-other-checkout
    python -m golden.run --out /tmp/after
    python -m golden.compare /tmp/before /tmp/after

Inputs are files as a user would have them, written from a seed with numpy, csv and json alone: nothing of the package
makes them, so they stay as they are when it changes.
"""
